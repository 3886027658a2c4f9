//! Every system that is installed carries messages: one short flow and one short round trip each, no
//! figures; every store keeps them.

use std::{path::PathBuf, time::Duration};

use twinlane_rivals::{
    measure::{Plan, Wait, Workload},
    setup,
    system::{AnySystem, Setup},
    systems,
};

fn a_setup() -> Setup {
    let twinlane = std::env::var_os("RIVALS_TWINLANE").map_or_else(setup::default_twinlane, PathBuf::from);
    Setup {
        payload_bytes: 0,
        subscribers: 0,
        harness: PathBuf::from(env!("CARGO_BIN_EXE_rivals")),
        twinlane,
        twinlane_args: Vec::new(),
        directory: std::env::temp_dir(),
    }
}

fn short(workload: Workload) -> Plan {
    Plan {
        workload,
        payload_bytes: workload.payload_bytes(),
        warmup: Duration::from_millis(50),
        window: Duration::from_millis(200),
        rate: workload.headline().1.then_some(20_000),
        wait: Wait::default(),
    }
}

/// Runs `workload` on everything that is installed, one after the other: they share the machine.
fn try_all(workload: Workload, check: impl Fn(&dyn AnySystem, &twinlane_rivals::measure::Figures)) {
    let setup = a_setup();
    let mut failures = Vec::new();
    for system in systems::all().iter().filter(|system| system.takes_part(workload)) {
        if let Some(missing) = system.missing(&setup) {
            eprintln!("{} is skipped: {missing}", system.name());
            continue;
        }
        match system.measure(&short(workload), &setup) {
            Ok(figures) => check(system.as_ref(), &figures),
            Err(error) => failures.push(format!("{error:#}")),
        }
    }
    assert!(failures.is_empty(), "{failures:#?}");
}

#[test]
fn every_installed_system_delivers_what_was_sent() {
    try_all(Workload::Throughput, |system, figures| {
        assert!(figures.delivered > 0, "{} delivered nothing", system.name());
        assert_eq!(figures.owed, figures.delivered + figures.lost, "{}", system.name());
    });
}

#[test]
fn every_installed_system_brings_a_message_back_to_its_sender() {
    try_all(Workload::Roundtrip, |system, figures| {
        assert!(figures.latency.is_some(), "nothing came back from {}", system.name());
    });
}

#[test]
fn every_installed_store_has_after_a_kill_what_it_acknowledged() {
    try_all(Workload::Durable, |system, figures| {
        assert!(figures.delivered > 0, "{} kept nothing", system.name());
        // JetStream acknowledges what it has not written yet.
        let may_lose = system.name().starts_with("jetstream");
        assert!(may_lose || figures.lost == 0, "{} lost {}", system.name(), figures.lost);
    });
}

#[test]
fn lean_clients_lose_nothing_on_the_way_to_sixteen_subscribers() {
    let setup = a_setup();
    for system in
        systems::all().iter().filter(|system| ["tcp-relay", "nats-lean", "redis"].contains(&system.name()))
    {
        if let Some(missing) = system.missing(&setup) {
            eprintln!("{} is skipped: {missing}", system.name());
            continue;
        }
        let figures = system.measure(&short(Workload::Fanout16), &setup).unwrap();
        assert_eq!(figures.lost, 0, "{}", system.name());
    }
}
