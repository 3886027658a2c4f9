//! Puts files back to what a lost page cache would have left, from the journal of the forgetting disk.
//!
//! The process that wrote them is dead by then. What no sync covered is undone wholly, or survives by sectors, or
//! up to a point with zeroes after it; unsynced names vanish, new ones from the end. What was synced stays, also where
//! the same bytes were written over it once more.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use twinlane_tests::Seeded;

/// What disks write at once.
const SECTOR_BYTES: u64 = 512;
const HEAD_BYTES: usize = 40;

/// How a page cache is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// Nothing of what was not synced had reached the disk.
    Whole,
    /// Each sector had reached the disk or not.
    Torn,
    /// The files had their new lengths and their sectors only up to a point; zeroes follow.
    Zeroed,
}

impl Loss {
    /// One of them.
    pub fn random(random: &mut Seeded) -> Self {
        [Self::Whole, Self::Torn, Self::Zeroed][random.below(3) as usize]
    }
}

/// What was lost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lost {
    /// Changes in the journal, synced ones included.
    pub changes: u64,
    /// Bytes of files that are as they were before, or zeroes.
    pub bytes: u64,
    /// Bytes that survived although nothing had synced their last write.
    pub survived: u64,
    /// Names that are as they were before.
    pub names: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Write,
    Size,
    Sync,
    Lost,
    Create,
    Rename,
    Unlink,
}

#[derive(Debug)]
struct Entry {
    kind: Kind,
    seq: u64,
    inode: u64,
    a: u64,
    b: u64,
    bytes: Vec<u8>,
}

/// A sector, or what of it no sync covers, as the process that died saw it.
#[derive(Debug)]
struct Piece {
    at: u64,
    bytes: Vec<u8>,
    reached: bool,
}

/// Half-open ranges of bytes.
#[derive(Clone, Debug, Default)]
struct Ranges(BTreeMap<u64, u64>);

/// Undoes what `journal_dir`'s journal says is not synced below `data_dir`, and empties it.
///
/// # Errors
///
/// The files cannot be read or written, or the journal is damaged.
pub fn lose(data_dir: &Path, journal_dir: &Path, loss: Loss, random: &mut Seeded) -> io::Result<Lost> {
    let entries = read_journal(&journal_dir.join("journal"))?;
    let undone = not_covered(&entries);
    let mut lost = Lost { changes: entries.len() as u64, ..Lost::default() };
    let files = files_below(&[data_dir, journal_dir])?;
    let mut by_inode: BTreeMap<u64, Vec<&Entry>> = BTreeMap::new();
    for entry in entries.iter().filter(|entry| matches!(entry.kind, Kind::Write | Kind::Size)) {
        by_inode.entry(entry.inode).or_default().push(entry);
    }
    for (inode, changes) in by_inode {
        if let Some(path) = files.get(&inode)
            && changes.iter().any(|entry| undone.contains(&entry.seq))
        {
            undo_file(path, &changes, &undone, loss, random, &mut lost)?;
        }
    }
    let names: Vec<_> = entries
        .iter()
        .filter(|entry| matches!(entry.kind, Kind::Create | Kind::Rename | Kind::Unlink))
        .filter(|entry| undone.contains(&entry.seq))
        .collect();
    // A journalling file system keeps changes of names in their order.
    let kept = if loss == Loss::Whole { 0 } else { random.below(names.len() as u64 + 1) as usize };
    for entry in names[kept..].iter().rev() {
        undo_name(entry, journal_dir)?;
        lost.names += 1;
    }
    empty(journal_dir)?;
    Ok(lost)
}

/// Everything reached the disk after all: the journal begins anew.
///
/// # Errors
///
/// Its folder cannot be read or written.
pub fn empty(journal_dir: &Path) -> io::Result<()> {
    for file in fs::read_dir(journal_dir)? {
        fs::remove_file(file?.path())?;
    }
    Ok(())
}

