//! Filters over topic names. Matching is done when a topic or a subscription appears, never per message.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use super::name::{NameError, TopicName, check_shape, is_reserved};
use crate::limits::WILDCARDS_MAX;

/// A pattern over topic names: `*` stands for exactly one level, `**` for any number of last levels.
///
/// At most 8 wildcards. A wildcard in the first level does not match names that belong to the server
/// (`$…`): who wants those says so. Cloning is cheap.
///
/// ```
/// use twinlane_proto::topic::{Filter, TopicName};
///
/// let filter = Filter::parse("plant/*/temperature")?;
/// assert!(filter.matches(&TopicName::parse("plant/line-3/temperature")?));
/// assert!(!filter.matches(&TopicName::parse("plant/temperature")?));
/// assert!(Filter::parse("plant/**")?.matches(&TopicName::parse("plant")?));
/// # Ok::<(), twinlane_proto::topic::NameError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Filter {
    text: Arc<str>,
    has_wildcards: bool,
}

impl Filter {
    /// Checks `text` and makes it a filter. Nothing is allocated for a text that is no filter.
    ///
    /// # Errors
    ///
    /// [`NameError`] says which rule is broken, and where.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        check_shape(text)?;
        let mut wildcards = 0;
        let mut at = 0;
        for level in text.split('/') {
            let is_last = at + level.len() == text.len();
            match level {
                "*" => wildcards += 1,
                "**" if is_last => wildcards += 1,
                "**" => return Err(NameError::DoubleWildcard { at }),
                _ if level.contains('*') => return Err(NameError::WildcardInLevel { at }),
                _ => {}
            }
            at += level.len() + 1;
        }
        if wildcards > WILDCARDS_MAX {
            return Err(NameError::TooManyWildcards);
        }
        Ok(Self { text: text.into(), has_wildcards: wildcards > 0 })
    }

    /// Whether `name` is one of the names this filter stands for.
    #[must_use]
    pub fn matches(&self, name: &TopicName) -> bool {
        if !self.has_wildcards {
            return *self.text == *name.as_str();
        }
        if name.is_reserved() && !is_reserved(&self.text) {
            return false;
        }
        let mut levels = name.levels();
        for pattern in self.text.split('/') {
            if pattern == "**" {
                return true;
            }
            let Some(level) = levels.next() else { return false };
            if pattern != "*" && pattern != level {
                return false;
            }
        }
        levels.next().is_none()
    }

    /// The one name this filter stands for, if it has no wildcard.
    #[must_use]
    pub fn as_name(&self) -> Option<TopicName> {
        (!self.has_wildcards).then(|| TopicName::from_checked(Arc::clone(&self.text)))
    }

    /// The filter as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl From<TopicName> for Filter {
    fn from(name: TopicName) -> Self {
        Self { text: name.as_str().into(), has_wildcards: false }
    }
}

impl fmt::Display for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl AsRef<str> for Filter {
    fn as_ref(&self) -> &str {
        &self.text
    }
}

impl FromStr for Filter {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        Self::parse(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(filter: &str, name: &str) -> bool {
        Filter::parse(filter).unwrap().matches(&TopicName::parse(name).unwrap())
    }

    #[test]
    fn a_filter_without_wildcards_matches_its_own_name_only() {
        assert!(matches("a/b", "a/b"));
        assert!(!matches("a/b", "a/B"));
        assert!(!matches("a/b", "a/b/c"));
        assert_eq!(Filter::parse("a/b").unwrap().as_name().unwrap().as_str(), "a/b");
        assert_eq!(Filter::parse("a/*").unwrap().as_name(), None);
    }

    #[test]
    fn one_star_is_exactly_one_level() {
        assert!(matches("a/*/c", "a/b/c"));
        assert!(matches("*", "a"));
        assert!(!matches("*", "a/b"));
        assert!(!matches("a/*", "a"));
        assert!(!matches("a/*", "a/b/c"));
    }

    #[test]
    fn two_stars_are_zero_or_more_last_levels() {
        assert!(matches("a/**", "a"));
        assert!(matches("a/**", "a/b/c"));
        assert!(matches("**", "a/b"));
        assert!(matches("a/*/**", "a/b"));
        assert!(!matches("a/*/**", "a"));
        assert!(!matches("a/**", "ab"));
    }

    #[test]
    fn a_wildcard_in_the_first_level_does_not_match_reserved_names() {
        assert!(!matches("**", "$server/load"));
        assert!(!matches("*/load", "$server/load"));
        assert!(matches("$server/*", "$server/load"));
        assert!(matches("$server/**", "$server/load"));
        assert!(matches("a/*", "a/$b"));
    }

    #[test]
    fn a_wildcard_stands_alone_in_its_level_and_two_stars_come_last() {
        assert_eq!(Filter::parse("a/b*"), Err(NameError::WildcardInLevel { at: 2 }));
        assert_eq!(Filter::parse("***"), Err(NameError::WildcardInLevel { at: 0 }));
        assert_eq!(Filter::parse("a/**/b"), Err(NameError::DoubleWildcard { at: 2 }));
        assert_eq!(Filter::parse("**/**"), Err(NameError::DoubleWildcard { at: 0 }));
    }

    #[test]
    fn a_filter_has_at_most_8_wildcards() {
        assert!(Filter::parse(&["*"; 8].join("/")).is_ok());
        assert_eq!(Filter::parse(&["*"; 9].join("/")), Err(NameError::TooManyWildcards));
        assert_eq!(Filter::parse(&"*/".repeat(10_000)), Err(NameError::TooLong { bytes: 20_000 }));
    }
}
