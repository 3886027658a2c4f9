//! Where a user's files live, by the XDG base directory convention, and what machine this is.

use std::env;
use std::path::{Path, PathBuf};
use std::thread;

use crate::config::Surroundings;

/// `$XDG_CONFIG_HOME/twinlane`, else `~/.config/twinlane`; `None` without a home.
pub(crate) fn config_dir() -> Option<PathBuf> {
    base_dir("XDG_CONFIG_HOME", ".config")
}

/// `$XDG_DATA_HOME/twinlane`, else `~/.local/share/twinlane`; `None` without a home.
pub(crate) fn data_dir() -> Option<PathBuf> {
    base_dir("XDG_DATA_HOME", ".local/share")
}

/// What this machine and user contribute to a server's settings.
pub(crate) fn surroundings() -> Surroundings {
    Surroundings {
        host_name: host_name(),
        processors: thread::available_parallelism().map_or(1, usize::from),
        data_home: data_dir(),
    }
}

fn base_dir(variable: &str, under_home: &str) -> Option<PathBuf> {
    // The convention: a relative path in these variables is to be ignored.
    let absolute = |name: &str| env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let base =
        absolute(variable).or_else(|| absolute("HOME").map(|home| home.join(Path::new(under_home))))?;
    Some(base.join("twinlane"))
}

/// The machine's name, cut to what the engine takes as a server's name.
fn host_name() -> String {
    let system = rustix::system::uname();
    let name: String =
        system.nodename().to_string_lossy().chars().filter(char::is_ascii_graphic).take(64).collect();
    if name.is_empty() { "twinlane".to_owned() } else { name }
}