fn read_journal(path: &Path) -> io::Result<Vec<Entry>> {
    let bytes = match fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other?,
    };
    let mut rest = &bytes[..];
    let mut entries = Vec::new();
    // The kill may have cut the last one: then its change was never made.
    while let Some((head, after)) = rest.split_first_chunk::<HEAD_BYTES>() {
        let (lows, highs) = head.split_at(8);
        let word = |at: usize| {
            highs[8 * at..].iter().take(8).rev().fold(0, |word, byte| word << 8 | u64::from(*byte))
        };
        let half = |at: usize| {
            lows[4 * at..].iter().take(4).rev().fold(0, |half, byte| half << 8 | u32::from(*byte))
        };
        let kind = match half(0) {
            1 => Kind::Write,
            2 => Kind::Size,
            3 => Kind::Sync,
            4 => Kind::Lost,
            5 => Kind::Create,
            6 => Kind::Rename,
            7 => Kind::Unlink,
            other => return Err(io::Error::other(format!("the journal holds an entry of kind {other}"))),
        };
        let Some((payload, next)) = after.split_at_checked(half(1) as usize) else { break };
        entries.push(Entry {
            kind,
            seq: word(0),
            inode: word(1),
            a: word(2),
            b: word(3),
            bytes: payload.to_vec(),
        });
        rest = next;
    }
    Ok(entries)
}

/// Seqs of the changes that no sync covers. What a failed sync should have covered no later one covers.
fn not_covered(entries: &[Entry]) -> HashSet<u64> {
    let mut open: HashMap<u64, Vec<u64>> = HashMap::new();
    let mut given_up = HashSet::new();
    for entry in entries {
        match entry.kind {
            Kind::Sync => {
                open.entry(entry.inode).or_default().retain(|seq| *seq > entry.a);
            }
            Kind::Lost => {
                let open = open.entry(entry.inode).or_default();
                given_up.extend(open.iter().copied().filter(|seq| *seq <= entry.a));
                open.retain(|seq| *seq > entry.a);
            }
            _ => open.entry(entry.inode).or_default().push(entry.seq),
        }
    }
    given_up.extend(open.into_values().flatten());
    given_up
}

fn files_below(dirs: &[&Path]) -> io::Result<HashMap<u64, PathBuf>> {
    let mut files = HashMap::new();
    let mut dirs: Vec<PathBuf> = dirs.iter().map(|dir| dir.to_path_buf()).collect();
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir)? {
            let path = entry?.path();
            let facts = fs::symlink_metadata(&path)?;
            if facts.is_dir() {
                dirs.push(path);
            } else if facts.is_file() {
                files.insert(facts.ino(), path);
            }
        }
    }
    Ok(files)
}

fn undo_file(
    path: &Path,
    changes: &[&Entry],
    undone: &HashSet<u64>,
    loss: Loss,
    random: &mut Seeded,
    lost: &mut Lost,
) -> io::Result<()> {
    let file = OpenOptions::new().read(true).write(true).open(path)?;
    let (touched, bytes) = unsynced(changes, undone, file.metadata()?.len());
    let pieces = pieces(&file, &touched, loss, random)?;
    let mut protected = Ranges::default();
    let mut size_is_synced = false;
    for change in changes.iter().rev() {
        match (change.kind, undone.contains(&change.seq)) {
            (Kind::Write, false) => protected.add(change.a, change.a + change.b),
            (Kind::Write, true) => {
                // Beyond the old end there was nothing, which reads as zeroes where the file stays long.
                let mut old = change.bytes.clone();
                old.resize(change.b as usize, 0);
                for (from, to) in
                    protected.outside(change.a, (change.a + change.b).min(file.metadata()?.len()))
                {
                    file.write_all_at(&old[(from - change.a) as usize..(to - change.a) as usize], from)?;
                }
            }
            (_, false) => size_is_synced = true,
            (_, true) if !size_is_synced => file.set_len(change.a)?,
            (_, true) => {}
        }
    }
    let mut survived = 0;
    for piece in pieces {
        if piece.reached || piece.is_in(&file)? {
            survived += piece.bytes.len() as u64;
            file.write_all_at(&piece.bytes, piece.at)?;
        } else if loss == Loss::Zeroed {
            file.write_all_at(&vec![0; piece.bytes.len()], piece.at)?;
        }
    }
    lost.bytes += bytes.saturating_sub(survived);
    lost.survived += survived;
    Ok(())
}

/// The bytes that no sync covers, as they are now, and how many.
fn unsynced(changes: &[&Entry], undone: &HashSet<u64>, file_bytes: u64) -> (Vec<(u64, u64)>, u64) {
    let mut protected = Ranges::default();
    let mut touched = Ranges::default();
    for change in changes.iter().rev().filter(|change| change.kind == Kind::Write) {
        let end = (change.a + change.b).min(file_bytes);
        if undone.contains(&change.seq) {
            protected.outside(change.a, end).into_iter().for_each(|(from, to)| touched.add(from, to));
        } else {
            protected.add(change.a, change.a + change.b);
        }
    }
    let ranges: Vec<_> = touched.0.into_iter().collect();
    let bytes = ranges.iter().map(|(from, to)| to - from).sum();
    (ranges, bytes)
}

