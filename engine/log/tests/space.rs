//! A disk that is really full. Needs the right to mount; says so and passes where that is missing.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod common;

use std::path::Path;
use std::process::Command;

use common::{declare, frame, numbers, publish, small};
use twinlane_log::{Failure, Log, Retention};

struct Mounted<'p>(&'p Path);

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.0).status();
    }
}

#[test]
fn a_full_file_system_refuses_messages_and_nothing_else() {
    let parent = tempfile::tempdir().unwrap();
    let mount = Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=400k,mode=700", "tmpfs"])
        .arg(parent.path())
        .output();
    if !mount.is_ok_and(|output| output.status.success()) {
        println!("skipped: a tmpfs cannot be mounted here");
        return;
    }
    let _mounted = Mounted(parent.path());
    let dir = parent.path().join("log");
    let (log, _) = Log::open(&dir, small()).unwrap();
    declare(&log, 1);
    let mut stored = 0;
    let refused = loop {
        match publish(&log, 1, stored + 1, &frame(stored, 1_000)) {
            Ok(offset) => assert_eq!(offset, stored),
            Err(why) => break why,
        }
        stored += 1;
    };
    assert_eq!(refused, Failure::NoSpace);
    assert!(stored > 200, "{stored}");
    assert_eq!(numbers(&log, 1, 0), (0..stored).collect::<Vec<_>>());
    drop(log);
    let (log, recovered) = Log::open(&dir, small()).unwrap();
    assert_eq!(recovered.topics[0].next, stored);
    log.set_retention(1, Retention { messages: 5, ..Retention::default() });
    for _ in 0..1_000 {
        assert_eq!(publish(&log, 1, stored + 1, &frame(stored, 1_000)), Ok(stored), "retention makes room");
        stored += 1;
    }
}
