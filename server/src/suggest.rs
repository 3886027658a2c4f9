//! "Did you mean …": the known word nearest to the one that was written.

/// Below this likeness (0 to 1, Jaro-Winkler) two words have nothing to do with each other.
const LIKENESS_MIN: f64 = 0.75;

/// Turns a deserialiser's "unknown field `x`, expected one of …" into "unknown key `x`: did you mean `y`?".
/// Any other message stays as it is.
pub(crate) fn with_suggestion(message: &str) -> String {
    let mut quoted = message.split('`').skip(1).step_by(2);
    let (Some(rest), Some(word)) = (message.strip_prefix("unknown "), quoted.next()) else {
        return message.to_owned();
    };
    let kind = if rest.starts_with("field") { "key" } else { "value" };
    let known: Vec<&str> = quoted.collect();
    match nearest(word, &known) {
        Some(meant) => format!("unknown {kind} `{word}`: did you mean `{meant}`?"),
        None => format!("unknown {kind} `{word}`: known are {}", known.join(", ")),
    }
}

fn nearest<'a>(word: &str, known: &[&'a str]) -> Option<&'a str> {
    known
        .iter()
        .map(|&candidate| (strsim::jaro_winkler(word, candidate), candidate))
        .filter(|(likeness, _)| *likeness >= LIKENESS_MIN)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_near_miss_names_the_word_that_was_meant() {
        let message = "unknown field `lisen`, expected one of `listen`, `name`, `tcp`";
        assert_eq!(with_suggestion(message), "unknown key `lisen`: did you mean `listen`?");
        let message = "unknown variant `relyable`, expected `fast` or `reliable`";
        assert_eq!(with_suggestion(message), "unknown value `relyable`: did you mean `reliable`?");
    }

    #[test]
    fn a_word_like_nothing_known_lists_what_is_known() {
        let message = "unknown field `zzz`, expected `listen` or `name`";
        assert_eq!(with_suggestion(message), "unknown key `zzz`: known are listen, name");
    }

    #[test]
    fn other_messages_stay() {
        assert_eq!(with_suggestion("invalid type: integer `1`"), "invalid type: integer `1`");
    }
}
