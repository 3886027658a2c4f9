//! Topic names: what is one, and what is wrong with a text that is not.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use thiserror::Error;

use crate::limits::{TOPIC_BYTES_MAX, TOPIC_LEVELS_MAX, WILDCARDS_MAX};

/// The name of a topic: 1 to 255 bytes of levels separated by `/`, at most 16 of them.
///
/// No level is empty, and none contains `*`, a control character or a character that changes the writing
/// direction (which could make two names look alike). Cloning is cheap.
///
/// ```
/// use twinlane_proto::topic::TopicName;
///
/// let name = TopicName::parse("plant/line-3/temperature")?;
/// assert_eq!(name.levels().count(), 3);
/// assert!(TopicName::parse("plant//temperature").is_err());
/// # Ok::<(), twinlane_proto::topic::NameError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicName(Arc<str>);

impl TopicName {
    /// Checks `text` and makes it a name. Nothing is allocated for a text that is no name.
    ///
    /// # Errors
    ///
    /// [`NameError`] says which rule is broken, and where.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        check_shape(text)?;
        match text.find('*') {
            Some(at) => Err(NameError::Wildcard { at }),
            None => Ok(Self(text.into())),
        }
    }

    /// Whether the name belongs to the server: it begins with `$`.
    #[must_use]
    pub fn is_reserved(&self) -> bool {
        is_reserved(&self.0)
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The levels in their order.
    pub fn levels(&self) -> impl Iterator<Item = &str> {
        self.0.split('/')
    }

    /// A filter's text that is known to be a name.
    pub(super) fn from_checked(text: Arc<str>) -> Self {
        Self(text)
    }
}

impl fmt::Display for TopicName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl AsRef<str> for TopicName {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

// Sound because equality, order and hash of a name are those of its text.
impl std::borrow::Borrow<str> for TopicName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl FromStr for TopicName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        Self::parse(text)
    }
}

/// Why a text is no topic name or filter. `at` is a byte position in the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum NameError {
    /// The text is empty.
    #[error("a topic name has at least one character")]
    Empty,
    /// The text is too long.
    #[error("topic name of {bytes} bytes, limit is {TOPIC_BYTES_MAX}")]
    TooLong {
        /// Length of the text.
        bytes: usize,
    },
    /// The text has too many levels.
    #[error("topic name of more than {TOPIC_LEVELS_MAX} levels")]
    TooManyLevels,
    /// Nothing stands before, between or after slashes.
    #[error("empty level at byte {at}: no leading, trailing or double slash")]
    EmptyLevel {
        /// Where the empty level would begin.
        at: usize,
    },
    /// A control character, or one that changes the writing direction.
    #[error("character U+{:04X} at byte {at} is not allowed in a topic name", *.character as u32)]
    Character {
        /// The character.
        character: char,
        /// Where it stands.
        at: usize,
    },
    /// A name contains `*`.
    #[error("`*` at byte {at}: wildcards are for filters, not for names")]
    Wildcard {
        /// Where it stands.
        at: usize,
    },
    /// A filter's level mixes `*` with other characters.
    #[error("`*` at byte {at} must be a whole level")]
    WildcardInLevel {
        /// Where the level begins.
        at: usize,
    },
    /// A filter's `**` is not its last level.
    #[error("`**` at byte {at} must be the last level")]
    DoubleWildcard {
        /// Where it stands.
        at: usize,
    },
    /// A filter has too many wildcards.
    #[error("filter with more than {WILDCARDS_MAX} wildcards")]
    TooManyWildcards,
}

/// Checks what names and filters have in common.
pub(super) fn check_shape(text: &str) -> Result<(), NameError> {
    if text.is_empty() {
        return Err(NameError::Empty);
    }
    // Before anything walks the text: a hostile one may be long.
    if text.len() > TOPIC_BYTES_MAX {
        return Err(NameError::TooLong { bytes: text.len() });
    }
    let mut at = 0;
    for (level_index, level) in text.split('/').enumerate() {
        if level_index == TOPIC_LEVELS_MAX {
            return Err(NameError::TooManyLevels);
        }
        if level.is_empty() {
            return Err(NameError::EmptyLevel { at });
        }
        if let Some((within, character)) = level.char_indices().find(|(_, c)| is_unprintable(*c)) {
            return Err(NameError::Character { character, at: at + within });
        }
        at += level.len() + 1;
    }
    Ok(())
}

pub(super) fn is_reserved(text: &str) -> bool {
    text.starts_with('$')
}

/// Whether a character could break a log line or change how the text around it looks.
pub(crate) fn is_unprintable(character: char) -> bool {
    character.is_control() || matches!(character, '\u{202A}'..='\u{202E}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_has_1_to_255_bytes() {
        assert_eq!(TopicName::parse(""), Err(NameError::Empty));
        assert!(TopicName::parse(&"n".repeat(255)).is_ok());
        assert_eq!(TopicName::parse(&"n".repeat(256)), Err(NameError::TooLong { bytes: 256 }));
        assert_eq!(TopicName::parse(&"n".repeat(64 << 10)), Err(NameError::TooLong { bytes: 64 << 10 }));
    }

    #[test]
    fn a_name_has_at_most_16_levels() {
        assert!(TopicName::parse(&["l"; 16].join("/")).is_ok());
        assert_eq!(TopicName::parse(&["l"; 17].join("/")), Err(NameError::TooManyLevels));
        assert_eq!(TopicName::parse(&["l"; 1_000].join("/")), Err(NameError::TooLong { bytes: 1_999 }));
    }

    #[test]
    fn a_name_has_no_empty_level() {
        for (text, at) in [("/", 0), ("/a", 0), ("a/", 2), ("a//b", 2)] {
            assert_eq!(TopicName::parse(text), Err(NameError::EmptyLevel { at }), "{text}");
        }
    }

    #[test]
    fn a_name_has_no_control_direction_or_wildcard_character() {
        for character in ['\0', '\n', '\u{7f}', '\u{85}', '\u{202a}', '\u{202e}', '\u{2066}', '\u{2069}'] {
            let text = format!("aé/b{character}");
            assert_eq!(TopicName::parse(&text), Err(NameError::Character { character, at: 5 }));
        }
        assert!(TopicName::parse("a/\u{2029}\u{202f}\u{2065}\u{206a}").is_ok(), "neighbours are allowed");
        assert_eq!(TopicName::parse("a/b*"), Err(NameError::Wildcard { at: 3 }));
    }

    #[test]
    fn a_name_that_begins_with_a_dollar_sign_is_reserved() {
        assert!(TopicName::parse("$server/load").unwrap().is_reserved());
        assert!(!TopicName::parse("price/$").unwrap().is_reserved());
    }

    #[test]
    fn a_name_error_tells_where() {
        let error = TopicName::parse("a/\u{202e}b").unwrap_err();
        assert_eq!(error.to_string(), "character U+202E at byte 2 is not allowed in a topic name");
    }
}
