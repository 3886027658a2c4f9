//! What an event carries: a JSON array, and beside it the bytes that JSON cannot hold.
//!
//! Bytes travel as attachments; where they belong the JSON has `{"_placeholder":true,"num":N}`. That is Socket.IO's form,
//! so a payload goes to browsers as it is, without being translated for each of them.

mod arguments;
mod tuple;

use std::cell::RefCell;
use std::fmt;
use std::io;

use bytes::Bytes;
use serde::de::{DeserializeOwned, Error as _, IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::ser::Formatter;

use self::arguments::{Element, From};

/// A JSON array and its attachments.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Payload {
    /// The array as JSON text. With attachments it has a placeholder for each.
    pub json: Bytes,
    /// What the placeholders stand for, by their number.
    pub attachments: Vec<Bytes>,
}

/// Bytes as an argument of an event, or inside one. They are sent as they are, not as text.
///
/// ```
/// use twinlane::events::{Binary, Payload};
///
/// let payload = Payload::answer(&("a picture", Binary::from(&b"\x89PNG"[..])))?;
/// assert_eq!(&payload.json[..], br#"["a picture",{"_placeholder":true,"num":0}]"#);
/// let (text, picture): (String, Binary) = payload.arguments(0)?;
/// assert_eq!((text.as_str(), &picture[..]), ("a picture", &b"\x89PNG"[..]));
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Binary(pub Bytes);

impl Payload {
    /// `[name, ...arguments]`. The elements of a tuple are arguments each, `()` is none, anything else is one.
    ///
    /// # Errors
    ///
    /// What the arguments' `Serialize` says, for example of a map with keys that are no texts.
    pub fn event(name: &str, arguments: &(impl Serialize + ?Sized)) -> serde_json::Result<Self> {
        let mut json = vec![b'['];
        serde_json::to_writer(&mut json, name)?;
        Self::append(json, arguments)
    }

    /// `[...arguments]`, as in [`Self::event`].
    ///
    /// # Errors
    ///
    /// As [`Self::event`].
    pub fn answer(arguments: &(impl Serialize + ?Sized)) -> serde_json::Result<Self> {
        Self::append(vec![b'['], arguments)
    }

    /// Element `index` of the array.
    ///
    /// # Errors
    ///
    /// There is none, or it is no `T`.
    pub fn argument<T: DeserializeOwned>(&self, index: usize) -> serde_json::Result<T> {
        self.with_attachments(|json| json.deserialize_seq(Element::new(index)))
    }

    /// The elements from `index` on as a tuple, or as anything else that is made of a sequence. More than it has are
    /// passed over.
    ///
    /// # Errors
    ///
    /// There are too few, or they are others than `T` has.
    pub fn arguments<T: DeserializeOwned>(&self, index: usize) -> serde_json::Result<T> {
        self.with_attachments(|json| json.deserialize_seq(From::new(index)))
    }

    /// The last element, if it is a text.
    pub(super) fn last_text(&self) -> Option<String> {
        // Looked for from the end: a text without quotes or backslashes inside, as offsets are.
        let open = self.json.strip_suffix(b"\"]")?;
        let at = open.iter().rposition(|byte| *byte == b'"')?;
        let text = std::str::from_utf8(&open[at + 1..]).ok()?;
        (!text.contains('\\')).then(|| text.to_owned())
    }

    /// Bytes of text and attachments.
    #[must_use]
    pub fn len(&self) -> usize {
        self.json.len() + self.attachments.iter().map(Bytes::len).sum::<usize>()
    }

    /// Whether there is nothing at all, not even an empty array.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.json.is_empty()
    }

    fn append(mut json: Vec<u8>, arguments: &(impl Serialize + ?Sized)) -> serde_json::Result<Self> {
        let opened = json.len();
        let mut attachments = Vec::new();
        let formatter = Attaching { attachments: &mut attachments };
        let is_first = opened == 1;
        json.push(b',');
        let from = json.len();
        arguments.serialize(&mut serde_json::Serializer::with_formatter(&mut json, formatter))?;
        match tuple::arity(arguments) {
            Some(0) => json.truncate(opened),
            // Its own brackets go: the elements are the arguments.
            Some(_) => {
                json.remove(from);
                json.pop();
            }
            None => {}
        }
        if is_first && json.len() > opened {
            json.remove(opened);
        }
        json.push(b']');
        Ok(Self { json: json.into(), attachments })
    }

    fn with_attachments<T>(
        &self,
        parse: impl FnOnce(&mut serde_json::Deserializer<serde_json::de::SliceRead<'_>>) -> serde_json::Result<T>,
    ) -> serde_json::Result<T> {
        let before = ATTACHMENTS.replace(self.attachments.clone());
        let parsed = parse(&mut serde_json::Deserializer::from_slice(&self.json));
        ATTACHMENTS.set(before);
        parsed
    }
}

thread_local! {
    /// The attachments of the payload that this thread is reading: a placeholder names one by number, and serde hands
    /// no context down to it.
    static ATTACHMENTS: RefCell<Vec<Bytes>> = const { RefCell::new(Vec::new()) };
}

/// Writes bytes as placeholders and keeps them.
struct Attaching<'a> {
    attachments: &'a mut Vec<Bytes>,
}

impl Formatter for Attaching<'_> {
    fn write_byte_array<W: ?Sized + io::Write>(&mut self, writer: &mut W, value: &[u8]) -> io::Result<()> {
        write!(writer, r#"{{"_placeholder":true,"num":{}}}"#, self.attachments.len())?;
        self.attachments.push(Bytes::copy_from_slice(value));
        Ok(())
    }
}

impl Serialize for Binary {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.0)
    }
}

impl<'de> Deserialize<'de> for Binary {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Placeholder)
    }
}

struct Placeholder;

impl<'de> Visitor<'de> for Placeholder {
    type Value = Binary;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("bytes that came as an attachment")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Binary, A::Error> {
        let (mut is_placeholder, mut number) = (false, None);
        while let Some(key) = map.next_key::<std::borrow::Cow<'de, str>>()? {
            match &*key {
                "_placeholder" => is_placeholder = map.next_value()?,
                "num" => number = Some(map.next_value::<usize>()?),
                _ => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        let number = number.filter(|_| is_placeholder);
        let number = number.ok_or_else(|| A::Error::custom("an object where bytes were expected"))?;
        let found = ATTACHMENTS.with_borrow(|attachments| attachments.get(number).cloned());
        found.map(Binary).ok_or_else(|| A::Error::custom(format!("attachment {number} did not come")))
    }
}

impl<T: Into<Vec<u8>>> std::convert::From<T> for Binary {
    fn from(bytes: T) -> Self {
        Self(Bytes::from(bytes.into()))
    }
}

impl std::ops::Deref for Binary {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}
