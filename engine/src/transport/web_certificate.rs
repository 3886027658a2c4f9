//! A certificate that browsers accept by its fingerprint: ECDSA on P-256, valid for less than two weeks.
//!
//! That is WebTransport's `serverCertificateHashes`. Such a certificate lives in memory and is replaced in time; the
//! server's lasting identity, which clients pin, is not in it.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls_pki_types::PrivatePkcs8KeyDer;

use super::error::ListenError;
use super::identity::{Fingerprint, crypto_provider};
use super::{ALPN, H3};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// Clocks of browsers may be this much behind.
const VALID_BEFORE: Duration = DAY;
/// With the day before less than the 14 days that browsers allow.
const VALID_AFTER: Duration = DAY.saturating_mul(12);
/// Who has read the fingerprint has at least the rest of the time to connect.
const REPLACED_AFTER: Duration = DAY.saturating_mul(6);

/// The certificate as it is now.
pub struct WebCertificate(Mutex<Made>);

struct Made {
    key: Arc<CertifiedKey>,
    at: Instant,
}

impl WebCertificate {
    /// # Errors
    ///
    /// The cryptography has no random numbers.
    pub(super) fn new() -> Result<Self, ListenError> {
        Ok(Self(Mutex::new(Made::now()?)))
    }

    /// What browsers are told to expect, as of now.
    #[must_use]
    pub fn fingerprint(&self) -> Fingerprint {
        // It is made with one certificate.
        Fingerprint::of(&self.current().cert[0])
    }

    fn current(&self) -> Arc<CertifiedKey> {
        let mut made = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if made.at.elapsed() >= REPLACED_AFTER {
            match Made::now() {
                Ok(next) => *made = next,
                Err(error) => tracing::warn!(%error, "the certificate for browsers could not be replaced"),
            }
        }
        Arc::clone(&made.key)
    }
}

impl fmt::Debug for WebCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("WebCertificate").field(&self.fingerprint()).finish()
    }
}

impl Made {
    fn now() -> Result<Self, ListenError> {
        let failed = |detail: String| ListenError::SelfSigned { detail };
        let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let epoch = rcgen::date_time_ymd(1970, 1, 1);
        let names = vec!["localhost".to_owned(), "twinlane".to_owned()];
        let mut params = rcgen::CertificateParams::new(names).map_err(|error| failed(error.to_string()))?;
        params.not_before = epoch + since_1970.saturating_sub(VALID_BEFORE);
        params.not_after = epoch + since_1970 + VALID_AFTER;
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)
            .map_err(|error| failed(error.to_string()))?;
        let certificate = params.self_signed(&key).map_err(|error| failed(error.to_string()))?;
        let chain = vec![certificate.der().clone()];
        let key = PrivatePkcs8KeyDer::from(key.serialize_der()).into();
        let key = CertifiedKey::from_der(chain, key, &crypto_provider())
            .map_err(|error| failed(error.to_string()))?;
        Ok(Self { key: Arc::new(key), at: Instant::now() })
    }
}

/// Shows browsers their certificate, and others the server's own.
#[derive(Debug)]
pub(super) struct ByProtocol {
    pub(super) own: Arc<dyn ResolvesServerCert>,
    pub(super) web: Arc<WebCertificate>,
}

impl ResolvesServerCert for ByProtocol {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let speaks = |protocol: &[u8]| {
            hello.alpn().is_some_and(|mut offered| offered.any(|offered| offered == protocol))
        };
        if speaks(H3) && !speaks(ALPN) { Some(self.web.current()) } else { self.own.resolve(hello) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_certificate_has_a_fingerprint_of_its_own_and_keeps_it() {
        let (one, other) = (WebCertificate::new().unwrap(), WebCertificate::new().unwrap());
        assert_eq!(one.fingerprint(), one.fingerprint());
        assert_ne!(one.fingerprint(), other.fingerprint());
    }

    #[test]
    fn it_is_replaced_while_it_is_valid_for_days_and_valid_for_less_than_two_weeks() {
        assert!(VALID_BEFORE + VALID_AFTER < 14 * DAY);
        assert!(REPLACED_AFTER + 2 * DAY <= VALID_AFTER);
        let certificate = WebCertificate::new().unwrap();
        let first = certificate.fingerprint();
        let Some(long_ago) = Instant::now().checked_sub(REPLACED_AFTER) else { return };
        certificate.0.lock().unwrap().at = long_ago;
        assert_ne!(certificate.fingerprint(), first);
    }
}
