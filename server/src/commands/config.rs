//! `twinlane config check`: what a server started with a file would use, or what is wrong with the file.

use std::io::{self, Write as _};

use twinlane::{Auth, Engine};

use crate::args::{ConfigAction, ConfigArgs, ServeArgs};
use crate::config::{ConfigFile, Settings};
use crate::{home, tokens};

/// Checks the file and prints the effective settings.
pub(crate) fn run(args: &ConfigArgs) -> anyhow::Result<()> {
    let ConfigAction::Check { file } = &args.action;
    let settings = Settings::resolve(&ConfigFile::read(file)?, &ServeArgs::default(), &home::surroundings())?;
    if let Some(path) = &settings.token_file {
        tokens::admitted(path)?;
    }
    // The engine has the last word on names and limits; making this one opens no port and touches no disk.
    Engine::new(settings.checking_config(Auth::Open))?;
    let effective = toml::to_string(&settings.to_file())?;
    let mut out = io::stdout().lock();
    writeln!(out, "# {}: correct. The effective settings, defaults included:\n", file.display())?;
    out.write_all(effective.as_bytes())?;
    Ok(())
}
