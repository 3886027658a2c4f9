//! Any two texts as filter and name: parsing follows the rules, matching a slow model.

use twinlane_proto::topic::{Filter, TopicName};

/// Text before the first line feed is the filter, after it the name.
pub(crate) fn check(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let (pattern, name) = text.split_once('\n').unwrap_or((text, text));
    let (filter, topic) = (Filter::parse(pattern), TopicName::parse(name));
    assert_eq!(topic.is_ok(), is_name(name), "{name:?}");
    let Ok(filter) = filter else { return };
    assert!(is_name(&pattern.replace('*', "x")), "{pattern:?} has the shape of a name");
    assert_eq!(
        filter.as_name().map(|name| name.to_string()),
        TopicName::parse(pattern).ok().map(|n| n.to_string())
    );
    let Ok(topic) = topic else { return };
    assert!(Filter::from(topic.clone()).matches(&topic), "a name matches itself");
    let pattern_levels: Vec<&str> = pattern.split('/').collect();
    let name_levels: Vec<&str> = name.split('/').collect();
    let hidden = name.starts_with('$') && pattern.starts_with('*');
    assert_eq!(filter.matches(&topic), !hidden && model(&pattern_levels, &name_levels), "{pattern} {name}");
}

fn model(pattern: &[&str], name: &[&str]) -> bool {
    match (pattern, name) {
        ([], []) | (["**"], _) => true,
        (["*", pattern @ ..], [_, name @ ..]) => model(pattern, name),
        ([level, pattern @ ..], [other, name @ ..]) => level == other && model(pattern, name),
        _ => false,
    }
}

fn is_name(text: &str) -> bool {
    let levels: Vec<&str> = text.split('/').collect();
    let forbidden = |c: char| {
        c == '*'
            || c < ' '
            || ('\u{7f}'..='\u{9f}').contains(&c)
            || "\u{202a}\u{202b}\u{202c}\u{202d}\u{202e}\u{2066}\u{2067}\u{2068}\u{2069}".contains(c)
    };
    text.len() <= 255
        && levels.len() <= 16
        && levels.iter().all(|level| !level.is_empty())
        && !text.contains(forbidden)
}
