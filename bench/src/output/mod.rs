//! What `twinlane bench` makes of reports besides its table: CSV, plots, a comparison of two files, and the HTML
//! report of a whole round of runs.
//!
//! Everything here reads finished [`Report`]s. Nothing here measures, except that [`all`] asks for one run after
//! the other.

use std::{
    fs,
    io::{self, Write as _},
    path::Path,
    process,
};

use anyhow::Context as _;

use crate::{machine::Machine, report::Report};

pub mod all;
pub mod compare;
pub mod csv;
pub mod duel;
pub mod plots;

mod chart;
mod figures;
mod html;
mod presets;
mod read;
mod scale;

/// Which build measured, where and when, in one line.
fn place(report: &Report) -> String {
    format!("{}, {}, {}", build(report), machine(&report.machine), report.date)
}

fn build(report: &Report) -> String {
    format!("twinlane {} ({})", report.version, report.commit.as_deref().unwrap_or("commit unknown"))
}

fn machine(machine: &Machine) -> String {
    let Machine { cpu, cores, kernel } = machine;
    let cpu = cpu.as_deref().unwrap_or("unknown CPU");
    format!("{cpu}, {cores} cores, {}", kernel.as_deref().unwrap_or("unknown kernel"))
}

/// `-`, where a file is asked for.
pub(crate) fn is_stdout(path: &Path) -> bool {
    path.as_os_str() == "-"
}

/// Writes a whole file or nothing: whoever is interrupted leaves the old one. `-` is standard output. What is there and
/// is no plain file (a device, a pipe, a link) is written to and stays what it is.
pub(crate) fn write_file(path: &Path, text: &str) -> anyhow::Result<()> {
    if is_stdout(path) {
        return print(text.trim_end());
    }
    if path.symlink_metadata().is_ok_and(|there| !there.is_file()) {
        return fs::write(path, text).with_context(|| format!("cannot write {}", path.display()));
    }
    let name = path.file_name().with_context(|| format!("{} names no file", path.display()))?;
    let beside = path.with_file_name(format!(".{}.{}", name.to_string_lossy(), process::id()));
    let written = fs::write(&beside, text).and_then(|()| fs::rename(&beside, path));
    if written.is_err() {
        // The error to report is the first one.
        let _ = fs::remove_file(&beside);
    }
    written.with_context(|| format!("cannot write {}", path.display()))
}

pub(crate) fn print(text: &str) -> anyhow::Result<()> {
    Ok(writeln!(io::stdout().lock(), "{text}")?)
}

#[cfg(test)]
mod samples;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_as_a_whole_and_nothing_stays_beside_it() {
        let folder = std::env::temp_dir().join(format!("twinlane-output-{}", process::id()));
        fs::create_dir_all(&folder).unwrap();
        let path = folder.join("report.html");
        for text in ["the first, longer text", "the second"] {
            write_file(&path, text).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
        }
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 1);
        let error = write_file(&folder.join("missing/report.html"), "").unwrap_err().to_string();
        assert!(error.starts_with("cannot write"), "{error}");
        fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn what_is_no_plain_file_is_written_to_and_stays_what_it_is() {
        let folder = std::env::temp_dir().join(format!("twinlane-output-link-{}", process::id()));
        fs::create_dir_all(&folder).unwrap();
        let (path, link) = (folder.join("report.html"), folder.join("link.html"));
        std::os::unix::fs::symlink(&path, &link).unwrap();
        write_file(&link, "through the link").unwrap();
        assert!(link.symlink_metadata().unwrap().is_symlink());
        assert_eq!(fs::read_to_string(&path).unwrap(), "through the link");
        fs::remove_dir_all(&folder).unwrap();
    }
}