/// Draws which of the touched pieces had reached the disk.
fn pieces(file: &File, touched: &[(u64, u64)], loss: Loss, random: &mut Seeded) -> io::Result<Vec<Piece>> {
    let mut sectors = Vec::new();
    for &(from, to) in touched {
        let mut at = from;
        while at < to {
            let end = ((at / SECTOR_BYTES + 1) * SECTOR_BYTES).min(to);
            sectors.push((at, end));
            at = end;
        }
    }
    let front = random.below(sectors.len() as u64 + 1) as usize;
    let mut pieces = Vec::new();
    for (index, (at, end)) in sectors.into_iter().enumerate() {
        let reached = match loss {
            Loss::Whole => false,
            Loss::Torn => random.chance(500),
            Loss::Zeroed => index < front,
        };
        let mut bytes = vec![0; (end - at) as usize];
        file.read_exact_at(&mut bytes, at)?;
        pieces.push(Piece { at, bytes, reached });
    }
    Ok(pieces)
}

impl Piece {
    /// Whether `file`, with its changes undone, has these bytes already. Then nothing can be lost here: of a block that
    /// it had before, a disk has the old bytes or the new ones, never zeroes. Without this, recovery that writes the
    /// log's end again to make sure of it would be blamed for a loss that no disk makes.
    fn is_in(&self, file: &File) -> io::Result<bool> {
        let mut before = vec![0; self.bytes.len()];
        match file.read_exact_at(&mut before, self.at) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
            other => other.map(|()| before == self.bytes),
        }
    }
}

fn undo_name(entry: &Entry, journal_dir: &Path) -> io::Result<()> {
    let kept = journal_dir.join(format!("kept-{}", entry.a));
    let missing_is_fine = |done: io::Result<()>| match done {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    };
    let path = |bytes: &[u8]| PathBuf::from(OsStr::from_bytes(bytes));
    match entry.kind {
        Kind::Create => missing_is_fine(fs::remove_file(path(&entry.bytes))),
        Kind::Unlink => {
            let name = path(&entry.bytes);
            // The kill may have come before the removal.
            if name.exists() { Ok(()) } else { fs::hard_link(kept, name) }
        }
        Kind::Rename => {
            let Some(zero) = entry.bytes.iter().position(|byte| *byte == 0) else {
                return Err(io::Error::other("the journal holds a renaming without names"));
            };
            let (old, new) = (path(&entry.bytes[..zero]), path(&entry.bytes[zero + 1..]));
            if old.exists() {
                return Ok(());
            }
            missing_is_fine(fs::rename(&new, &old))?;
            if entry.a != 0 { missing_is_fine(fs::hard_link(kept, new)) } else { Ok(()) }
        }
        Kind::Write | Kind::Size | Kind::Sync | Kind::Lost => Ok(()),
    }
}

impl Ranges {
    fn add(&mut self, mut from: u64, mut to: u64) {
        if from >= to {
            return;
        }
        let overlapping: Vec<_> = self
            .0
            .range(..=to)
            .rev()
            .take_while(|(_, end)| **end >= from)
            .map(|(begin, end)| (*begin, *end))
            .collect();
        for (begin, end) in overlapping {
            self.0.remove(&begin);
            (from, to) = (from.min(begin), to.max(end));
        }
        self.0.insert(from, to);
    }

    /// The parts of `from..to` that are in none of the ranges.
    fn outside(&self, mut from: u64, to: u64) -> Vec<(u64, u64)> {
        let mut parts = Vec::new();
        let first = self.0.range(..=from).next_back().map_or(from, |(begin, _)| *begin);
        for (begin, end) in self.0.range(first..to) {
            if *begin > from {
                parts.push((from, *begin));
            }
            from = from.max(*end);
        }
        if from < to {
            parts.push((from, to));
        }
        parts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_join_and_leave_out() {
        let mut ranges = Ranges::default();
        for (from, to) in [(10, 20), (30, 40), (15, 32), (50, 60), (60, 61), (5, 5)] {
            ranges.add(from, to);
        }
        assert_eq!(ranges.0, BTreeMap::from([(10, 40), (50, 61)]));
        assert_eq!(ranges.outside(0, 70), [(0, 10), (40, 50), (61, 70)]);
        assert_eq!(ranges.outside(12, 55), [(40, 50)]);
        assert_eq!(ranges.outside(12, 30), []);
        assert_eq!(Ranges::default().outside(1, 2), [(1, 2)]);
    }
}
