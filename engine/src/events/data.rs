//! What an application keeps with a socket: one value of each type. It survives a recovery.

use std::any::{Any, TypeId};
use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex};

use crate::lock::lock;

/// Values by their type. Cheap to clone; all clones are the same.
///
/// ```
/// use twinlane::events::Data;
///
/// #[derive(Clone, PartialEq, Debug)]
/// struct Name(String);
///
/// let data = Data::default();
/// data.set(Name("ann".into()));
/// assert_eq!(data.get::<Name>(), Some(Name("ann".into())));
/// assert_eq!(data.get::<u32>(), None);
/// ```
#[derive(Clone, Default)]
pub struct Data {
    values: Arc<Mutex<HashMap<TypeId, Box<dyn Any + Send>>>>,
}

impl Data {
    /// Keeps `value`, and drops an earlier one of its type.
    pub fn set<T: Send + 'static>(&self, value: T) {
        let before = lock(&self.values).insert(TypeId::of::<T>(), Box::new(value));
        drop(before);
    }

    /// A copy of the value of type `T`.
    #[must_use]
    pub fn get<T: Clone + Send + 'static>(&self) -> Option<T> {
        lock(&self.values).get(&TypeId::of::<T>())?.downcast_ref::<T>().cloned()
    }

    /// Takes the value of type `T` out.
    pub fn take<T: Send + 'static>(&self) -> Option<T> {
        lock(&self.values).remove(&TypeId::of::<T>())?.downcast().ok().map(|value| *value)
    }
}

impl fmt::Debug for Data {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Data({} values)", lock(&self.values).len())
    }
}
