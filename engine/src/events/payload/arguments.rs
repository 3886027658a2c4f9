//! Reading single elements of a JSON array without keeping the others.

use std::fmt;
use std::marker::PhantomData;

use serde::de::value::SeqAccessDeserializer;
use serde::de::{DeserializeOwned, Error, IgnoredAny, SeqAccess, Visitor};

/// One element.
pub(super) struct Element<T> {
    index: usize,
    of: PhantomData<T>,
}

impl<T> Element<T> {
    pub(super) fn new(index: usize) -> Self {
        Self { index, of: PhantomData }
    }
}

impl<'de, T: DeserializeOwned> Visitor<'de> for Element<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "an array with more than {} elements", self.index)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<T, A::Error> {
        skip(&mut seq, self.index)?;
        let element = seq.next_element()?.ok_or_else(|| A::Error::invalid_length(self.index, &self))?;
        skip(&mut seq, usize::MAX)?;
        Ok(element)
    }
}

/// All elements from one on.
pub(super) struct From<T> {
    index: usize,
    of: PhantomData<T>,
}

impl<T> From<T> {
    pub(super) fn new(index: usize) -> Self {
        Self { index, of: PhantomData }
    }
}

impl<'de, T: DeserializeOwned> Visitor<'de> for From<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "an array with at least {} elements", self.index)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<T, A::Error> {
        skip(&mut seq, self.index)?;
        let elements = T::deserialize(SeqAccessDeserializer::new(&mut seq))?;
        skip(&mut seq, usize::MAX)?;
        Ok(elements)
    }
}

/// Passes over `count` elements, or over all there are.
fn skip<'de, A: SeqAccess<'de>>(seq: &mut A, count: usize) -> Result<(), A::Error> {
    for _ in 0..count {
        if seq.next_element::<IgnoredAny>()?.is_none() {
            break;
        }
    }
    Ok(())
}
