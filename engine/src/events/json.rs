//! A client's JSON, checked without being built: its syntax, its depth, its first element, its placeholders.
//!
//! Numbers keep their digits and texts their escapes, since the text itself is what goes on. Surrogates that lack their
//! other half are let through: browsers send them for a text that was cut within an emoji.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

/// Attachments of a packet at most.
pub const ATTACHMENTS_MAX: usize = 64;
/// Arrays and objects in a client's data are at most this deep, so that nobody who reads it runs out of stack.
pub const DEPTH_MAX: usize = 64;

/// Names that only the libraries themselves emit.
const RESERVED: [&str; 6] =
    ["connect", "connect_error", "disconnect", "disconnecting", "newListener", "removeListener"];

/// `name` in the list of those that only the libraries emit.
#[must_use]
pub fn reserved(name: &str) -> Option<&'static str> {
    RESERVED.into_iter().find(|reserved| *reserved == name)
}

/// The key that makes an object a placeholder.
pub const PLACEHOLDER: &str = "_placeholder";

/// An event's data: an array that begins with a name, and a placeholder for each attachment.
pub fn check_event(text: &str, attachments: usize) -> Result<(), PayloadError> {
    if !text.starts_with('[') {
        return Err(PayloadError::NoEvent);
    }
    match serde_json::from_str(text)? {
        Array(Some(First::Name)) => {}
        Array(Some(First::Reserved(name))) => return Err(PayloadError::Reserved(name)),
        Array(Some(First::Other) | None) => return Err(PayloadError::NoEvent),
    }
    check_depth(text)?;
    check_placeholders(text, attachments)
}

/// An acknowledgement's data: an array, and a placeholder for each attachment.
pub fn check_ack(text: &str, attachments: usize) -> Result<(), PayloadError> {
    if !text.starts_with('[') {
        return Err(PayloadError::NoArray);
    }
    serde_json::from_str::<IgnoredAny>(text)?;
    check_depth(text)?;
    check_placeholders(text, attachments)
}

/// What comes with a connect packet: an object.
pub fn check_object(text: &str) -> Result<(), PayloadError> {
    if !text.starts_with('{') {
        return Err(PayloadError::NoObject);
    }
    serde_json::from_str::<IgnoredAny>(text)?;
    check_depth(text)
}

/// What is wrong with the JSON of a packet, or with its attachments.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PayloadError {
    /// Broken JSON.
    #[error("data is not JSON at line {line}, column {column}")]
    NotJson {
        /// From 1.
        line: usize,
        /// From 1; 0 where it ended too early.
        column: usize,
    },
    /// An event's data is something else.
    #[error("an event's data is an array that begins with its name, a text or a number")]
    NoEvent,
    /// An acknowledgement's data is something else.
    #[error("an acknowledgement's data is an array")]
    NoArray,
    /// What should let a client in is something else.
    #[error("a connect packet's data is an object")]
    NoObject,
    /// A name that only libraries themselves may emit.
    #[error("`{0}` is reserved: choose another name for the event")]
    Reserved(&'static str),
    /// Arrays in arrays in arrays…
    #[error("arrays and objects are nested more than {depth_max} deep")]
    TooDeep {
        /// The limit.
        depth_max: usize,
    },
    /// A placeholder for no attachment, for one that has another, or in another form than
    /// `{"_placeholder":true,"num":0}`; or an attachment without placeholder.
    #[error(
        "attachments and placeholders do not match: each attachment has one `{{\"_placeholder\":true,\"num\":…}}`"
    )]
    Placeholder,
}

