//! Where a group of a durable topic keeps what has to survive a restart. Groups of topics in memory have no store.

use std::sync::Arc;
use std::task::{Context, Poll};

use twinlane_proto::Code;

use super::progress::Delta;
use crate::topics::Topic;

/// Hears whether something is recorded, from any thread, perhaps before the call that asked for it returns. It must
/// not block.
pub(crate) type Recorded = Box<dyn FnOnce(Result<(), Code>) + Send>;

/// There is no room now: ask again when [`GroupStore::poll_room`] is ready.
pub(crate) struct StoreFull(pub(crate) Recorded);

pub(crate) trait GroupStore: Send + Sync {
    /// Records changes, after all that were recorded before. Nothing of the topic below `floor` is needed once they
    /// are.
    fn record(&self, delta: &Delta, floor: u64, recorded: Recorded) -> Result<(), StoreFull>;

    /// Appends `letter`, one frame, to `letters` and records `delta`: both or neither.
    fn bury(
        &self,
        delta: &Delta,
        letters: &Arc<Topic>,
        letter: &[u8],
        recorded: Recorded,
    ) -> Result<(), StoreFull>;

    /// Ready when a refused call is worth trying again; else the waker is woken then.
    fn poll_room(&self, cx: &mut Context<'_>) -> Poll<()>;
}
