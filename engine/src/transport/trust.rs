//! Whom a client trusts, and how it notices that the server is someone else.
//!
//! Every way verifies the server's signature over the handshake: a certificate alone proves nothing. There is no
//! way to skip the check.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::CryptoProvider;
use rustls::{CertificateError, DigitallySignedStruct, RootCertStore, SignatureScheme};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use super::ALPN;
use super::error::ConnectError;
use super::identity::{Fingerprint, crypto_provider};

/// Whom a client trusts.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trust {
    /// The one server with this certificate, whatever its name: what a server prints at its first start.
    Fingerprint(Fingerprint),
    /// The server seen first at each `host:port`, as in SSH.
    ///
    /// The file has one line `host:port fingerprint` per server, is made with mode 0600, and grows by a line when a
    /// new server has proved that it holds the key of its certificate. A server whose fingerprint changed is
    /// refused with [`ConnectError::KnownHostChanged`]. At most 1 MiB is read.
    KnownHosts(PathBuf),
    /// Servers with a certificate for their name from one of the authorities in this PEM file.
    Roots(PathBuf),
}

/// What a client needs to check servers, read once and used for every connection.
#[derive(Clone)]
pub(crate) struct ClientTls {
    provider: Arc<CryptoProvider>,
    rule: Rule,
}

impl ClientTls {
    /// Reads what `trust` names. The file of known hosts is read at each connection instead, so that a server that
    /// another process met is known here too.
    ///
    /// # Errors
    ///
    /// [`ConnectError::Roots`] if the roots cannot be used.
    pub(crate) fn new(trust: &Trust) -> Result<Self, ConnectError> {
        let provider = crypto_provider();
        let rule = match trust {
            Trust::Fingerprint(expected) => Rule::Pinned(*expected),
            Trust::KnownHosts(path) => Rule::KnownHosts(path.clone()),
            Trust::Roots(path) => Rule::Roots(roots(path, Arc::clone(&provider))?),
        };
        Ok(Self { provider, rule })
    }

    /// Prepares the check of the server `server_name:port` for one connection.
    pub(super) fn check(&self, server_name: &str, port: u16) -> Result<Check, ConnectError> {
        let name = ServerName::try_from(server_name.to_owned())
            .map_err(|_| ConnectError::ServerName { name: server_name.to_owned() })?;
        let host = format!("{server_name}:{port}");
        let (verifier, judge, path): (Arc<dyn ServerCertVerifier>, _, _) = match &self.rule {
            Rule::Roots(verifier) => (Arc::clone(verifier) as _, None, None),
            Rule::Pinned(expected) => {
                let judge = Judge::new(Some(*expected), Arc::clone(&self.provider));
                (Arc::clone(&judge) as _, Some(judge), None)
            }
            Rule::KnownHosts(path) => {
                let judge = Judge::new(known_host(path, &host)?, Arc::clone(&self.provider));
                (Arc::clone(&judge) as _, Some(judge), Some(path.clone()))
            }
        };
        let mut config = rustls::ClientConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(|error| ConnectError::Tls { detail: error.to_string() })?
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_no_client_auth();
        config.alpn_protocols = vec![ALPN.to_vec()];
        config.enable_early_data = false;
        config.resumption = Resumption::disabled();
        Ok(Check { config: Arc::new(config), name, host, judge, path })
    }
}

/// The check of one server during one handshake.
pub(super) struct Check {
    pub(super) config: Arc<rustls::ClientConfig>,
    pub(super) name: ServerName<'static>,
    host: String,
    judge: Option<Arc<Judge>>,
    path: Option<PathBuf>,
}

impl Check {
    /// The fingerprints that differ, if that is why the handshake failed.
    pub(super) fn mismatch(&self) -> Option<ConnectError> {
        let judge = self.judge.as_ref()?;
        let (expected, got) = (judge.expected?, *judge.seen.get()?);
        (expected != got).then(|| self.changed(expected, got))
    }

    /// Records a server met for the first time. Call it after the handshake: only then has the server proved that
    /// it holds the key.
    pub(super) fn remember(&self) -> Result<(), ConnectError> {
        let (Some(path), Some(judge)) = (&self.path, &self.judge) else { return Ok(()) };
        if judge.expected.is_some() {
            return Ok(());
        }
        let seen = *judge.seen.get().expect("a finished handshake has shown a certificate");
        match add_known_host(path, &self.host, seen)? {
            Some(expected) if expected != seen => Err(self.changed(expected, seen)),
            _ => Ok(()),
        }
    }

    fn changed(&self, expected: Fingerprint, got: Fingerprint) -> ConnectError {
        match &self.path {
            None => ConnectError::FingerprintMismatch { expected, got },
            Some(path) => {
                ConnectError::KnownHostChanged { host: self.host.clone(), path: path.clone(), expected, got }
            }
        }
    }
}

