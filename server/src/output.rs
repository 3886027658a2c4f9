//! What people see: numbers, tables, colours, and peers' strings made harmless.
//!
//! Colour is used on a terminal only, and never when `NO_COLOR` is set. Nothing here talks to the engine.

use std::fmt::{self, Display, Write as _};
use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use anstyle::{AnsiColor, Style};
use comfy_table::{CellAlignment, ContentArrangement, Table, presets};
use serde::Serialize;

/// Longest piece of a peer's text that is shown; the rest is cut.
pub(crate) const SHOWN_BYTES_MAX: usize = 256;

/// Style of an error's first word.
pub(crate) const ERROR: Style = AnsiColor::Red.on_default().bold();
/// Style of a notice that something was lost.
pub(crate) const WARNING: Style = AnsiColor::Yellow.on_default();
/// Style of a hint, and of labels beside values.
pub(crate) const LABEL: Style = Style::new().dimmed();
/// Style of what the eye should find first.
pub(crate) const STRONG: Style = Style::new().bold();

/// Text in `style` when `terminal`, plain text otherwise.
pub(crate) fn styled(terminal: bool, style: Style, text: impl Display) -> String {
    if terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()) {
        format!("{style}{text}{style:#}")
    } else {
        text.to_string()
    }
}

/// Whether standard error is a terminal.
pub(crate) fn stderr_is_terminal() -> bool {
    io::stderr().is_terminal()
}

/// Writes one line to standard error. A closed standard error is nobody's error.
pub(crate) fn notice(line: impl Display) {
    let _closed = writeln!(io::stderr(), "{line}");
}

/// Writes over the line the cursor is on, for progress. Use it on a terminal only.
pub(crate) fn overwrite(line: impl Display) {
    // Return to the first column, clear the line, write, and leave the cursor where the next line overwrites it.
    let _closed = write!(io::stderr(), "\r\x1b[2K{line}\r");
}

/// A peer's text, with control and bidirectional characters escaped and cut at [`SHOWN_BYTES_MAX`] bytes.
pub(crate) fn harmless(text: &str) -> String {
    let mut shown = String::with_capacity(text.len().min(SHOWN_BYTES_MAX));
    for c in text.chars() {
        if shown.len() >= SHOWN_BYTES_MAX {
            shown.push('…');
            break;
        }
        push_harmless(&mut shown, c);
    }
    shown
}

/// A payload for a terminal: all of it, but what would move the cursor or change the writing direction escaped.
/// New lines and tabs stay, because people send them.
pub(crate) fn for_terminal(payload: &[u8]) -> String {
    let mut shown = String::with_capacity(payload.len());
    for c in String::from_utf8_lossy(payload).chars() {
        if matches!(c, '\n' | '\t') { shown.push(c) } else { push_harmless(&mut shown, c) }
    }
    shown
}

fn push_harmless(shown: &mut String, c: char) {
    match c {
        '\u{200E}' | '\u{200F}' | '\u{202A}'..='\u{202E}' | '\u{2066}'..='\u{2069}' => {
            shown.extend(c.escape_unicode());
        }
        c if c.is_control() => shown.extend(c.escape_default()),
        c => shown.push(c),
    }
}

/// A whole number with a comma between thousands.
pub(crate) fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at != 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A number of bytes, rounded for reading.
pub(crate) fn rounded_bytes(bytes: u64) -> String {
    let mut amount = bytes as f64;
    for unit in ["B", "KiB", "MiB", "GiB"] {
        if amount < 1_024.0 {
            return if unit == "B" { format!("{bytes} B") } else { format!("{amount:.1} {unit}") };
        }
        amount /= 1_024.0;
    }
    format!("{amount:.1} TiB")
}

/// Messages per second, rounded for reading.
pub(crate) fn rounded_rate(count: u64, elapsed: Duration) -> String {
    let rate = count as f64 / elapsed.as_secs_f64().max(1e-9);
    match rate {
        r if r >= 10_000.0 => format!("{}/s", thousands(r.round() as u64)),
        r if r >= 10.0 => format!("{r:.0}/s"),
        r => format!("{r:.2}/s"),
    }
}

/// A duration, in the unit that suits it.
pub(crate) fn rounded_time(time: Duration) -> String {
    let seconds = time.as_secs();
    match seconds {
        0 if time.is_zero() => "0 s".to_owned(),
        0 if time.as_micros() < 1_000 => format!("{} µs", time.as_micros()),
        0 => format!("{} ms", time.as_millis()),
        1..=99 => format!("{:.1} s", time.as_secs_f64()),
        100..=5_999 => format!("{} min {} s", seconds / 60, seconds % 60),
        6_000..=172_799 => format!("{} h {} min", seconds / 3_600, seconds % 3_600 / 60),
        _ => format!("{} days {} h", seconds / 86_400, seconds % 86_400 / 3_600),
    }
}

/// Singular or plural, with the number: `1 message`, `2 messages`.
pub(crate) fn counted(count: u64, noun: &str) -> String {
    format!("{} {noun}{}", thousands(count), if count == 1 { "" } else { "s" })
}

