//! Who a server is: its certificate and key, and the fingerprint that clients pin.
//!
//! Keys stay in this file and in the TLS library: nothing prints them, and a key file that others can read is
//! refused.

use std::fmt;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use rustls::CipherSuite;
use rustls::crypto::CryptoProvider;
use rustls::server::NoServerSessionStorage;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use sha2::{Digest as _, Sha256};

use super::error::ListenError;
use super::web_certificate::{ByProtocol, WebCertificate};
use super::{ALPN, H3};

/// How a server proves who it is.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Identity {
    /// A self-signed certificate that is made at the first start and used again at every later one, so that its
    /// [`Fingerprint`] stays the same and clients can pin it.
    ///
    /// `dir` holds `cert.pem` and `key.pem`. It is made with mode 0700 and the key with mode 0600; a key that
    /// others can read and symbolic links are refused.
    SelfSigned {
        /// The directory of the two files.
        dir: PathBuf,
    },
    /// A self-signed certificate that lives as long as the process: each start has a new fingerprint.
    SelfSignedInMemory,
    /// A certificate chain and key in PEM files, from an authority or made by hand.
    Pem {
        /// The server's certificate first, then the intermediate ones.
        cert: PathBuf,
        /// The private key: PKCS #8, PKCS #1 or SEC1.
        key: PathBuf,
    },
}

/// SHA-256 of a certificate (its DER form): 32 bytes that name one server.
///
/// Prints as 64 lower-case hex digits; reads them back, with or without colons, in either case.
///
/// ```
/// # use twinlane::Fingerprint;
/// let printed = "AB:".repeat(31) + "AB";
/// let fingerprint: Fingerprint = printed.parse().unwrap();
/// assert_eq!(fingerprint.to_string(), "ab".repeat(32));
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fingerprint([u8; 32]);

/// A text is not a [`Fingerprint`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a fingerprint is 64 hex digits (colons allowed), got {digits} digits{}", other(*.stranger))]
pub struct FingerprintParseError {
    digits: usize,
    stranger: Option<char>,
}

/// What a listener needs to prove who it is, for both transports.
#[derive(Clone)]
pub(crate) struct ServerTls {
    pub(super) config: Arc<rustls::ServerConfig>,
    fingerprint: Fingerprint,
    /// What browsers are shown, where no authority vouches for the server.
    web: Option<Arc<WebCertificate>>,
}

impl Fingerprint {
    /// The fingerprint of a certificate in DER form.
    pub(crate) fn of(certificate_der: &[u8]) -> Self {
        Self(Sha256::digest(certificate_der).into())
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Fingerprint({self})")
    }
}

impl FromStr for Fingerprint {
    type Err = FingerprintParseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut bytes = [0; 32];
        let mut digits = 0;
        for character in text.trim().chars().filter(|&c| c != ':') {
            let Some(value) = character.to_digit(16) else {
                return Err(FingerprintParseError { digits, stranger: Some(character) });
            };
            if let Some(byte) = bytes.get_mut(digits / 2) {
                *byte = *byte << 4 | value as u8;
            }
            digits += 1;
        }
        if digits == 64 { Ok(Self(bytes)) } else { Err(FingerprintParseError { digits, stranger: None }) }
    }
}

impl ServerTls {
    /// Reads or makes the certificate and key.
    ///
    /// # Errors
    ///
    /// [`ListenError`] names the file that cannot be used and why.
    pub(crate) fn new(identity: &Identity) -> Result<Self, ListenError> {
        let Credentials { chain, key } = match identity {
            Identity::SelfSigned { dir } => kept_in(dir)?,
            Identity::SelfSignedInMemory => Credentials::made()?.0,
            Identity::Pem { cert, key } => Credentials::read(cert, key)?,
        };
        let fingerprint = Fingerprint::of(&chain[0]);
        let tls = |error: rustls::Error| ListenError::Tls { detail: error.to_string() };
        let mut config = rustls::ServerConfig::builder_with_provider(crypto_provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(tls)?
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .map_err(tls)?;
        config.alpn_protocols = vec![ALPN.to_vec()];
        // No tickets and no session store: early data is off, so resumption would save a signature and cost
        // memory per client and a way to link its connections.
        config.max_early_data_size = 0;
        config.send_tls13_tickets = 0;
        config.session_storage = Arc::new(NoServerSessionStorage {});
        let web = match identity {
            Identity::SelfSigned { .. } | Identity::SelfSignedInMemory => {
                Some(Arc::new(WebCertificate::new()?))
            }
            Identity::Pem { .. } => None,
        };
        Ok(Self { config: Arc::new(config), fingerprint, web })
    }

    /// The same for a port where HTTP/3 is spoken as well.
    pub(super) fn with_h3(&self) -> Arc<rustls::ServerConfig> {
        let mut config = rustls::ServerConfig::clone(&self.config);
        config.alpn_protocols.push(H3.to_vec());
        if let Some(web) = &self.web {
            let own = Arc::clone(&config.cert_resolver);
            config.cert_resolver = Arc::new(ByProtocol { own, web: Arc::clone(web) });
        }
        Arc::new(config)
    }

    /// The same for another port, where `protocols` are spoken instead of ours.
    pub(crate) fn speaking(&self, protocols: &[&[u8]]) -> Arc<rustls::ServerConfig> {
        let mut config = rustls::ServerConfig::clone(&self.config);
        config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
        Arc::new(config)
    }

    /// What browsers are shown instead of a certificate that no authority vouches for.
    pub(crate) fn web(&self) -> Option<&Arc<WebCertificate>> {
        self.web.as_ref()
    }

    /// What clients pin.
    pub(crate) fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
    }
}

