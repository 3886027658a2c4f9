//! Random histories against a model, on a disk that crashes. A failure prints its seed.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod common;

use common::disk::Crash;
use common::model::World;
use common::{Random, small};
use twinlane_log::LogConfig;

/// Appends and commits until `appends` records were tried, or the disk is down.
fn work(world: &mut World, appends: u64) {
    let mut left = appends;
    while left > 0 && !world.disk.is_down() {
        for _ in 0..(1 + world.random.below(8)).min(left) {
            world.append();
            left -= 1;
        }
        world.commit();
    }
}

fn bounded(config: LogConfig, segments: u64) -> LogConfig {
    let mut config = config;
    config.bytes_max = segments * config.segment_bytes;
    config
}

#[test]
fn whatever_happens_the_log_holds_what_the_model_holds() {
    let mut given_up = 0;
    for seed in 0..40 {
        let keeps = if seed % 3 == 0 { 0 } else { 200 };
        let mut world = World::new(seed, small(), keeps);
        world.open().unwrap();
        for life in 0..6 {
            let context = format!("seed {seed} life {life}");
            work(&mut world, 150);
            world.check_reads(&context);
            given_up += world.log.as_ref().map_or(0, |log| log.status().segments_given_up);
            let crash = [Crash::Forgets, Crash::Keeps, Crash::Tears][world.random.below(3) as usize];
            drop(world.log.take());
            let mut random = world.random.clone();
            world.disk.reboot(crash, &mut random);
            let recovered = world.open().unwrap_or_else(|error| panic!("{context} {crash:?}: {error}"));
            world.check(&recovered, &context);
        }
        assert!(world.messages() > 1_000, "seed {seed}: only {} messages", world.messages());
    }
    assert!(given_up > 50, "only {given_up} segments were given up");
}

#[test]
fn a_crash_at_any_disk_call_loses_nothing_committed_and_leaves_nothing_half_done() {
    for seed in 0..2 {
        let calls = {
            let mut world = World::new(seed, bounded(small(), 8), 100);
            world.open().unwrap();
            work(&mut world, 700);
            drop(world.log.take());
            world.disk.calls()
        };
        assert!(calls > 100, "seed {seed}: {calls} disk calls");
        // The odd calls of one history, the even ones of the other.
        for call in (1 + seed..=calls).step_by(2) {
            let crash = [Crash::Forgets, Crash::Keeps, Crash::Tears][(call % 3) as usize];
            let context = format!("seed {seed} call {call} {crash:?}");
            let mut world = World::new(seed, bounded(small(), 8), 100);
            world.disk.crash_at(call);
            if world.open().is_ok() {
                work(&mut world, 700);
            }
            drop(world.log.take());
            world.disk.reboot(crash, &mut Random::seeded(call));
            let recovered = world.open().unwrap_or_else(|error| panic!("{context}: {error}"));
            world.check(&recovered, &context);
            work(&mut world, 30);
            world.check_reads(&context);
            drop(world.log.take());
            world.disk.reboot(Crash::Forgets, &mut Random::seeded(call));
            let recovered = world.open().unwrap_or_else(|error| panic!("{context} again: {error}"));
            world.check(&recovered, &context);
        }
    }
}

#[test]
fn a_disk_call_that_fails_never_makes_a_lie_of_a_commit() {
    let calls = {
        let mut world = World::new(11, bounded(small(), 8), 100);
        world.open().unwrap();
        work(&mut world, 600);
        drop(world.log.take());
        world.disk.calls()
    };
    for call in 1..=calls {
        let context = format!("call {call}");
        let mut world = World::new(11, bounded(small(), 8), 100);
        world.disk.fail_at(call);
        if world.open().is_ok() {
            work(&mut world, 600);
            // Whatever failed, what was committed can be read.
            world.check_reads(&context);
        }
        drop(world.log.take());
        world.disk.reboot(Crash::Forgets, &mut Random::seeded(call));
        let recovered = world.open().unwrap_or_else(|error| panic!("{context}: {error}"));
        world.check(&recovered, &context);
    }
}
