//! File descriptors: how many this process may have, and how many connections that allows.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Descriptors that are not connections: sockets, logs, runtimes, and room to say no to one connection too many.
const RESERVED: u64 = 256;

/// What the descriptor limit leaves for connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Descriptors {
    /// The limit in force; `None` when there is none.
    pub(crate) limit: Option<u64>,
    pub(crate) connections_max: usize,
}

/// Raises the soft limit as far as `connections_wanted` needs and the hard limit allows.
pub(crate) fn prepare(connections_wanted: usize) -> Descriptors {
    let before = getrlimit(Resource::Nofile);
    let wanted = RESERVED.saturating_add(connections_wanted as u64);
    let raised = raised(before.current, before.maximum, wanted);
    let asked = Rlimit { current: raised, maximum: before.maximum };
    let limit = if raised != before.current && setrlimit(Resource::Nofile, asked).is_ok() {
        raised
    } else {
        before.current
    };
    Descriptors { limit, connections_max: allowed(limit, connections_wanted) }
}

/// The soft limit to ask for; `None` is "no limit" throughout.
fn raised(soft: Option<u64>, hard: Option<u64>, wanted: u64) -> Option<u64> {
    soft.map(|soft| soft.max(hard.map_or(wanted, |hard| hard.min(wanted))))
}

fn allowed(limit: Option<u64>, connections_wanted: usize) -> usize {
    let Some(limit) = limit else { return connections_wanted };
    // A very low limit still leaves half of it to connections.
    let left = limit.saturating_sub(RESERVED).max(limit / 2).max(1);
    usize::try_from(left).map_or(connections_wanted, |left| left.min(connections_wanted))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_soft_limit_is_raised_to_what_is_needed_and_no_further() {
        assert_eq!(raised(Some(1_024), Some(1 << 20), 10_256), Some(10_256));
        assert_eq!(raised(Some(1_024), Some(4_096), 10_256), Some(4_096));
        assert_eq!(raised(Some(65_536), Some(65_536), 10_256), Some(65_536));
        assert_eq!(raised(Some(1_024), None, 10_256), Some(10_256));
        assert_eq!(raised(None, None, 10_256), None);
    }

    #[test]
    fn connections_are_bounded_by_the_limit_less_a_reserve() {
        assert_eq!(allowed(Some(4_096), 10_000), 3_840);
        assert_eq!(allowed(Some(1 << 20), 10_000), 10_000);
        assert_eq!(allowed(Some(64), 10_000), 32);
        assert_eq!(allowed(None, 10_000), 10_000);
    }
}
