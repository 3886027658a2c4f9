//! `PROTOCOL.md` says what the code does: its tables and examples are compared here.

use std::path::Path;

use twinlane_proto::limits::{
    CONTROL_BYTES_MAX, FRAME_BYTES_CEILING, FRAME_BYTES_FLOOR, FRAME_BYTES_MAX_BEFORE_WELCOME,
};
use twinlane_proto::{Code, Control};

fn text(file: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The first two cells of every table row.
fn rows(document: &str) -> Vec<(&str, &str)> {
    let cells = |line: &str| line.strip_prefix("| ").is_some();
    let rows = document.lines().filter(|line| cells(line));
    rows.filter_map(|line| {
        let mut cells = line.trim_start_matches("| ").split(" | ");
        Some((cells.next()?, cells.next()?))
    })
    .collect()
}

/// The bytes of the example for a vector, without their comments.
fn example(document: &str, vector: &str) -> Vec<String> {
    let begin = format!("```hex {vector}\n");
    let block = document.split(&begin).nth(1).and_then(|rest| rest.split("```").next());
    let lines = block.unwrap_or_else(|| panic!("no example {vector}")).lines();
    lines
        .flat_map(|line| line.split('|').next().unwrap_or("").split_whitespace())
        .map(str::to_owned)
        .collect()
}

fn vector(file: &str, name: &str) -> Vec<String> {
    let text = text(file);
    let after = text.split(&format!("name: {name}\n")).nth(1).unwrap_or_else(|| panic!("no vector {name}"));
    let hex = after.lines().find_map(|line| line.strip_prefix("hex: ")).unwrap_or("");
    hex.split_whitespace().map(str::to_owned).collect()
}

#[test]
fn the_worked_examples_are_the_vectors() {
    let document = text("PROTOCOL.md");
    assert_eq!(example(&document, "run"), vector("vectors/run.txt", "run"));
    assert_eq!(example(&document, "hello"), vector("vectors/control.txt", "hello"));
}

#[test]
fn every_control_type_is_in_its_table_and_no_other() {
    let document = text("PROTOCOL.md");
    let listed: Vec<(String, &str)> = rows(&document)
        .into_iter()
        .filter(|(number, _)| number.starts_with("0x"))
        .map(|(number, name)| (number.to_owned(), name))
        .collect();
    let known: Vec<(String, &str)> =
        Control::TYPES.iter().map(|(number, name)| (format!("{number:#06x}"), *name)).collect();
    assert_eq!(listed, known);
}

#[test]
fn every_code_is_in_its_table_and_no_other() {
    let document = text("PROTOCOL.md");
    let table =
        document.split("| code | name |").nth(1).and_then(|rest| rest.split("\n\n").next()).unwrap_or("");
    let listed: Vec<(String, String)> = rows(table)
        .into_iter()
        .filter(|(number, _)| number.parse::<u16>().is_ok())
        .map(|(number, name)| (number.to_owned(), name.to_owned()))
        .collect();
    let known: Vec<(String, String)> =
        Code::ALL.iter().map(|code| (code.to_u16().to_string(), code.to_string())).collect();
    assert_eq!(listed, known);
}

#[test]
fn the_limits_in_the_text_are_those_of_the_code() {
    let document = text("PROTOCOL.md").replace(',', "");
    for limit in [CONTROL_BYTES_MAX, FRAME_BYTES_FLOOR, FRAME_BYTES_MAX_BEFORE_WELCOME] {
        assert!(document.contains(&limit.to_string()), "{limit}");
    }
    assert!(document.contains("2^24 - 1") && FRAME_BYTES_CEILING == (1 << 24) - 1);
}