#[derive(Clone)]
enum Rule {
    Pinned(Fingerprint),
    KnownHosts(PathBuf),
    Roots(Arc<WebPkiServerVerifier>),
}

/// Compares the server's certificate with the expected one, and remembers what it saw.
///
/// Names and dates are not looked at: the fingerprint says all. The signature is.
#[derive(Debug)]
struct Judge {
    expected: Option<Fingerprint>,
    seen: OnceLock<Fingerprint>,
    provider: Arc<CryptoProvider>,
}

impl Judge {
    fn new(expected: Option<Fingerprint>, provider: Arc<CryptoProvider>) -> Arc<Self> {
        Arc::new(Self { expected, seen: OnceLock::new(), provider })
    }
}

impl ServerCertVerifier for Judge {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let got = *self.seen.get_or_init(|| Fingerprint::of(end_entity));
        match self.expected {
            Some(expected) if expected != got => Err(CertificateError::ApplicationVerificationFailure.into()),
            _ => Ok(ServerCertVerified::assertion()),
        }
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::PeerIncompatible::ServerDoesNotSupportTls12Or13.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

fn roots(path: &Path, provider: Arc<CryptoProvider>) -> Result<Arc<WebPkiServerVerifier>, ConnectError> {
    let unusable = |detail: String| ConnectError::Roots { path: path.to_owned(), detail };
    let mut store = RootCertStore::empty();
    let certificates = CertificateDer::pem_file_iter(path).map_err(|error| unusable(error.to_string()))?;
    for certificate in certificates {
        let certificate = certificate.map_err(|error| unusable(error.to_string()))?;
        store.add(certificate).map_err(|error| unusable(error.to_string()))?;
    }
    if store.is_empty() {
        return Err(unusable("it holds no CERTIFICATE block".to_owned()));
    }
    WebPkiServerVerifier::builder_with_provider(Arc::new(store), provider)
        .build()
        .map_err(|error| unusable(error.to_string()))
}

/// A larger file of known hosts is an error: 10,000 servers fit.
const KNOWN_HOSTS_BYTES_MAX: u64 = 1024 * 1024;

/// The fingerprint recorded for `host`; the first line wins.
fn known_host(path: &Path, host: &str) -> Result<Option<Fingerprint>, ConnectError> {
    match File::open(path) {
        Ok(mut file) => find(&read_bounded(&mut file).map_err(|source| at(path, source))?, path, host),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(at(path, source)),
    }
}

/// Appends a line unless another process was quicker: then the fingerprint that it wrote.
fn add_known_host(path: &Path, host: &str, seen: Fingerprint) -> Result<Option<Fingerprint>, ConnectError> {
    if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        DirBuilder::new().recursive(true).mode(0o700).create(parent).map_err(|source| at(path, source))?;
    }
    let mut options = OpenOptions::new();
    options.read(true).append(true).create(true).mode(0o600);
    let mut file = options.open(path).map_err(|source| at(path, source))?;
    file.lock().map_err(|source| at(path, source))?;

    let text = read_bounded(&mut file).map_err(|source| at(path, source))?;
    if let Some(recorded) = find(&text, path, host)? {
        return Ok(Some(recorded));
    }
    let gap = if text.is_empty() || text.ends_with('\n') { "" } else { "\n" };
    // One write in append mode: a reader sees the whole line or none of it.
    file.write_all(format!("{gap}{host} {seen}\n").as_bytes()).map_err(|source| at(path, source))?;
    Ok(None)
}

fn read_bounded(file: &mut File) -> io::Result<String> {
    let mut text = String::new();
    let read_bytes = file.take(KNOWN_HOSTS_BYTES_MAX + 1).read_to_string(&mut text)?;
    if KNOWN_HOSTS_BYTES_MAX < read_bytes as u64 {
        return Err(io::Error::new(
            io::ErrorKind::FileTooLarge,
            format!("larger than {KNOWN_HOSTS_BYTES_MAX} bytes: delete old lines"),
        ));
    }
    Ok(text)
}

fn find(text: &str, path: &Path, host: &str) -> Result<Option<Fingerprint>, ConnectError> {
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let unclear = || ConnectError::KnownHostsLine { path: path.to_owned(), line: index + 1 };
        let (named, fingerprint) = line.split_once(' ').ok_or_else(unclear)?;
        let fingerprint: Fingerprint = fingerprint.parse().map_err(|_| unclear())?;
        if named == host {
            return Ok(Some(fingerprint));
        }
    }
    Ok(None)
}

fn at(path: &Path, source: io::Error) -> ConnectError {
    ConnectError::KnownHosts { path: path.to_owned(), source }
}
