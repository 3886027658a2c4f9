//! How fields lie in a control message: little-endian numbers, counted texts, one byte before anything
//! optional. The bodies are lists of these, in the order of their fields.

use super::ControlError;
use crate::Code;
use crate::topic::{Channel, Last, Mode, Storage, TopicSpec};

/// What is left of a control message.
pub(super) struct Reader<'a> {
    rest: &'a [u8],
}

/// The fields of one control message or of a part of it.
pub(super) trait Body: Sized {
    fn put(&self, out: &mut Vec<u8>) -> Result<(), ControlError>;
    fn take(from: &mut Reader<'_>) -> Result<Self, ControlError>;
}

/// One field whose type alone tells how it lies.
pub(super) trait Field: Sized {
    fn put(&self, what: &'static str, out: &mut Vec<u8>) -> Result<(), ControlError>;
    fn take(what: &'static str, from: &mut Reader<'_>) -> Result<Self, ControlError>;
}

/// Makes a struct a [`Body`] of its fields in this order. `name: text(limit)` names a counted field's
/// codec, a module below, and its limit.
macro_rules! body {
    ($name:ident { $($field:ident $(: $codec:ident($limit:expr))?),* $(,)? }) => {
        impl $crate::control::wire::Body for $name {
            fn put(&self, out: &mut Vec<u8>) -> Result<(), $crate::control::ControlError> {
                $($crate::control::wire::body!(
                    @put &self.$field, concat!(stringify!($name), ".", stringify!($field)), out
                    $(, $codec, $limit)?
                )?;)*
                Ok(())
            }

            fn take(
                from: &mut $crate::control::wire::Reader<'_>,
            ) -> Result<Self, $crate::control::ControlError> {
                Ok(Self {
                    $($field: $crate::control::wire::body!(
                        @take concat!(stringify!($name), ".", stringify!($field)), from
                        $(, $codec, $limit)?
                    )?,)*
                })
            }
        }
    };
    (@put $value:expr, $what:expr, $out:expr) => {
        $crate::control::wire::Field::put($value, $what, $out)
    };
    (@put $value:expr, $what:expr, $out:expr, $codec:ident, $limit:expr) => {
        $crate::control::wire::$codec::put($value, $limit, $what, $out)
    };
    (@take $what:expr, $from:expr) => {
        $crate::control::wire::Field::take($what, $from)
    };
    (@take $what:expr, $from:expr, $codec:ident, $limit:expr) => {
        $crate::control::wire::$codec::take($limit, $what, $from)
    };
}

/// Makes an enum without data a [`Field`] of one byte.
macro_rules! byte_enum {
    ($name:ident { $($variant:ident = $number:literal),* $(,)? }) => {
        impl $crate::control::wire::Field for $name {
            fn put(&self, what: &'static str, out: &mut Vec<u8>) -> Result<(), $crate::control::ControlError> {
                let number: u8 = match self { $(Self::$variant => $number,)* };
                number.put(what, out)
            }

            fn take(
                what: &'static str,
                from: &mut $crate::control::wire::Reader<'_>,
            ) -> Result<Self, $crate::control::ControlError> {
                match u8::take(what, from)? {
                    $($number => Ok(Self::$variant),)*
                    value => Err($crate::control::ControlError::Value { what, value: value.into() }),
                }
            }
        }
    };
}

pub(super) use {body, byte_enum};

impl<'a> Reader<'a> {
    pub(super) fn new(body: &'a [u8]) -> Self {
        Self { rest: body }
    }

    pub(super) fn bytes_left(&self) -> usize {
        self.rest.len()
    }

    fn bytes(&mut self, count: usize, what: &'static str) -> Result<&'a [u8], ControlError> {
        let Some((bytes, rest)) = self.rest.split_at_checked(count) else {
            return Err(ControlError::Truncated { what, bytes_wanted: count, bytes_left: self.rest.len() });
        };
        self.rest = rest;
        Ok(bytes)
    }

    fn array<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], ControlError> {
        let Some((array, rest)) = self.rest.split_first_chunk() else {
            return Err(ControlError::Truncated { what, bytes_wanted: N, bytes_left: self.rest.len() });
        };
        self.rest = rest;
        Ok(*array)
    }

