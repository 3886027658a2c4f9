//! Whether a value is a tuple: asked of its `Serialize`, because a tuple's elements are an event's arguments while a list
//! is one argument, and JSON has one form for both.

use std::fmt;

use serde::ser::{Error, Impossible, Serialize, Serializer};

/// How many elements the tuple `value` has; `None` if it is none.
pub(super) fn arity(value: &(impl Serialize + ?Sized)) -> Option<usize> {
    match value.serialize(Asking) {
        // JSON's null says that it is `()`, too; but it is something.
        Err(Answer(Some(0))) if size_of_val(value) > 0 => None,
        Err(Answer(arity)) => arity,
        Ok(()) => None,
    }
}

struct Asking;

/// The way out of a serialization that has said enough.
#[derive(Debug)]
struct Answer(Option<usize>);

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("asked enough")
    }
}

impl std::error::Error for Answer {}

impl Error for Answer {
    fn custom<T: fmt::Display>(_: T) -> Self {
        Self(None)
    }
}

/// What is no tuple.
macro_rules! no_tuple {
    ($($method:ident($($of:ty),*);)*) => {
        $(fn $method(self, $(_: $of),*) -> Result<(), Answer> {
            Err(Answer(None))
        })*
    };
}

impl Serializer for Asking {
    type Ok = ();
    type Error = Answer;
    type SerializeSeq = Impossible<(), Answer>;
    type SerializeTuple = Impossible<(), Answer>;
    type SerializeTupleStruct = Impossible<(), Answer>;
    type SerializeTupleVariant = Impossible<(), Answer>;
    type SerializeMap = Impossible<(), Answer>;
    type SerializeStruct = Impossible<(), Answer>;
    type SerializeStructVariant = Impossible<(), Answer>;

    no_tuple! {
        serialize_bool(bool);
        serialize_i8(i8);
        serialize_i16(i16);
        serialize_i32(i32);
        serialize_i64(i64);
        serialize_u8(u8);
        serialize_u16(u16);
        serialize_u32(u32);
        serialize_u64(u64);
        serialize_f32(f32);
        serialize_f64(f64);
        serialize_char(char);
        serialize_str(&str);
        serialize_bytes(&[u8]);
        serialize_none();
        serialize_unit_struct(&'static str);
        serialize_unit_variant(&'static str, u32, &'static str);
    }

    fn serialize_unit(self) -> Result<(), Answer> {
        Err(Answer(Some(0)))
    }

    fn serialize_tuple(self, len: usize) -> Result<Self::SerializeTuple, Answer> {
        Err(Answer(Some(len)))
    }

    fn serialize_some<T: Serialize + ?Sized>(self, _: &T) -> Result<(), Answer> {
        Err(Answer(None))
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(self, _: &'static str, _: &T) -> Result<(), Answer> {
        Err(Answer(None))
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        _: &T,
    ) -> Result<(), Answer> {
        Err(Answer(None))
    }

    fn serialize_seq(self, _: Option<usize>) -> Result<Self::SerializeSeq, Answer> {
        Err(Answer(None))
    }

    fn serialize_tuple_struct(self, _: &'static str, _: usize) -> Result<Self::SerializeTupleStruct, Answer> {
        Err(Answer(None))
    }

    fn serialize_tuple_variant(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        _: usize,
    ) -> Result<Self::SerializeTupleVariant, Answer> {
        Err(Answer(None))
    }

    fn serialize_map(self, _: Option<usize>) -> Result<Self::SerializeMap, Answer> {
        Err(Answer(None))
    }

    fn serialize_struct(self, _: &'static str, _: usize) -> Result<Self::SerializeStruct, Answer> {
        Err(Answer(None))
    }

    fn serialize_struct_variant(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        _: usize,
    ) -> Result<Self::SerializeStructVariant, Answer> {
        Err(Answer(None))
    }
}
