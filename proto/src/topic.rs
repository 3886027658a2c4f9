//! Topics: their names, filters over names, and what a topic was declared as.
//!
//! Names are compared by their exact bytes: no case folding, no Unicode normalisation. On the hot path a
//! topic is its number; nothing here runs per message.

mod filter;
mod name;
mod spec;

pub use filter::Filter;
pub(crate) use name::is_unprintable;
pub use name::{NameError, TopicName};
pub use spec::{Channel, Conflict, Last, Mode, Storage, TopicSpec};