    /// The bytes of a text, token or list entry count that is within its limit.
    fn counted(&mut self, length_max: usize, what: &'static str) -> Result<&'a [u8], ControlError> {
        let length = usize::from(u16::take(what, self)?);
        if length > length_max {
            return Err(ControlError::TooLong { what, length, length_max });
        }
        self.bytes(length, what)
    }
}

fn put_counted(
    bytes: &[u8],
    limit: usize,
    what: &'static str,
    out: &mut Vec<u8>,
) -> Result<(), ControlError> {
    if bytes.len() > limit {
        return Err(ControlError::TooLong { what, length: bytes.len(), length_max: limit });
    }
    let length = u16::try_from(bytes.len()).expect("limits of counted fields fit 16 bits");
    length.put(what, out)?;
    out.extend_from_slice(bytes);
    Ok(())
}

/// A counted text of which only the length matters here: names, whose rules are checked elsewhere.
pub(super) mod text {
    use super::{ControlError, Reader, put_counted};

    pub(in super::super) fn put(
        text: &str,
        limit: usize,
        what: &'static str,
        out: &mut Vec<u8>,
    ) -> Result<(), ControlError> {
        put_counted(text.as_bytes(), limit, what, out)
    }

    pub(in super::super) fn take(
        limit: usize,
        what: &'static str,
        from: &mut Reader<'_>,
    ) -> Result<String, ControlError> {
        let bytes = from.counted(limit, what)?;
        Ok(std::str::from_utf8(bytes).map_err(|_| ControlError::NotUtf8 { what })?.to_owned())
    }
}

/// A counted text for people: safe to put in one log line.
pub(super) mod line {
    use super::{ControlError, Reader, put_counted, text};
    use crate::topic::is_unprintable;

    /// Cuts the text to its limit and frees it of what a line cannot have.
    pub(in super::super) fn put(
        line: &str,
        limit: usize,
        what: &'static str,
        out: &mut Vec<u8>,
    ) -> Result<(), ControlError> {
        let cut = &line[..line.floor_char_boundary(limit)];
        if !cut.contains(is_unprintable) {
            return put_counted(cut.as_bytes(), limit, what, out);
        }
        // Every such character takes at least as many bytes as the one that replaces it.
        put_counted(cut.replace(is_unprintable, " ").as_bytes(), limit, what, out)
    }

    pub(in super::super) fn take(
        limit: usize,
        what: &'static str,
        from: &mut Reader<'_>,
    ) -> Result<String, ControlError> {
        let line = text::take(limit, what, from)?;
        match line.chars().find(|character| is_unprintable(*character)) {
            None => Ok(line),
            Some(character) => Err(ControlError::Character { what, character }),
        }
    }
}

/// A counted text that names something and goes in log lines: as a line, but never changed to fit.
pub(super) mod word {
    use super::{ControlError, Reader, line, put_counted};
    use crate::topic::is_unprintable;

    pub(in super::super) fn put(
        word: &str,
        limit: usize,
        what: &'static str,
        out: &mut Vec<u8>,
    ) -> Result<(), ControlError> {
        match word.chars().find(|character| is_unprintable(*character)) {
            None => put_counted(word.as_bytes(), limit, what, out),
            Some(character) => Err(ControlError::Character { what, character }),
        }
    }

    pub(in super::super) fn take(
        limit: usize,
        what: &'static str,
        from: &mut Reader<'_>,
    ) -> Result<String, ControlError> {
        line::take(limit, what, from)
    }
}

/// A counted secret or other bytes.
pub(super) mod blob {
    use super::{ControlError, Reader, put_counted};

    pub(in super::super) fn put(
        bytes: &[u8],
        limit: usize,
        what: &'static str,
        out: &mut Vec<u8>,
    ) -> Result<(), ControlError> {
        put_counted(bytes, limit, what, out)
    }

    pub(in super::super) fn take(
        limit: usize,
        what: &'static str,
        from: &mut Reader<'_>,
    ) -> Result<Vec<u8>, ControlError> {
        Ok(from.counted(limit, what)?.to_vec())
    }
}

/// A counted list of bodies.
pub(super) mod list {
    use super::{Body, ControlError, Field, Reader};

    pub(in super::super) fn put<T: Body>(
        list: &[T],
        limit: usize,
        what: &'static str,
        out: &mut Vec<u8>,
    ) -> Result<(), ControlError> {
        if list.len() > limit {
            return Err(ControlError::TooLong { what, length: list.len(), length_max: limit });
        }
        let length = u16::try_from(list.len()).expect("limits of lists fit 16 bits");
        length.put(what, out)?;
        list.iter().try_for_each(|entry| entry.put(out))
    }

