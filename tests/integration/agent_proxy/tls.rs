//! TLS towards clients: either kind of HTTP by what the two agree on, and no start with a pair that is none.

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use super::*;

const CERTIFICATE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/tls/cert.pem");
const KEY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/tls/key.pem");

fn connector(protocols: &[&[u8]]) -> TlsConnector {
    let mut roots = RootCertStore::empty();
    let certificate = CertificateDer::from_pem_file(CERTIFICATE).expect("a certificate");
    roots.add(certificate).expect("a root");
    let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = protocols.iter().map(|it| it.to_vec()).collect();
    TlsConnector::from(Arc::new(config))
}

fn get() -> hyper::Request<Empty<Bytes>> {
    hyper::Request::get("https://localhost/x")
        .header("host", "localhost")
        .body(Empty::new())
        .expect("a request")
}

#[test]
fn clients_agree_on_either_http() {
    let upstream = server(|_, stream| echo(stream));
    let proxy = Running::before(upstream, &["--tls-cert", CERTIFICATE, "--tls-key", KEY]);
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    for (protocols, agreed) in [
        (&[&b"h2"[..], b"http/1.1"][..], Some(&b"h2"[..])),
        (&[&b"http/1.1"[..]], Some(b"http/1.1")),
        (&[], None),
    ] {
        let status = runtime.block_on(async {
            let stream = tokio::net::TcpStream::connect(proxy.address).await;
            let name = ServerName::try_from("localhost").expect("a name");
            let stream = connector(protocols).connect(name, stream.expect("it listens"));
            let stream = stream.await.expect("a handshake");
            assert_eq!(stream.get_ref().1.alpn_protocol(), agreed);
            let io = TokioIo::new(stream);
            let answer = if agreed == Some(b"h2") {
                let builder = hyper::client::conn::http2::Builder::new(TokioExecutor::new());
                let (mut sender, connection) = builder.handshake(io).await.expect("HTTP/2");
                tokio::spawn(connection);
                sender.send_request(get()).await
            } else {
                let (mut sender, connection) = hyper::client::conn::http1::handshake(io)
                    .await
                    .expect("HTTP/1.1");
                tokio::spawn(connection);
                sender.send_request(get()).await
            };
            let answer = answer.expect("an answer");
            let status = answer.status().as_u16();
            answer.into_body().collect().await.expect("a body");
            status
        });
        assert_eq!(status, 200);
        assert_eq!(proxy.event().outcome, Outcome::Completed);
    }
}

#[test]
fn plain_http_is_not_answered_where_there_is_tls() {
    let upstream = server(|_, stream| echo(stream));
    let proxy = Running::before(upstream, &["--tls-cert", CERTIFICATE, "--tls-key", KEY]);
    let mut client = proxy.connect();
    client
        .write_all(b"GET / HTTP/1.1\r\nhost: m\r\n\r\n")
        .expect("sent");
    let mut all = Vec::new();
    let _ = client.read_to_end(&mut all);
    assert!(!all.starts_with(b"HTTP"));
    assert!(proxy.meter.take().is_none());
}

#[test]
fn a_pair_that_is_none_is_told_at_the_start() {
    let told = |certificate: &str, key: &str| {
        let all = "test --listen 127.0.0.1:0 --upstream http://127.0.0.1:9 --tls-cert".split(' ');
        let all = all.chain([certificate, "--tls-key", key]);
        let flags = Flags::try_parse_from(all).expect("right flags");
        let (_condition, watched) = watch::channel(ACTIVE);
        let bound = flags
            .proxy
            .bind(Arc::new(Meter::new(Instant::now())), watched);
        let error = bound.err().expect("it must not start");
        std::error::Error::source(&error).expect("why").to_string()
    };
    assert!(told("/nowhere.pem", KEY).starts_with("/nowhere.pem"));
    assert!(told(CERTIFICATE, CERTIFICATE).contains("no private key"));
    assert!(told(KEY, KEY).contains("no certificate"));
    let alone = [
        "test",
        "--listen",
        "127.0.0.1:0",
        "--upstream",
        "http://127.0.0.1:9",
        "--tls-key",
        KEY,
    ];
    assert!(Flags::try_parse_from(alone).is_err());
}
