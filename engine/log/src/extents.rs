//! A topic's messages as recovery meets them: originals in order, copies anywhere, some of them twice.
//! Ends as one gapless list of marks, or says which offsets are missing.

use crate::index::Mark;
use crate::scan::RunFacts;

/// Consecutive offsets, found one after the other.
struct Extent {
    first: u64,
    end: u64,
    last_time_us: u64,
    marks: Vec<Mark>,
}

#[derive(Default)]
pub(crate) struct Extents {
    list: Vec<Extent>,
    /// The extents that originals and copies were added to last.
    last: [Option<usize>; 2],
}

/// What [`Extents`] come to.
pub(crate) struct Joined {
    pub(crate) marks: Vec<Mark>,
    pub(crate) next: u64,
    pub(crate) last_time_us: u64,
    /// Offsets at or above the oldest that no run has.
    pub(crate) missing: Vec<(u64, u64)>,
}

impl Extents {
    pub(crate) fn add(&mut self, run: &RunFacts) {
        let last = &mut self.last[usize::from(run.is_copy)];
        if let Some(extent) = last.map(|last| &mut self.list[last])
            && extent.end == run.first_offset
        {
            extent.end = run.end_offset();
            extent.last_time_us = extent.last_time_us.max(run.time_us);
            if !extent.marks.last_mut().is_some_and(|mark| mark.extend(run)) {
                extent.marks.push(Mark::new(run));
            }
            return;
        }
        *last = Some(self.list.len());
        self.list.push(Extent {
            first: run.first_offset,
            end: run.end_offset(),
            last_time_us: run.time_us,
            marks: vec![Mark::new(run)],
        });
    }

    /// Joins everything from `oldest` to `next`, or to where the extents end if that is further.
    pub(crate) fn join(mut self, oldest: u64, next: u64) -> Joined {
        self.list.sort_by_key(|extent| extent.first);
        let mut joined = Joined { marks: Vec::new(), next: oldest, last_time_us: 0, missing: Vec::new() };
        for extent in self.list {
            if extent.end <= joined.next {
                continue;
            }
            if extent.first > joined.next {
                joined.missing.push((joined.next, extent.first));
            }
            let from = joined.next.max(extent.first);
            let skipped = extent.marks.partition_point(|mark| mark.offset <= from).saturating_sub(1);
            let mut marks = extent.marks.into_iter().skip(skipped);
            joined.marks.extend(marks.next().map(|mark| Mark { offset: mark.offset.max(from), ..mark }));
            joined.marks.extend(marks);
            joined.next = extent.end;
            joined.last_time_us = joined.last_time_us.max(extent.last_time_us);
        }
        if next > joined.next {
            joined.missing.push((joined.next, next));
            joined.next = next;
        }
        joined
    }
}
