//! Arguments of which nothing is known: JSON with bytes anywhere in it, as scenarios pass them on.

use bytes::Bytes;
use serde::ser::{SerializeMap, SerializeTuple};
use serde::{Serialize, Serializer};
use serde_json::Value;
use twinlane::events::Payload;

/// JSON, and bytes.
#[derive(Debug, Clone)]
pub(crate) enum Any {
    /// No bytes in it.
    Plain(Value),
    Bytes(Bytes),
    List(Vec<Self>),
    Object(Vec<(String, Self)>),
}

/// Several arguments of one event: a tuple, whose length only the moment knows.
#[derive(Debug, Clone)]
pub(crate) struct Arguments(pub(crate) Vec<Any>);

impl Any {
    /// The arguments of an event or of an answer, whose payload begins with its name or not.
    pub(crate) fn arguments(payload: &Payload) -> serde_json::Result<Vec<Self>> {
        let all: Vec<Value> = serde_json::from_slice(&payload.json)?;
        Ok(all.into_iter().map(|value| Self::with_bytes(value, &payload.attachments)).collect())
    }

    pub(crate) fn object<const N: usize>(fields: [(&str, Self); N]) -> Self {
        Self::Object(fields.map(|(name, value)| (name.to_owned(), value)).into())
    }

    /// A field of an object.
    pub(crate) fn field(&self, name: &str) -> Option<&Self> {
        let Self::Object(fields) = self else { return None };
        fields.iter().find(|(known, _)| known == name).map(|(_, value)| value)
    }

    /// Its JSON; bytes become lists of numbers.
    pub(crate) fn json(&self) -> Value {
        match self {
            Self::Plain(value) => value.clone(),
            Self::Bytes(bytes) => bytes.to_vec().into(),
            Self::List(items) => items.iter().map(Self::json).collect(),
            Self::Object(fields) => fields.iter().map(|(name, value)| (name.clone(), value.json())).collect(),
        }
    }

    fn with_bytes(value: Value, attachments: &[Bytes]) -> Self {
        match value {
            Value::Array(items) => {
                Self::List(items.into_iter().map(|item| Self::with_bytes(item, attachments)).collect())
            }
            Value::Object(fields) => {
                if fields.get("_placeholder") == Some(&Value::Bool(true))
                    && let Some(attachment) = fields.get("num").and_then(Value::as_u64)
                    && let Some(bytes) = attachments.get(attachment as usize)
                {
                    return Self::Bytes(bytes.clone());
                }
                let fields =
                    fields.into_iter().map(|(name, value)| (name, Self::with_bytes(value, attachments)));
                Self::Object(fields.collect())
            }
            value => Self::Plain(value),
        }
    }
}

impl Default for Any {
    fn default() -> Self {
        Self::Plain(Value::Null)
    }
}

impl<T: Into<Value>> From<T> for Any {
    fn from(value: T) -> Self {
        Self::Plain(value.into())
    }
}

impl Serialize for Any {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Plain(value) => value.serialize(serializer),
            Self::Bytes(bytes) => serializer.serialize_bytes(bytes),
            Self::List(items) => items.serialize(serializer),
            Self::Object(fields) => {
                let mut map = serializer.serialize_map(Some(fields.len()))?;
                fields.iter().try_for_each(|(name, value)| map.serialize_entry(name, value))?;
                map.end()
            }
        }
    }
}

impl Serialize for Arguments {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut tuple = serializer.serialize_tuple(self.0.len())?;
        self.0.iter().try_for_each(|argument| tuple.serialize_element(argument))?;
        tuple.end()
    }
}
