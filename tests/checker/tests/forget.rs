//! The forgetting disk against a small writer: what was synced is there after a crash, what was not is not.
#![allow(clippy::unwrap_used, reason = "in a test a failed step is a failed test")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;

use twinlane_checker::rollback::{Loss, Lost};
use twinlane_checker::shim::{Control, Shim, build_library};
use twinlane_tests::Seeded;

/// The writer: one word for each step; `x` writes 8 KiB of x to the file `log`.
const WRITER: &str = include_str!("../shim/writer.c");

/// Where the library and the writer are, built once.
fn programs() -> &'static Path {
    static PROGRAMS: OnceLock<tempfile::TempDir> = OnceLock::new();
    let dir = PROGRAMS.get_or_init(|| {
        let dir = tempfile::tempdir().unwrap();
        build_library(&dir.path().join("forget.so")).unwrap();
        let source = dir.path().join("writer.c");
        std::fs::write(&source, WRITER).unwrap();
        let built =
            Command::new("cc").arg("-o").args([&dir.path().join("writer"), &source]).output().unwrap();
        assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
        dir
    });
    dir.path()
}

struct World {
    dir: tempfile::TempDir,
    shim: Shim,
}

impl World {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("data");
        std::fs::create_dir(&data).unwrap();
        let shim = Shim::new(&programs().join("forget.so"), dir.path(), &data).unwrap();
        Self { dir, shim }
    }

    fn writer(&self, dir: &Path, steps: &[&str]) -> Output {
        let mut writer = Command::new(programs().join("writer"));
        writer.arg(dir).args(steps).envs(self.shim.environment()).stdin(Stdio::null()).output().unwrap()
    }

    fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    /// Runs the steps up to the kill.
    fn write(&self, steps: &[&str]) {
        let output = self.writer(&self.data(), steps);
        assert_eq!(output.status.code(), None, "{}", String::from_utf8_lossy(&output.stderr));
    }

    fn lose(&self, loss: Loss, seed: u64) -> Lost {
        self.shim.lose(loss, &mut Seeded::new(seed)).unwrap()
    }

    /// What is left after the steps, a kill and the loss of the page cache.
    fn left(steps: &[&str], loss: Loss, seed: u64) -> Option<Vec<u8>> {
        let world = Self::new();
        world.write(steps);
        world.lose(loss, seed);
        std::fs::read(world.data().join("log")).ok()
    }
}

fn letters(text: &str) -> Vec<u8> {
    text.bytes().flat_map(|letter| [letter; 8_192]).collect()
}

#[test]
fn what_a_sync_covers_survives_and_the_rest_does_not() {
    let steps = ["a", "names", "b", "sync", "c", "d"];
    assert_eq!(World::left(&steps, Loss::Whole, 1), Some(letters("ab")));
    assert_eq!(World::left(&["a", "names", "sync"], Loss::Whole, 1), Some(letters("a")));
}

#[test]
fn without_the_loss_of_the_page_cache_nothing_is_lost_until_it_comes() {
    let world = World::new();
    world.write(&["a", "names", "sync", "b"]);
    let log = || std::fs::read(world.data().join("log")).unwrap();
    assert_eq!(log(), letters("ab"), "a killed process loses nothing that it wrote");
    // Its next life syncs nothing, and then the power goes.
    world.write(&["z"]);
    world.lose(Loss::Whole, 1);
    assert_eq!(log(), letters("a"));
}

#[test]
fn a_later_sync_covers_what_an_earlier_life_wrote() {
    let world = World::new();
    world.write(&["a", "names", "sync", "b"]);
    world.write(&["again", "sync"]);
    world.lose(Loss::Whole, 1);
    assert_eq!(std::fs::read(world.data().join("log")).unwrap(), letters("zb"));
}

#[test]
fn a_torn_loss_keeps_some_sectors_whole() {
    let mut kept = 0;
    for seed in 0..8 {
        let left = World::left(&["a", "names", "allocate", "sync", "b", "c"], Loss::Torn, seed).unwrap();
        assert_eq!((left.len(), &left[..8_192]), (1 << 16, &letters("a")[..]), "seed {seed}");
        for sector in left[8_192..3 * 8_192].chunks(512) {
            assert!(sector.iter().all(|byte| *byte == sector[0]), "seed {seed}: half a sector");
            kept += usize::from(sector[0] != 0);
        }
    }
    assert!((60..200).contains(&kept), "{kept} of 256 sectors survived");
}

#[test]
fn a_zeroed_loss_keeps_the_length_and_a_front() {
    for seed in 0..8 {
        let left = World::left(&["a", "names", "sync", "b", "c"], Loss::Zeroed, seed).unwrap();
        assert_eq!(left.len(), 3 * 8_192);
        let front = left.iter().position(|byte| *byte == 0).unwrap_or(left.len());
        assert!(front >= 8_192 && left[front..].iter().all(|byte| *byte == 0), "seed {seed}");
        assert_eq!(left[..front], letters("abc")[..front], "seed {seed}");
    }
}

