//! Reads reports back: JSON objects one after the other, as `--json` prints them, or an array.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use thiserror::Error;

use crate::report::Report;

/// Why a file holds no reports.
#[derive(Debug, Error)]
pub(crate) enum ReadError {
    /// The file itself.
    #[error("cannot read {}", file.display())]
    Unreadable { file: PathBuf, source: io::Error },
    /// What is in it.
    #[error(
        "{}, line {line}: {problem}; expected reports of `twinlane bench … --json`: one object per line, or an array",
        file.display()
    )]
    NotReports { file: PathBuf, line: usize, problem: String },
    /// Nothing is in it.
    #[error("{} is empty; expected reports of `twinlane bench … --json`", file.display())]
    Empty { file: PathBuf },
}

/// All reports of `file`, at least one.
pub(crate) fn reports(file: &Path) -> Result<Vec<Report>, ReadError> {
    let text =
        fs::read_to_string(file).map_err(|source| ReadError::Unreadable { file: file.to_owned(), source })?;
    let reports = parse(&text).map_err(|error| ReadError::NotReports {
        file: file.to_owned(),
        line: error.line(),
        problem: without_place(&error),
    })?;
    if reports.is_empty() {
        return Err(ReadError::Empty { file: file.to_owned() });
    }
    Ok(reports)
}

fn parse(text: &str) -> serde_json::Result<Vec<Report>> {
    if text.trim_start().starts_with('[') {
        return serde_json::from_str(text);
    }
    serde_json::Deserializer::from_str(text).into_iter().collect()
}

/// The error's words without " at line 1 column 2", which the message above says in its own way.
fn without_place(error: &serde_json::Error) -> String {
    let text = error.to_string();
    text.rsplit_once(" at line ").map_or(text.clone(), |(words, _)| words.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::samples;

    #[test]
    fn lines_and_arrays_hold_the_same_reports() {
        let reports = [samples::latency(1.0), samples::latency(2.0)];
        let lines: String =
            reports.iter().map(|report| serde_json::to_string(report).unwrap() + "\n").collect();
        let array = serde_json::to_string_pretty(&reports).unwrap();
        let dates = |text: &str| parse(text).unwrap().into_iter().map(|r| r.date).collect::<Vec<_>>();
        assert_eq!(dates(&lines), dates(&array));
        assert_eq!(dates(&lines).len(), 2);
    }

    #[test]
    fn errors_name_the_line_and_what_is_missing() {
        let good = serde_json::to_string(&samples::latency(1.0)).unwrap();
        let error = parse(&format!("{good}\n{{\"version\": 3}}\n")).unwrap_err();
        assert_eq!(error.line(), 2);
        let error = parse("{\"version\":\"1\"}").unwrap_err();
        assert!(without_place(&error).starts_with("missing field"), "{error}");
    }

    #[test]
    fn a_file_that_is_missing_is_named() {
        let error = reports(Path::new("/nowhere/a.json")).unwrap_err();
        assert_eq!(error.to_string(), "cannot read /nowhere/a.json");
    }
}
