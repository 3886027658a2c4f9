//! What no compiler checks: file headers and lengths, leftovers, where unsafe code is, links, the README's facts.
//!
//! Read as text, line by line; function lengths and everything else that needs a parser are clippy's.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

use crate::command::say;

/// Lines of a source file at most, without blank ones and comments.
const CODE_LINES_MAX: usize = 500;
/// The one folder whose code may be unsafe.
const UNSAFE_FOLDER: &str = "engine/ring";
/// Folders with nothing that a person wrote.
const SKIPPED_FOLDERS: [&str; 6] = ["target", "corpus", "artifacts", "coverage", "node_modules", "artefacts"];
/// Marks of unfinished work.
const LEFTOVERS: [&str; 4] =
    [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("to", "do!"), concat!("unimple", "mented!")];
/// What follows the keyword where unsafe code begins, as rustfmt writes it.
const AFTER_UNSAFE: [&str; 6] = [" {", " fn ", " impl", " trait ", " extern ", "("];

/// Checks the workspace and lists the offenders.
pub(crate) fn tidy() -> anyhow::Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask lies in the workspace");
    let mut paths = Vec::new();
    collect(root, &mut paths)?;
    paths.sort();
    let mut offenders = Vec::new();
    for path in &paths {
        let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        let name = path.strip_prefix(root).unwrap_or(path).to_string_lossy().into_owned();
        let mut found = leftovers(&text);
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("rs") => found.extend(source(&name, &text)),
            Some("md") => found.extend(broken_links(path, &text)),
            _ => {}
        }
        if name == "README.md" {
            found.extend(stale_version(&text, env!("CARGO_PKG_RUST_VERSION")));
        }
        offenders.extend(found.into_iter().map(|Finding { line, what }| (format!("{name}:{line}"), what)));
    }
    if offenders.is_empty() {
        say(&format!("{} files are tidy", paths.len()));
        return Ok(());
    }
    let width = offenders.iter().map(|(place, _)| place.len()).max().unwrap_or(0);
    offenders.iter().for_each(|(place, what)| say(&format!("{place:width$}  {what}")));
    bail!("{} offenders in {} files", offenders.len(), paths.len());
}

/// Something to put right.
#[derive(Debug, PartialEq, Eq)]
struct Finding {
    /// From 1.
    line: usize,
    what: String,
}

impl Finding {
    fn new(line: usize, what: impl Into<String>) -> Self {
        Self { line, what: what.into() }
    }
}

/// The sources, documents and manifests below `folder`.
fn collect(folder: &Path, paths: &mut Vec<PathBuf>) -> anyhow::Result<()> {
    let entries = fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?;
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let is_hidden = name.starts_with('.') && name != ".ci" && name != ".cargo";
        if is_hidden || SKIPPED_FOLDERS.contains(&name.as_ref()) {
            continue;
        }
        let path = entry.path();
        if entry.file_type()?.is_dir() {
            collect(&path, paths)?;
        } else if name.rsplit_once('.').is_some_and(|(_, kind)| matches!(kind, "rs" | "md" | "toml" | "sh"))
            || folder.file_name().is_some_and(|folder| folder == ".ci")
        {
            paths.push(path);
        }
    }
    Ok(())
}

fn leftovers(text: &str) -> Vec<Finding> {
    let mut found = Vec::new();
    for (number, line) in numbered(text) {
        let left = LEFTOVERS.iter().filter(|mark| line.contains(**mark));
        found.extend(left.map(|mark| Finding::new(number, format!("{mark} is left in it"))));
    }
    found
}

/// What is asked of Rust files. `name` is relative to the workspace.
fn source(name: &str, text: &str) -> Vec<Finding> {
    let mut found = Vec::new();
    if !text.starts_with("//!") {
        found.push(Finding::new(1, "does not open with a //! line that says what it is for"));
    }
    let code_lines = numbered(text).filter(|(_, line)| is_code(line)).count();
    if code_lines > CODE_LINES_MAX {
        found.push(Finding::new(1, format!("has {code_lines} lines of code, {CODE_LINES_MAX} are allowed")));
    }
    if Path::new(name).starts_with(UNSAFE_FOLDER) {
        return found;
    }
    let is_root = name.ends_with("src/lib.rs") || name.ends_with("src/main.rs");
    if is_root && !text.contains("#![forbid(unsafe_code)]") {
        found.push(Finding::new(1, "does not forbid unsafe_code"));
    }
    let unsafe_lines = numbered(text).filter(|(_, line)| is_code(line) && has_unsafe(line));
    found.extend(
        unsafe_lines.map(|(number, _)| Finding::new(number, format!("unsafe outside {UNSAFE_FOLDER}"))),
    );
    found
}

fn is_code(line: &str) -> bool {
    let line = line.trim_start();
    !line.is_empty() && !line.starts_with("//")
}

fn has_unsafe(line: &str) -> bool {
    let is_word_end = |letter: char| letter.is_alphanumeric() || letter == '_';
    line.match_indices("unsafe").any(|(at, word)| {
        let after = &line[at + word.len()..];
        !line[..at].ends_with(is_word_end) && AFTER_UNSAFE.iter().any(|next| after.starts_with(next))
    })
}