#[test]
fn what_was_only_written_again_as_it_was_is_in_no_danger() {
    for loss in [Loss::Whole, Loss::Torn, Loss::Zeroed] {
        for seed in 0..8 {
            let world = World::new();
            world.write(&["a", "b", "names", "sync"]);
            world.lose(loss, seed);
            // Its next life writes what is durable once more and dies before its sync.
            world.write(&["a"]);
            let lost = world.lose(loss, seed);
            let left = std::fs::read(world.data().join("log")).unwrap();
            assert!(left == letters("ab"), "{loss:?}, seed {seed}: a durable byte is gone");
            assert_eq!(lost.bytes, 0, "{loss:?}, seed {seed}");
        }
    }
}

#[test]
fn what_was_written_again_over_what_no_sync_covered_is_in_danger_as_before() {
    for loss in [Loss::Whole, Loss::Zeroed] {
        for fails in [false, true] {
            let world = World::new();
            // The directory's sync is the first one.
            world.shim.set(Control::FailSyncIn, 2 * u64::from(fails)).unwrap();
            world.write(if fails { &["a", "names", "try-sync"] } else { &["a", "names"] });
            world.write(&["a"]);
            let lost = world.lose(loss, 1);
            let left = std::fs::read(world.data().join("log")).unwrap();
            let kept = left.iter().filter(|byte| **byte == b'a').count();
            assert!(kept < 8_192, "{loss:?}, a sync fails: {fails}: all of it is there");
            assert_eq!(lost.bytes, (8_192 - kept) as u64, "{loss:?}, a sync fails: {fails}");
        }
    }
}

#[test]
fn behind_what_was_written_again_a_zeroed_loss_takes_what_is_new() {
    let mut zeroes = 0;
    for seed in 0..8 {
        let world = World::new();
        world.write(&["a", "b", "names", "sync"]);
        world.write(&["a", "c", "d"]);
        let lost = world.lose(Loss::Zeroed, seed);
        let left = std::fs::read(world.data().join("log")).unwrap();
        assert_eq!(left.len(), 3 * 8_192, "seed {seed}");
        assert_eq!(left[..8_192], letters("a"), "seed {seed}");
        let front = left.iter().position(|byte| *byte == 0).unwrap_or(left.len());
        assert_eq!(left[..front], letters("acd")[..front], "seed {seed}");
        assert!(left[front..].iter().all(|byte| *byte == 0), "seed {seed}");
        assert_eq!(lost.bytes, (left.len() - front) as u64, "seed {seed}: what was zeroed is lost");
        zeroes += left.len() - front;
    }
    assert!(zeroes > 8_192, "{zeroes} bytes were zeroed");
}

#[test]
fn names_that_no_sync_of_their_directory_covers_vanish() {
    assert_eq!(World::left(&["a", "sync"], Loss::Whole, 1), None, "the file was synced, its name was not");
    assert_eq!(World::left(&["a", "sync", "names", "rename"], Loss::Whole, 1), Some(letters("a")));
    assert_eq!(World::left(&["a", "sync", "names", "remove"], Loss::Whole, 1), Some(letters("a")));
    assert_eq!(World::left(&["a", "sync", "names", "rename", "names"], Loss::Whole, 1), None);
    assert_eq!(World::left(&["a", "sync", "names", "remove", "names"], Loss::Whole, 1), None);
}

#[test]
fn a_cut_file_has_its_end_again() {
    assert_eq!(World::left(&["a", "names", "sync", "cut"], Loss::Whole, 1), Some(letters("a")));
    assert_eq!(World::left(&["a", "names", "sync", "cut", "sync"], Loss::Whole, 1).unwrap().len(), 100);
}

#[test]
fn what_a_failed_sync_should_have_covered_no_later_sync_covers() {
    let world = World::new();
    // The directory's sync is the first one.
    world.shim.set(Control::FailSyncIn, 3).unwrap();
    world.write(&["a", "names", "sync", "b", "try-sync", "c", "sync"]);
    assert_eq!(world.shim.get(Control::Errors).unwrap(), 1);
    world.lose(Loss::Whole, 1);
    let left = std::fs::read(world.data().join("log")).unwrap();
    assert_eq!(left, [letters("a"), vec![0; 8_192], letters("c")].concat());
}

#[test]
fn the_nth_change_can_be_the_last() {
    let mut lengths = std::collections::BTreeSet::new();
    for nth in 1..9 {
        let world = World::new();
        world.shim.set(Control::KillIn, nth).unwrap();
        world.write(&["a", "names", "sync", "b", "sync", "c"]);
        let log = std::fs::read(world.data().join("log")).unwrap_or_default();
        lengths.insert(log.len());
    }
    assert!(lengths.len() >= 3, "{lengths:?}");
}

#[test]
fn files_elsewhere_are_left_alone() {
    let world = World::new();
    let elsewhere: &Path = world.dir.path();
    world.writer(elsewhere, &["a"]);
    world.lose(Loss::Whole, 1);
    assert_eq!(std::fs::read(elsewhere.join("log")).unwrap(), letters("a"));
}
