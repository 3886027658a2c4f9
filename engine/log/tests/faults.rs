//! Faults that are planted do what they are planted for: each breaks the promise it is named after.
#![cfg(feature = "faults")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod common;

use std::path::Path;
use std::sync::Arc;

use common::disk::{Crash, SimDisk};
use common::{Outcome, Random, declare, frame, origin, payload, publish, small};
use twinlane_log::{Entry, Fault, Log, Recovered};

fn open(disk: &SimDisk) -> (Log, Recovered) {
    Log::open_on(Arc::new(disk.clone()), Path::new("/log"), small()).unwrap()
}

/// Faults are of the process and for good, so they come one after the other, each after a look without it.
#[test]
fn each_fault_breaks_its_promise() {
    let disk = SimDisk::default();
    let (log, _) = open(&disk);
    declare(&log, 1);
    publish(&log, 1, 1, &frame(0xee, 60)).unwrap();
    disk.edit("segment-0000000000000001.log", |bytes| {
        let at = payload(bytes, 0xee);
        bytes[at] = 0;
    });
    assert!(log.read(1, 0, 100, &mut Vec::new()).is_err());
    Log::plant(Fault::NoCrc);
    let mut frames = Vec::new();
    log.read(1, 0, 100, &mut frames).unwrap();
    assert_ne!(frames, frame(0xee, 60), "wrong bytes are delivered");

    Log::plant(Fault::AckEarly);
    disk.fail_at(disk.calls() + 1);
    let early = Arc::new(Outcome::default());
    let run = Entry::Run { topic: 1, origin: origin(2), frames: 1, bytes: &frame(2, 60) };
    log.append(&[run], Some(early.clone())).unwrap();
    drop(log);
    assert_eq!(early.get(), Some(Ok(vec![1])), "told before the disk was asked");

    Log::plant(Fault::IgnoreEio);
    disk.reboot(Crash::Keeps, &mut Random::seeded(0));
    let (log, _) = open(&disk);
    disk.fail_at(disk.calls() + 1);
    assert!(publish(&log, 1, 2, &frame(2, 60)).is_ok(), "a failed write was taken for a good one");
    drop(log);

    Log::plant(Fault::NoSync);
    let disk = SimDisk::default();
    let (log, _) = open(&disk);
    declare(&log, 1);
    assert_eq!(publish(&log, 1, 1, &frame(1, 60)), Ok(0));
    drop(log);
    disk.reboot(Crash::Forgets, &mut Random::seeded(0));
    assert_eq!(open(&disk).1.topics, [], "committed and forgotten");
}
