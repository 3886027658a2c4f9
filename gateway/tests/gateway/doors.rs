//! The other doors of the same port: TLS, pages, the native protocol.

use std::sync::Arc;

use axum::extract::Request;
use axum::routing::get as page;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use tokio_rustls::rustls::crypto::{CryptoProvider, aws_lc_rs};
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use tokio_rustls::rustls::{ClientConfig, DigitallySignedStruct, Error, SignatureScheme};
use twinlane::{Engine, EngineConfig, Identity};
use twinlane_gateway::{Router, pages::Peer};

use crate::client::*;

#[tokio::test]
async fn https_is_served_with_the_identity_that_was_given() {
    let gateway = echo(|options| options.tls = Some(Identity::SelfSignedInMemory)).await;
    let socket = tokio::net::TcpStream::connect(gateway.addr()).await.unwrap();
    let provider = Arc::new(aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anyone(provider)))
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let name = ServerName::try_from("localhost").unwrap();
    let mut tls = TlsConnector::from(Arc::new(config)).connect(name, socket).await.unwrap();
    let request =
        "GET /socket.io/?EIO=4&transport=polling HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    tls.write_all(request.as_bytes()).await.unwrap();
    let mut reply = Vec::new();
    let _ = soon(tls.read_to_end(&mut reply)).await;
    assert!(reply.starts_with(b"HTTP/1.1 200 OK\r\n"), "{}", String::from_utf8_lossy(&reply));

    let mut plain = Http::open(gateway.addr()).await;
    plain.request("GET", "/socket.io/?EIO=4&transport=polling", "", "").await;
    assert!(soon(plain.try_reply()).await.is_none());
    until(&gateway, |status| status.refused_total.tls == 1).await;
}

#[tokio::test]
async fn other_pages_are_served_beside_and_know_who_asks() {
    let who =
        |request: Request| async move { request.extensions().get::<Peer>().unwrap().0.ip().to_string() };
    let gateway = echo(|options| options.pages = Router::new().route("/who", page(who))).await;
    let reply = get(gateway.addr(), "/who").await;
    assert_eq!((reply.status, &*reply.body), (200, "127.0.0.1"));
    assert_eq!(get(gateway.addr(), "/else").await.status, 404);
    assert_eq!(gateway.status().requests_total, 0, "pages are not counted");
    open(gateway.addr()).await;
}

#[tokio::test]
async fn the_native_protocol_is_there_only_where_it_is_wanted_and_for_no_foreign_page() {
    let engine = Engine::new(EngineConfig::default()).unwrap();
    let native = echo(|options| options.native = Some(engine)).await;
    let addr = native.addr();
    assert!(WebSocket::try_open(addr, "/twinlane", "").await.is_ok());
    let foreign = WebSocket::try_open(addr, "/twinlane", "Origin: https://evil.net\r\n").await;
    assert_eq!(foreign.err().unwrap().refusal().0, 403);
    assert_eq!(get(addr, "/twinlane").await.refusal().0, 400);
    let without = echo(|_| {}).await;
    assert_eq!(WebSocket::try_open(without.addr(), "/twinlane", "").await.err().unwrap().status, 404);
}

/// Takes any certificate: who the server is, is not what is tested.
#[derive(Debug)]
struct Anyone(Arc<CryptoProvider>);

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        tokio_rustls::rustls::crypto::verify_tls12_signature(message, cert, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        tokio_rustls::rustls::crypto::verify_tls13_signature(message, cert, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