    /// Grows entry by entry: memory follows what has arrived, not what was declared.
    pub(in super::super) fn take<T: Body>(
        limit: usize,
        what: &'static str,
        from: &mut Reader<'_>,
    ) -> Result<Vec<T>, ControlError> {
        let length = usize::from(u16::take(what, from)?);
        if length > limit {
            return Err(ControlError::TooLong { what, length, length_max: limit });
        }
        let mut list = Vec::new();
        for _ in 0..length {
            list.push(T::take(from)?);
        }
        Ok(list)
    }
}

macro_rules! number_fields {
    ($($number:ty),*) => {
        $(impl Field for $number {
            fn put(&self, _what: &'static str, out: &mut Vec<u8>) -> Result<(), ControlError> {
                out.extend_from_slice(&self.to_le_bytes());
                Ok(())
            }

            fn take(what: &'static str, from: &mut Reader<'_>) -> Result<Self, ControlError> {
                from.array(what).map(Self::from_le_bytes)
            }
        })*
    };
}

number_fields!(u8, u16, u32, u64);

impl Field for [u8; 16] {
    fn put(&self, _what: &'static str, out: &mut Vec<u8>) -> Result<(), ControlError> {
        out.extend_from_slice(self);
        Ok(())
    }

    fn take(what: &'static str, from: &mut Reader<'_>) -> Result<Self, ControlError> {
        from.array(what)
    }
}

impl Field for bool {
    fn put(&self, what: &'static str, out: &mut Vec<u8>) -> Result<(), ControlError> {
        u8::from(*self).put(what, out)
    }

    fn take(what: &'static str, from: &mut Reader<'_>) -> Result<Self, ControlError> {
        match u8::take(what, from)? {
            0 => Ok(false),
            1 => Ok(true),
            value => Err(ControlError::Value { what, value: value.into() }),
        }
    }
}

impl<T: Field> Field for Option<T> {
    fn put(&self, what: &'static str, out: &mut Vec<u8>) -> Result<(), ControlError> {
        self.is_some().put(what, out)?;
        self.as_ref().map_or(Ok(()), |value| value.put(what, out))
    }

    fn take(what: &'static str, from: &mut Reader<'_>) -> Result<Self, ControlError> {
        if bool::take(what, from)? { T::take(what, from).map(Some) } else { Ok(None) }
    }
}

impl Field for Code {
    fn put(&self, what: &'static str, out: &mut Vec<u8>) -> Result<(), ControlError> {
        self.to_u16().put(what, out)
    }

    fn take(what: &'static str, from: &mut Reader<'_>) -> Result<Self, ControlError> {
        u16::take(what, from).map(Self::from_u16)
    }
}

byte_enum!(Channel { Fast = 0, Reliable = 1 });
byte_enum!(Mode { Ordered = 0, Latest = 1, Unordered = 2 });
byte_enum!(Storage { Memory = 0, Disk = 1 });
byte_enum!(Last { None = 0, Topic = 1, Key = 2 });

impl Field for TopicSpec {
    fn put(&self, what: &'static str, out: &mut Vec<u8>) -> Result<(), ControlError> {
        check_spec(self, what)?;
        self.channel.put(what, out)?;
        self.mode.put(what, out)?;
        self.storage.put(what, out)?;
        self.last.put(what, out)?;
        self.payload_bytes_max.put(what, out)?;
        self.retain_bytes.put(what, out)?;
        self.retain_messages.put(what, out)?;
        self.retain_age_ms.put(what, out)?;
        self.deadline_us.put(what, out)
    }

    fn take(what: &'static str, from: &mut Reader<'_>) -> Result<Self, ControlError> {
        let spec = Self {
            channel: Channel::take(what, from)?,
            mode: Mode::take(what, from)?,
            storage: Storage::take(what, from)?,
            last: Last::take(what, from)?,
            payload_bytes_max: u32::take(what, from)?,
            retain_bytes: u64::take(what, from)?,
            retain_messages: u64::take(what, from)?,
            retain_age_ms: u64::take(what, from)?,
            deadline_us: u32::take(what, from)?,
        };
        check_spec(&spec, what)?;
        Ok(spec)
    }
}

/// An error names the first field that the channel does not allow, by its value.
fn check_spec(spec: &TopicSpec, what: &'static str) -> Result<(), ControlError> {
    let value = match (spec.channel, spec.storage) {
        _ if spec.is_consistent() => return Ok(()),
        (Channel::Reliable, _) if spec.mode != Mode::Ordered => spec.mode as u64,
        (Channel::Reliable, _) => spec.deadline_us.into(),
        (Channel::Fast, Storage::Disk) => spec.storage as u64,
        (Channel::Fast, Storage::Memory) => spec.last as u64,
    };
    Err(ControlError::Value { what, value })
}
