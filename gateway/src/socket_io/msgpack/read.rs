//! Tokens of MessagePack. Lengths that a client declares are compared with what is there, and nothing else.

use rmp::Marker;

use crate::socket_io::DecodeError;

/// One value, or the begin of one that contains others.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Token<'a> {
    Nil,
    /// JavaScript's `undefined`.
    Undefined,
    Bool(bool),
    Unsigned(u64),
    /// Below zero.
    Signed(i64),
    Float(f64),
    Text(&'a str),
    Bytes(&'a [u8]),
    /// JavaScript's `Date`: milliseconds since 1970.
    Date(i64),
    /// So many values follow.
    Array(u32),
    /// So many keys follow, each with its value.
    Map(u32),
}

/// Reads token after token.
#[derive(Debug, Clone)]
pub(super) struct Reader<'a> {
    whole_bytes: usize,
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { whole_bytes: bytes.len(), rest: bytes }
    }

    pub(super) fn is_at_end(&self) -> bool {
        self.rest.is_empty()
    }

    /// An error at this place.
    pub(super) fn wrong(&self, what: &'static str) -> DecodeError {
        DecodeError::Msgpack { at: self.whole_bytes - self.rest.len(), what }
    }

    pub(super) fn is_array(&self) -> bool {
        matches!(self.clone().token(), Ok(Token::Array(_)))
    }

    pub(super) fn is_map(&self) -> bool {
        matches!(self.clone().token(), Ok(Token::Map(_)))
    }

    pub(super) fn token(&mut self) -> Result<Token<'a>, DecodeError> {
        let [marker] = self.array()?;
        Ok(match Marker::from_u8(marker) {
            Marker::Null => Token::Nil,
            Marker::False => Token::Bool(false),
            Marker::True => Token::Bool(true),
            Marker::FixPos(number) => Token::Unsigned(number.into()),
            Marker::U8 => Token::Unsigned(self.u8()?.into()),
            Marker::U16 => Token::Unsigned(self.u16()?.into()),
            Marker::U32 => Token::Unsigned(self.u32()?.into()),
            Marker::U64 => Token::Unsigned(u64::from_be_bytes(self.array()?)),
            Marker::FixNeg(number) => Token::Signed(number.into()),
            Marker::I8 => integer(i8::from_be_bytes(self.array()?).into()),
            Marker::I16 => integer(i16::from_be_bytes(self.array()?).into()),
            Marker::I32 => integer(i32::from_be_bytes(self.array()?).into()),
            Marker::I64 => integer(i64::from_be_bytes(self.array()?)),
            Marker::F32 => Token::Float(f32::from_be_bytes(self.array()?).into()),
            Marker::F64 => Token::Float(f64::from_be_bytes(self.array()?)),
            Marker::FixStr(bytes) => self.text(bytes.into())?,
            Marker::Str8 => self.u8().and_then(|bytes| self.text(bytes.into()))?,
            Marker::Str16 => self.u16().and_then(|bytes| self.text(bytes.into()))?,
            Marker::Str32 => self.u32().and_then(|bytes| self.text(bytes))?,
            Marker::Bin8 => self.u8().and_then(|bytes| self.take(bytes.into())).map(Token::Bytes)?,
            Marker::Bin16 => self.u16().and_then(|bytes| self.take(bytes.into())).map(Token::Bytes)?,
            Marker::Bin32 => self.u32().and_then(|bytes| self.take(bytes)).map(Token::Bytes)?,
            Marker::FixArray(values) => Token::Array(values.into()),
            Marker::Array16 => Token::Array(self.u16()?.into()),
            Marker::Array32 => Token::Array(self.u32()?),
            Marker::FixMap(entries) => Token::Map(entries.into()),
            Marker::Map16 => Token::Map(self.u16()?.into()),
            Marker::Map32 => Token::Map(self.u32()?),
            Marker::Ext8 => self.u8().and_then(|bytes| self.byte_array(bytes.into()))?,
            Marker::Ext16 => self.u16().and_then(|bytes| self.byte_array(bytes.into()))?,
            Marker::Ext32 => self.u32().and_then(|bytes| self.byte_array(bytes))?,
            Marker::FixExt1 => self.extension::<1>().map(|_| Token::Undefined)?,
            Marker::FixExt8 => Token::Date(i64::from_be_bytes(self.extension()?)),
            Marker::FixExt2 | Marker::FixExt4 | Marker::FixExt16 => return Err(self.wrong(UNKNOWN_EXTENSION)),
            Marker::Reserved => return Err(self.wrong("0xc1 means nothing")),
        })
    }

    /// Passes over what `begun`, a token just read, contains. Without recursion: depth costs nothing here.
    pub(super) fn skip_rest_of(&mut self, begun: &Token<'a>) -> Result<(), DecodeError> {
        let values = |token: &Token<'_>| match token {
            Token::Array(values) => u64::from(*values),
            Token::Map(entries) => 2 * u64::from(*entries),
            _ => 0,
        };
        let mut missing = values(begun);
        while missing > 0 {
            // Each value has at least a byte, so this ends early where too many were declared.
            missing = (missing - 1).saturating_add(values(&self.token()?));
        }
        Ok(())
    }

    fn text(&mut self, bytes: u32) -> Result<Token<'a>, DecodeError> {
        Ok(Token::Text(std::str::from_utf8(self.take(bytes)?)?))
    }

    /// An `ArrayBuffer`.
    fn byte_array(&mut self, bytes: u32) -> Result<Token<'a>, DecodeError> {
        self.extension::<0>()?;
        self.take(bytes).map(Token::Bytes)
    }

    /// The bytes of an extension of type 0, the only one.
    fn extension<const BYTES: usize>(&mut self) -> Result<[u8; BYTES], DecodeError> {
        if self.u8()? != 0 {
            return Err(self.wrong(UNKNOWN_EXTENSION));
        }
        self.array()
    }

    fn u8(&mut self) -> Result<u8, DecodeError> {
        self.array().map(u8::from_be_bytes)
    }

    fn u16(&mut self) -> Result<u16, DecodeError> {
        self.array().map(u16::from_be_bytes)
    }

    fn u32(&mut self) -> Result<u32, DecodeError> {
        self.array().map(u32::from_be_bytes)
    }

    fn array<const BYTES: usize>(&mut self) -> Result<[u8; BYTES], DecodeError> {
        let (array, rest) = self.rest.split_first_chunk().ok_or_else(|| self.wrong(ENDS_EARLY))?;
        self.rest = rest;
        Ok(*array)
    }

    fn take(&mut self, bytes: u32) -> Result<&'a [u8], DecodeError> {
        let taken = self.rest.split_at_checked(bytes as usize);
        let (taken, rest) = taken.ok_or_else(|| self.wrong(ENDS_EARLY))?;
        self.rest = rest;
        Ok(taken)
    }
}

const ENDS_EARLY: &str = "the message ends before the value does";
const UNKNOWN_EXTENSION: &str = "an extension that JSON has nothing for: send a text or bytes";

fn integer(number: i64) -> Token<'static> {
    u64::try_from(number).map_or(Token::Signed(number), Token::Unsigned)
}