/// An array's first element.
enum First {
    /// An event may have it as its name.
    Name,
    Reserved(&'static str),
    Other,
}

impl From<serde_json::Error> for PayloadError {
    fn from(error: serde_json::Error) -> Self {
        Self::NotJson { line: error.line(), column: error.column() }
    }
}

fn check_depth(text: &str) -> Result<(), PayloadError> {
    // `[` and `{` differ in one bit. Few of them are never too deep, wherever they stand.
    if text.bytes().filter(|byte| byte | 0x20 == b'{').count() <= DEPTH_MAX {
        return Ok(());
    }
    let mut depth = 0;
    for token in Tokens::new(text) {
        match token {
            Token::Open(_) => depth += 1,
            Token::Close => depth -= 1,
            _ => {}
        }
        if depth > DEPTH_MAX {
            return Err(PayloadError::TooDeep { depth_max: DEPTH_MAX });
        }
    }
    Ok(())
}

/// Each attachment has exactly one placeholder. Otherwise a reader could be made to fail, or to copy one attachment
/// thousands of times.
fn check_placeholders(text: &str, attachments: usize) -> Result<(), PayloadError> {
    // Its first eight letters: that far the standard library compares many bytes at once. Or it is escaped.
    let has_placeholder = text.contains(&PLACEHOLDER[..8]) || text.contains("\\u");
    let mut seen = 0_u64;
    if has_placeholder {
        let mut placeholders = Placeholders::default();
        for found in Tokens::new(text).filter_map(|token| placeholders.feed(token)) {
            let number = found.and_then(|number| usize::try_from(number).ok());
            let number = number.filter(|number| *number < attachments && seen & (1 << number) == 0);
            seen |= 1 << number.ok_or(PayloadError::Placeholder)?;
        }
    }
    if seen.count_ones() as usize == attachments { Ok(()) } else { Err(PayloadError::Placeholder) }
}

/// What JSON consists of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Token<'a> {
    Open(Container),
    Close,
    Comma,
    Colon,
    /// Without its quotes, escapes as they are.
    Text(&'a str),
    /// A number, `true`, `false` or `null`.
    Literal(&'a str),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Container {
    Array,
    Object,
}

/// The tokens of text that is known to be JSON; of other text some nonsense.
#[derive(Debug, Clone)]
pub struct Tokens<'a> {
    rest: &'a str,
}

impl<'a> Tokens<'a> {
    pub fn new(text: &'a str) -> Self {
        Self { rest: text }
    }

    /// Takes `bytes` off the front; they end where a letter ends.
    fn take(&mut self, bytes: usize) -> &'a str {
        let (taken, rest) = self.rest.split_at(bytes);
        self.rest = rest;
        taken
    }

    /// The text up to its closing quote, which is taken as well.
    fn text(&mut self) -> &'a str {
        let mut bytes = self.rest.bytes().enumerate();
        while let Some((at, byte)) = bytes.next() {
            match byte {
                b'"' => {
                    let text = self.take(at);
                    self.take(1);
                    return text;
                }
                b'\\' => _ = bytes.next(),
                _ => {}
            }
        }
        self.take(self.rest.len())
    }
}

impl<'a> Iterator for Tokens<'a> {
    type Item = Token<'a>;

    fn next(&mut self) -> Option<Token<'a>> {
        self.rest = self.rest.trim_ascii_start();
        let token = match *self.rest.as_bytes().first()? {
            b'{' => Token::Open(Container::Object),
            b'[' => Token::Open(Container::Array),
            b'}' | b']' => Token::Close,
            b',' => Token::Comma,
            b':' => Token::Colon,
            b'"' => {
                self.take(1);
                return Some(Token::Text(self.text()));
            }
            _ => {
                let is_end = |byte: u8| matches!(byte, b',' | b':' | b'"' | b'[' | b']' | b'{' | b'}');
                let end = self.rest.bytes().position(|byte| is_end(byte) || byte.is_ascii_whitespace());
                return Some(Token::Literal(self.take(end.unwrap_or(self.rest.len()))));
            }
        };
        self.take(1);
        Some(token)
    }
}

/// Finds placeholders in a sequence of tokens.
#[derive(Debug, Default)]
pub struct Placeholders {
    open: Vec<Open>,
}

/// An array or object that is not at its end.
#[derive(Debug, Default)]
struct Open {
    key: Key,
    commas: usize,
    is_placeholder: bool,
    number: Option<u64>,
}

/// The key of the value that comes next.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Key {
    /// None: in an array.
    #[default]
    Absent,
    /// The key itself comes next.
    Expected,
    Placeholder,
    Number,
    Other,
}

