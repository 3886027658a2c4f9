//! Latencies as they arrive: the distribution of a whole window, and the course of time in slices.
//!
//! One recorder serves all subscribers of a thread; [`Course`] puts the threads together afterwards.

use std::{collections::BTreeMap, ops::Range, time::Duration};

use hdrhistogram::Histogram;

use crate::{
    report::Interval,
    stats::{LATENCY_NS_MAX, Latencies},
};

/// A window is divided into at most this many slices.
const SLICES_MAX: u32 = 600;

/// A slice is a multiple of this.
const SLICE: Duration = Duration::from_millis(100);

/// How long the slices of `window` are.
pub(crate) fn slice_of(window: Duration) -> Duration {
    let slices = window.div_duration_f64(SLICE).ceil() as u32;
    SLICE * slices.div_ceil(SLICES_MAX).max(1)
}

/// Counts latencies; where its messages arrive in order of time, it needs little memory.
#[derive(Debug)]
pub(crate) struct Recorder {
    window_ns: u64,
    slice_ns: u64,
    all: Latencies,
    current: Slice,
    course: Course,
}

/// One slice while it lasts.
#[derive(Debug)]
struct Slice {
    number: usize,
    counts: Histogram<u64>,
    max_ns: u64,
}

/// The slices of all threads, by number.
#[derive(Debug, Default)]
pub(crate) struct Course(BTreeMap<usize, Vec<Counts>>);

/// A finished slice of one thread: few latencies differ within it, so a list is smaller than a histogram.
#[derive(Debug)]
struct Counts {
    counts: Vec<(u64, u64)>,
    max_ns: u64,
}

impl Recorder {
    /// For a window that begins at `window_ns` of [`crate::clock`].
    pub(crate) fn new(window_ns: u64, window: Duration) -> Self {
        Self {
            window_ns,
            slice_ns: slice_of(window).as_nanos() as u64,
            all: Latencies::default(),
            current: Slice { number: 0, counts: coarse(), max_ns: 0 },
            course: Course::default(),
        }
    }

    /// Counts a message that arrived at `at_ns`, unless that or its due time was before the window.
    pub(crate) fn record(&mut self, due_ns: u64, at_ns: u64) {
        if due_ns < self.window_ns {
            return;
        }
        let latency_ns = at_ns.saturating_sub(due_ns);
        self.all.record(latency_ns);
        let number = ((at_ns.max(self.window_ns) - self.window_ns) / self.slice_ns) as usize;
        if number != self.current.number {
            self.finish_slice(number);
        }
        self.current.counts.saturating_record(latency_ns);
        self.current.max_ns = self.current.max_ns.max(latency_ns);
    }

    /// Everything counted.
    pub(crate) fn finish(mut self) -> (Latencies, Course) {
        self.finish_slice(0);
        (self.all, self.course)
    }

    fn finish_slice(&mut self, next: usize) {
        let Slice { number, counts, max_ns } = &mut self.current;
        if !counts.is_empty() {
            let list = counts
                .iter_recorded()
                .map(|step| (step.value_iterated_to(), step.count_since_last_iteration()));
            self.course
                .0
                .entry(*number)
                .or_default()
                .push(Counts { counts: list.collect(), max_ns: *max_ns });
        }
        counts.reset();
        (*max_ns, *number) = (0, next);
    }
}

impl Course {
    /// Adds another thread's slices.
    pub(crate) fn merge(&mut self, other: Self) {
        for (number, counts) in other.0 {
            self.0.entry(number).or_default().extend(counts);
        }
    }

    /// The interval that ends at `at_seconds`, made of `slices`.
    pub(crate) fn interval(
        &self,
        slices: Range<usize>,
        at_seconds: f64,
        deliveries_per_second: f64,
    ) -> Interval {
        let mut together = coarse();
        let mut max_ns = 0;
        for counts in self.0.range(slices).flat_map(|(_, counts)| counts) {
            for &(value, count) in &counts.counts {
                together.saturating_record_n(value, count);
            }
            max_ns = max_ns.max(counts.max_ns);
        }
        let us = |ns: u64| (!together.is_empty()).then_some(ns as f64 / 1e3);
        Interval {
            at_seconds,
            deliveries_per_second,
            p50_us: us(together.value_at_quantile(0.5).min(max_ns)),
            p99_us: us(together.value_at_quantile(0.99).min(max_ns)),
            max_us: us(max_ns),
        }
    }
}

/// Two digits: a plot does not show more, and a slice has to be read out quickly.
fn coarse() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LATENCY_NS_MAX, 2).expect("1 ns to 60 s with 2 digits is a histogram")
}

#[cfg(test)]
mod tests {
    use super::*;

    const START_NS: u64 = 1_000;
    const MS: u64 = 1_000_000;

    #[test]
    fn a_message_due_before_the_window_does_not_count() {
        let mut recorder = Recorder::new(START_NS, Duration::from_secs(1));
        recorder.record(START_NS - 1, START_NS + 5);
        assert_eq!(recorder.finish().0.summary(), None);
    }

    #[test]
    fn slices_hold_what_arrived_in_them_from_all_threads() {
        let mut course = Course::default();
        for thread in 0..2 {
            let mut recorder = Recorder::new(START_NS, Duration::from_secs(1));
            for at_ms in [50, 150, 250] {
                let at_ns = START_NS + at_ms * MS;
                recorder.record(at_ns - (at_ms / 100 + 1 + thread) * MS, at_ns);
            }
            course.merge(recorder.finish().1);
        }
        let max_us = |slices| course.interval(slices, 0.0, 0.0).max_us;
        assert_eq!(max_us(0..1), Some(2_000.0));
        assert_eq!(max_us(1..2), Some(3_000.0));
        assert_eq!(max_us(0..3), Some(4_000.0));
        assert_eq!(max_us(3..4), None);
        let p50_us = course.interval(0..1, 0.0, 0.0).p50_us.unwrap();
        assert!((990.0..1_020.0).contains(&p50_us), "{p50_us}");
    }

    #[test]
    fn a_window_has_few_slices_of_whole_tenths_of_a_second() {
        let slice_ms = |seconds| slice_of(Duration::from_secs_f64(seconds)).as_millis();
        assert_eq!(slice_ms(0.05), 100);
        assert_eq!(slice_ms(60.0), 100);
        assert_eq!(slice_ms(60.05), 200);
        assert_eq!(slice_ms(3_600.0), 6_000);
    }
}
