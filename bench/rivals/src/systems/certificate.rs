//! A certificate for loopback, made anew for every run.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::Result;

/// Where a certificate and its key are. The certificate is its own authority.
#[derive(Clone, Debug)]
pub(super) struct Certificate {
    pub(super) certificate: PathBuf,
    pub(super) key: PathBuf,
}

impl Certificate {
    /// Writes both into `directory`, as PEM files.
    pub(super) fn make(directory: &Path) -> Result<Self> {
        let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned(), "localhost".to_owned()])?;
        let (certificate, key) = (directory.join("rival-certificate.pem"), directory.join("rival-key.pem"));
        fs::write(&certificate, made.cert.pem())?;
        fs::write(&key, made.signing_key.serialize_pem())?;
        Ok(Self { certificate, key })
    }
}