/// Links of the document at `path` to files and headings that do not exist. The network is not asked.
fn broken_links(path: &Path, text: &str) -> Vec<Finding> {
    let mut found = Vec::new();
    for (number, line) in prose(text) {
        for target in link_targets(line) {
            if target.contains("://") || target.starts_with("mailto:") {
                continue;
            }
            let (file, heading) = target.split_once('#').unwrap_or((target, ""));
            let linked = match file {
                "" => Ok(text.to_owned()),
                file => read_linked(&path.with_file_name(file)),
            };
            match linked {
                Err(_) => found.push(Finding::new(number, format!("links to {file}, which does not exist"))),
                Ok(linked) if !heading.is_empty() && !headings(&linked).any(|known| known == heading) => {
                    let what = format!("links to the heading #{heading}, which does not exist");
                    found.push(Finding::new(number, what));
                }
                Ok(_) => {}
            }
        }
    }
    found
}

/// `[words](target)`, as often as it occurs.
fn link_targets(line: &str) -> impl Iterator<Item = &str> {
    line.split("](").skip(1).filter_map(|rest| Some(rest.split_once(')')?.0))
}

/// The text behind a link; a folder has none.
fn read_linked(path: &Path) -> std::io::Result<String> {
    if path.is_dir() { Ok(String::new()) } else { fs::read_to_string(path) }
}

/// The anchors of a document's headings.
fn headings(text: &str) -> impl Iterator<Item = String> {
    let titles = prose(text).filter_map(|(_, line)| line.strip_prefix('#'));
    titles.map(|title| anchor(title.trim_start_matches('#').trim()))
}

/// A heading's anchor, by the rule of the common forges.
fn anchor(title: &str) -> String {
    let kept = title.chars().filter(|letter| letter.is_alphanumeric() || matches!(letter, ' ' | '-' | '_'));
    kept.flat_map(char::to_lowercase).map(|letter| if letter == ' ' { '-' } else { letter }).collect()
}

/// Lines outside of fenced code.
fn prose(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut is_fenced = false;
    numbered(text).filter(move |(_, line)| {
        let is_fence = line.trim_start().starts_with("```");
        is_fenced ^= is_fence;
        !is_fence && !is_fenced
    })
}

/// The README names the compiler that is needed, and it is the one in the manifest.
fn stale_version(text: &str, rust_version: &str) -> Vec<Finding> {
    let mut is_named = false;
    let mut found = Vec::new();
    for (number, line) in numbered(text) {
        for (at, _) in line.match_indices("Rust 1.") {
            is_named = true;
            let named =
                line[at + "Rust ".len()..].split(|letter: char| !letter.is_ascii_digit() && letter != '.');
            let named = named.map(|version| version.trim_end_matches('.')).next().unwrap_or_default();
            if named != rust_version {
                found.push(Finding::new(number, format!("names Rust {named}, the manifest {rust_version}")));
            }
        }
    }
    if !is_named {
        found.push(Finding::new(1, format!("does not say that Rust {rust_version} is needed")));
    }
    found
}

fn numbered(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.lines().enumerate().map(|(index, line)| (index + 1, line))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whats(found: &[Finding]) -> Vec<(usize, &str)> {
        found.iter().map(|finding| (finding.line, finding.what.as_str())).collect()
    }

    #[test]
    fn a_source_file_opens_with_what_it_is_for() {
        assert!(source("proto/src/code.rs", "//! Why.\n").is_empty());
        assert_eq!(source("proto/src/code.rs", "use a;\n//! Why.\n")[0].line, 1);
    }

    #[test]
    fn blank_lines_and_comments_are_no_code() {
        let allowed = format!("//! Why.\n{}", "let a = 1;\n\n    // why\n".repeat(CODE_LINES_MAX));
        assert!(source("proto/src/code.rs", &allowed).is_empty());
        let found = source("proto/src/code.rs", &format!("{allowed}let b = 2;\n"));
        assert_eq!(whats(&found), [(1, "has 501 lines of code, 500 are allowed")]);
    }

    #[test]
    fn unsafe_code_is_only_in_the_ring() {
        let text = format!("//! Why.\n{0} fn f() {{}}\nlet a = {0} {{ g() }};\n// {0} {{\n", "unsafe");
        assert!(source("engine/ring/src/run.rs", &text).is_empty());
        let lines: Vec<_> = source("engine/src/engine.rs", &text).iter().map(|found| found.line).collect();
        assert_eq!(lines, [2, 3]);
        assert!(source("engine/src/lib.rs", "//! No unsafe here.\n#![forbid(unsafe_code)]\n").is_empty());
        assert_eq!(source("engine/src/lib.rs", "//! Why.\n").len(), 1);
    }

    #[test]
    fn unfinished_work_is_found_in_code_and_comments() {
        let text = LEFTOVERS.map(|mark| format!("// {mark}: later\n")).concat();
        assert_eq!(leftovers(&text).len(), LEFTOVERS.len());
        assert!(leftovers("the method to do it\n").is_empty());
    }

    #[test]
    fn links_lead_to_files_and_headings_that_exist() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("NOTES.md");
        let good =
            "# 1. Its `use`\n[a](Cargo.toml) [b](#1-its-use) [c](https://example.com/x)\n```\n[d](no)\n```\n";
        assert!(broken_links(&path, good).is_empty());
        let found = broken_links(&path, "\n[a](no.md) [b](#nowhere)\n");
        let expected = [
            (2, "links to no.md, which does not exist"),
            (2, "links to the heading #nowhere, which does not exist"),
        ];
        assert_eq!(whats(&found), expected);
    }

    #[test]
    fn the_readme_names_the_compiler_of_the_manifest() {
        assert!(stale_version("Needs Rust 1.95.\n", "1.95").is_empty());
        assert_eq!(
            whats(&stale_version("\nRust 1.80 or later\n", "1.95")),
            [(2, "names Rust 1.80, the manifest 1.95")]
        );
        assert_eq!(stale_version("Fast.\n", "1.95").len(), 1);
    }
}