/// The one choice of cryptography, passed explicitly so that no process-wide default is read or set.
///
/// AES-128-GCM comes first (TLS 1.3 makes it mandatory): 10 rounds for every block instead of the 14 of AES-256,
/// which stays on offer.
pub(super) fn crypto_provider() -> Arc<CryptoProvider> {
    let mut provider = rustls::crypto::aws_lc_rs::default_provider();
    provider.cipher_suites.sort_by_key(|suite| suite.suite() != CipherSuite::TLS13_AES_128_GCM_SHA256);
    Arc::new(provider)
}

/// A chain whose first certificate is the server's own, and its key.
struct Credentials {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

/// The PEM texts of freshly made credentials.
struct Pems {
    cert: String,
    key: String,
}

impl Credentials {
    fn made() -> Result<(Self, Pems), ListenError> {
        let names = vec!["localhost".to_owned(), "twinlane".to_owned()];
        let made = rcgen::generate_simple_self_signed(names)
            .map_err(|error| ListenError::SelfSigned { detail: error.to_string() })?;
        let pems = Pems { cert: made.cert.pem(), key: made.signing_key.serialize_pem() };
        let key = PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()).into();
        Ok((Self { chain: vec![made.cert.der().clone()], key }, pems))
    }

    fn read(cert: &Path, key: &Path) -> Result<Self, ListenError> {
        let chain: Vec<_> = CertificateDer::pem_file_iter(cert)
            .and_then(Iterator::collect)
            .map_err(|error| unreadable(cert, error))?;
        if chain.is_empty() {
            return Err(invalid(cert, "it holds no CERTIFICATE block"));
        }
        let key = PrivateKeyDer::from_pem_file(key).map_err(|error| unreadable(key, error))?;
        Ok(Self { chain, key })
    }
}

/// The credentials in `dir`, made there if this is the first start.
fn kept_in(dir: &Path) -> Result<Credentials, ListenError> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(|source| at(dir, source))?;
    refuse_symlink(dir)?;
    // Two servers that start at once on one directory must end up with one identity.
    let directory = File::open(dir).map_err(|source| at(dir, source))?;
    directory.lock().map_err(|source| at(dir, source))?;

    let (cert, key) = (dir.join("cert.pem"), dir.join("key.pem"));
    match (refuse_symlink(&cert)?, refuse_symlink(&key)?) {
        (true, true) => {
            refuse_readable_by_others(&key)?;
            Credentials::read(&cert, &key)
        }
        (true, false) => Err(invalid(&cert, "its key.pem is missing: restore the key or delete cert.pem")),
        // A key alone is what a crash between the two writes leaves: nobody has seen its fingerprint.
        (false, _) => {
            let (credentials, pems) = Credentials::made()?;
            write_whole(&key, &pems.key)?;
            write_whole(&cert, &pems.cert)?;
            directory.sync_all().map_err(|source| at(dir, source))?;
            Ok(credentials)
        }
    }
}

/// Whether `path` exists; an error if it is a symbolic link.
fn refuse_symlink(path: &Path) -> Result<bool, ListenError> {
    match fs::symlink_metadata(path) {
        Ok(meta) if meta.is_symlink() => Err(invalid(path, "it is a symbolic link: put the real file there")),
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(source) => Err(at(path, source)),
    }
}

fn refuse_readable_by_others(key: &Path) -> Result<(), ListenError> {
    let mode = fs::metadata(key).map_err(|source| at(key, source))?.permissions().mode() & 0o777;
    if mode & 0o077 == 0 {
        return Ok(());
    }
    Err(invalid(key, &format!("its mode is {mode:04o}, others can use the key: chmod 600 it")))
}

/// Writes a file of mode 0600 that is either absent or whole, whatever happens in between.
fn write_whole(path: &Path, text: &str) -> Result<(), ListenError> {
    let draft = path.with_extension("pem.new");
    let write = || {
        match fs::remove_file(&draft) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&draft, path)
    };
    write().map_err(|source| at(path, source))
}

fn at(path: &Path, source: io::Error) -> ListenError {
    ListenError::IdentityFile { path: path.to_owned(), source }
}

fn invalid(path: &Path, detail: &str) -> ListenError {
    ListenError::IdentityInvalid { path: path.to_owned(), detail: detail.to_owned() }
}

fn unreadable(path: &Path, error: rustls_pki_types::pem::Error) -> ListenError {
    match error {
        rustls_pki_types::pem::Error::Io(source) => at(path, source),
        other => invalid(path, &other.to_string()),
    }
}

fn other(stranger: Option<char>) -> String {
    stranger.map_or_else(String::new, |c| format!(" and then {c:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fingerprint_is_the_sha_256_of_the_der_and_reads_back_in_every_spelling() {
        let fingerprint = Fingerprint::of(b"abc");
        let printed = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(fingerprint.to_string(), printed);
        let bytes = printed.as_bytes().chunks(2).map(|pair| String::from_utf8_lossy(pair).to_uppercase());
        let colons = bytes.collect::<Vec<_>>().join(":");
        assert_eq!(printed.parse(), Ok(fingerprint));
        assert_eq!(colons.parse(), Ok(fingerprint));
    }

    #[test]
    fn a_text_that_is_no_fingerprint_is_refused_with_what_it_has() {
        for (text, words) in [("", "got 0 digits"), ("abcx", "got 3 digits and then 'x'")] {
            let error = text.parse::<Fingerprint>().unwrap_err().to_string();
            assert!(error.ends_with(words), "{error}");
        }
        assert!("a".repeat(65).parse::<Fingerprint>().is_err());
        assert!("é".repeat(64).parse::<Fingerprint>().is_err());
    }
}