/// The parts that are not empty, as one sentence: `a, b, c`.
pub(crate) fn joined(parts: impl IntoIterator<Item = String>) -> String {
    let mut text = String::new();
    for part in parts.into_iter().filter(|part| !part.is_empty()) {
        let _infallible = write!(text, "{}{part}", if text.is_empty() { "" } else { ", " });
    }
    text
}

/// A table without lines, as wide as the terminal; columns named in `right` are aligned to the right.
pub(crate) fn table(header: &[&str], right: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> Table {
    let mut table = Table::new();
    table
        .load_style(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Dynamic)
        .set_header(header.iter().map(|name| name.to_uppercase()));
    for row in rows {
        table.add_row(row);
    }
    for (index, name) in header.iter().enumerate() {
        let column = table.column_mut(index).expect("the header gave the table this column");
        column.set_padding((0, 2));
        if right.contains(name) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}

/// A block of `label  value` lines, values aligned.
#[derive(Default)]
pub(crate) struct Facts {
    lines: Vec<(String, String)>,
}

impl Facts {
    /// Adds a line, unless there is nothing to say.
    pub(crate) fn add(&mut self, label: &str, value: impl Into<String>) -> &mut Self {
        let value = value.into();
        if !value.is_empty() {
            self.lines.push((label.to_owned(), value));
        }
        self
    }

    /// The lines as text, with labels dimmed when `terminal`.
    pub(crate) fn render(&self, terminal: bool) -> String {
        let width = self.lines.iter().map(|(label, _)| label.len()).max().unwrap_or(0);
        let mut text = String::new();
        for (label, value) in &self.lines {
            let label = styled(terminal, LABEL, format_args!("{label:<width$}"));
            let _infallible = writeln!(text, "  {label}  {value}");
        }
        text
    }
}

/// Writes `value` as one line of JSON.
pub(crate) fn write_json(mut out: impl Write, value: &impl Serialize) -> io::Result<()> {
    serde_json::to_writer(&mut out, value)?;
    out.write_all(b"\n")?;
    out.flush()
}

/// Writes text to standard output. A reader that went away ends the program quietly, elsewhere.
pub(crate) fn write_text(text: impl Display) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{text}")?;
    out.flush()
}

/// Lower-case hex digits of `bytes`.
pub(crate) struct Hex<'a>(pub(crate) &'a [u8]);

impl Display for Hex<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thousands_are_separated() {
        for (number, text) in [(0, "0"), (999, "999"), (1_000, "1,000"), (1_234_567, "1,234,567")] {
            assert_eq!(thousands(number), text);
        }
    }

    #[test]
    fn sizes_rates_and_times_are_rounded_for_reading() {
        assert_eq!(rounded_bytes(1_023), "1023 B");
        assert_eq!(rounded_bytes(1_536), "1.5 KiB");
        assert_eq!(rounded_bytes(u64::MAX), "16777216.0 TiB");
        assert_eq!(rounded_rate(1_000_000, Duration::from_secs(2)), "500,000/s");
        assert_eq!(rounded_rate(1, Duration::ZERO), "1,000,000,000/s");
        assert_eq!(rounded_rate(1, Duration::from_secs(2)), "0.50/s");
        assert_eq!(rounded_time(Duration::ZERO), "0 s");
        assert_eq!(rounded_time(Duration::from_micros(20)), "20 µs");
        assert_eq!(rounded_time(Duration::from_millis(1_500)), "1.5 s");
        assert_eq!(rounded_time(Duration::from_secs(200_000)), "2 days 7 h");
    }

    #[test]
    fn a_peers_text_cannot_move_the_cursor_or_flood_the_terminal() {
        assert_eq!(harmless("a\x1b[2Jb\r\n"), "a\\u{1b}[2Jb\\r\\n");
        assert_eq!(harmless("\u{202E}evil"), "\\u{202e}evil");
        assert!(harmless(&"x".repeat(10_000)).len() <= SHOWN_BYTES_MAX + '…'.len_utf8());
    }

    #[test]
    fn a_payload_on_a_terminal_keeps_its_lines_and_loses_its_powers() {
        assert_eq!(for_terminal(b"a\tb\nc\x1b]0;title\x07\xFF"), "a\tb\nc\\u{1b}]0;title\\u{7}\u{FFFD}");
    }

    #[test]
    fn colour_is_for_terminals() {
        assert_eq!(styled(false, ERROR, "error"), "error");
    }

    #[test]
    fn a_table_aligns_numbers_to_the_right_and_has_no_lines() {
        let text = table(&["topic", "next"], &["next"], [vec!["a".into(), "7".into()]]).trim_fmt();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines, ["TOPIC  NEXT", "a         7"]);
    }

    #[test]
    fn facts_leave_out_what_is_empty_and_align_the_rest() {
        let text = Facts::default().add("a", "1").add("none", "").add("bcd", "2").render(false);
        assert_eq!(text, "  a    1\n  bcd  2\n");
    }

    #[test]
    fn hex_digits_are_lower_case() {
        assert_eq!(Hex(&[0, 0xAB]).to_string(), "00ab");
    }
}