impl Placeholders {
    /// Takes the next token. If it ends an object with `"_placeholder":true`: the number of its attachment, or `None`
    /// inside if the object is not a proper placeholder.
    pub fn feed(&mut self, token: Token<'_>) -> Option<Option<u64>> {
        if let Token::Open(container) = token {
            let key = if container == Container::Object { Key::Expected } else { Key::Absent };
            self.open.push(Open { key, ..Open::default() });
            return None;
        }
        let open = self.open.last_mut()?;
        match (token, open.key) {
            (Token::Text(text), Key::Expected) => open.key = key(text),
            (Token::Literal("true"), Key::Placeholder) => open.is_placeholder = true,
            (Token::Literal(number), Key::Number) => open.number = number.parse().ok(),
            (Token::Comma, key) => {
                open.commas += 1;
                open.key = if key == Key::Absent { key } else { Key::Expected };
            }
            (Token::Close, _) => {
                let Open { commas, is_placeholder, number, .. } = self.open.pop()?;
                return is_placeholder.then_some(number.filter(|_| commas == 1));
            }
            _ => {}
        }
        None
    }
}

fn key(text: &str) -> Key {
    match &*unescaped(text) {
        PLACEHOLDER => Key::Placeholder,
        "num" => Key::Number,
        _ => Key::Other,
    }
}

/// What a text says, without its escapes. A surrogate without its other half becomes U+FFFD.
pub fn unescaped(text: &str) -> Cow<'_, str> {
    if !text.contains('\\') {
        return Cow::Borrowed(text);
    }
    let quoted = format!("\"{text}\"");
    let Unescaped(text) = serde_json::from_str(&quoted).unwrap_or_default();
    Cow::Owned(text)
}

#[derive(Default)]
struct Unescaped(String);

impl<'de> Deserialize<'de> for Unescaped {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // As bytes: only so surrogates may be alone.
        deserializer.deserialize_bytes(UnescapedVisitor)
    }
}

struct UnescapedVisitor;

impl Visitor<'_> for UnescapedVisitor {
    type Value = Unescaped;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a text")
    }

    fn visit_bytes<E>(self, bytes: &[u8]) -> Result<Unescaped, E> {
        let mut text = String::with_capacity(bytes.len());
        for chunk in bytes.utf8_chunks() {
            text.push_str(chunk.valid());
            // A lone surrogate comes as three bytes that are no UTF-8, each a chunk of its own, of which this is the first.
            if chunk.invalid().first() == Some(&0xed) {
                text.push(char::REPLACEMENT_CHARACTER);
            }
        }
        Ok(Unescaped(text))
    }
}

struct Array(Option<First>);

impl<'de> Deserialize<'de> for Array {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(ArrayVisitor)
    }
}

struct ArrayVisitor;

impl<'de> Visitor<'de> for ArrayVisitor {
    type Value = Array;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an array")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Array, A::Error> {
        let first = elements.next_element()?;
        while elements.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Array(first))
    }
}

impl<'de> Deserialize<'de> for First {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(FirstVisitor)
    }
}

struct FirstVisitor;

impl<'de> Visitor<'de> for FirstVisitor {
    type Value = First;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("JSON")
    }

    fn visit_str<E>(self, name: &str) -> Result<First, E> {
        Ok(reserved(name).map_or(First::Name, First::Reserved))
    }

    fn visit_u64<E>(self, _: u64) -> Result<First, E> {
        Ok(First::Name)
    }

    fn visit_i64<E>(self, _: i64) -> Result<First, E> {
        Ok(First::Name)
    }

    fn visit_f64<E>(self, _: f64) -> Result<First, E> {
        Ok(First::Name)
    }

    fn visit_bool<E>(self, _: bool) -> Result<First, E> {
        Ok(First::Other)
    }

    fn visit_unit<E>(self) -> Result<First, E> {
        Ok(First::Other)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, elements: A) -> Result<First, A::Error> {
        IgnoredAny.visit_seq(elements).map(|_| First::Other)
    }

    fn visit_map<A: MapAccess<'de>>(self, entries: A) -> Result<First, A::Error> {
        IgnoredAny.visit_map(entries).map(|_| First::Other)
    }
}
