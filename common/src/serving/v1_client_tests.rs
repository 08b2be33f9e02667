//! Handshakes with version 1 certificates that openssl makes.

use std::{path::Path, process::Command, time::Duration};

use rustls::{
    ClientConfig, RootCertStore, SupportedProtocolVersion,
    client::ResolvesClientCert,
    crypto::ring,
    pki_types::{PrivateKeyDer, ServerName, pem::PemObject},
    server::WebPkiClientVerifier,
    sign::CertifiedKey,
    version::{TLS12, TLS13},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::TlsConnector;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::serving::{Body, Handler, Peer, TlsOptions, serve, text};

fn openssl(dir: &Path, line: &str) {
    let output = Command::new("openssl").args(line.split_whitespace()).current_dir(dir).output().unwrap();
    assert!(output.status.success(), "openssl {line}: {}", String::from_utf8_lossy(&output.stderr));
}

/// `ca` and `rogue` share a name, not a key; `other` has another name. `alice` is theirs, `plain` is no CA but signs.
fn certificates() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let make = |line: &str| openssl(dir.path(), line);
    let ec = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -noenc";
    for (file, name, kind) in [
        ("ca", "test-ca", "basicConstraints=critical,CA:TRUE"),
        ("rogue", "test-ca", "basicConstraints=critical,CA:TRUE"),
        ("other", "other-ca", "basicConstraints=critical,CA:TRUE"),
        ("plain", "plain", "basicConstraints=critical,CA:FALSE"),
    ] {
        make(&format!("req -x509 {ec} -keyout {file}.key -out {file}.crt -days 3650 -subj /CN={name} -addext {kind}"));
    }
    for (file, key) in [("alice", ec), ("alice-rsa", "-newkey rsa:2048 -noenc")] {
        make(&format!("req -new {key} -keyout {file}.key -out {file}.csr -subj /O=devs/CN=alice"));
    }
    for (ca, csr, file) in [
        ("ca", "alice", "alice"),
        ("ca", "alice-rsa", "alice-rsa"),
        ("rogue", "alice", "rogue-alice"),
        ("other", "alice", "other-alice"),
        ("plain", "alice", "plain-alice"),
    ] {
        make(&format!(
            "x509 -req -in {csr}.csr -CA {ca}.crt -CAkey {ca}.key -CAcreateserial -days 365 -out {file}.crt"
        ));
    }
    dir
}

fn read(dir: &Path, name: &str) -> CertificateDer<'static> {
    CertificateDer::from_pem_file(dir.join(name)).unwrap()
}

struct Whoami;

#[async_trait::async_trait]
impl Handler for Whoami {
    async fn handle(&self, _: http::Request<hyper::body::Incoming>, peer: Arc<Peer>) -> http::Response<Body> {
        let name = peer.certificate.as_ref().map(|c| format!("{} of {}", c.common_name, c.organizations.join(",")));
        text(http::StatusCode::OK, &name.unwrap_or_default())
    }
}

/// rustls' own client refuses to load such certificates.
#[derive(Debug)]
struct Show(Arc<CertifiedKey>);

impl ResolvesClientCert for Show {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.0.clone())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

struct Port {
    address: std::net::SocketAddr,
    server: CertificateDer<'static>,
    _stop: tokio_util::sync::DropGuard,
}

async fn start(dir: &Path) -> Port {
    let own = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    std::fs::write(dir.join("tls.crt"), own.cert.pem()).unwrap();
    std::fs::write(dir.join("tls.key"), own.signing_key.serialize_pem()).unwrap();
    let (cert, key) = (Some(dir.join("tls.crt")), Some(dir.join("tls.key")));
    let tls = TlsOptions { cert, key, client_ca: Some(dir.join("ca.crt")), ..TlsOptions::default() };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, stop) = (listener.local_addr().unwrap(), CancellationToken::new());
    tokio::spawn(serve(listener, Some(tls), Arc::new(Whoami), stop.clone()));
    Port { address, server: own.cert.der().clone(), _stop: stop.drop_guard() }
}

/// The server's answer to who shows this certificate and signs with this key.
async fn ask(
    port: &Port,
    version: &'static SupportedProtocolVersion,
    certificate: CertificateDer<'static>,
    key: &Path,
) -> Result<String, std::io::Error> {
    let provider = Arc::new(ring::default_provider());
    let key = provider.key_provider.load_private_key(PrivateKeyDer::from_pem_file(key).unwrap()).unwrap();
    let show = Show(Arc::new(CertifiedKey::new(vec![certificate], key)));
    let mut roots = RootCertStore::empty();
    roots.add(port.server.clone()).unwrap();
    let config = ClientConfig::builder_with_provider(provider).with_protocol_versions(&[version]).unwrap();
    let config = config.with_root_certificates(roots).with_client_cert_resolver(Arc::new(show));
    let stream = TcpStream::connect(port.address).await?;
    let name = ServerName::try_from("localhost").unwrap();
    let mut stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await?;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer.split("\r\n\r\n").nth(1).unwrap_or_default().to_owned())
}

#[tokio::test]
async fn a_certificate_of_the_ca_is_accepted_and_forged_ones_are_not() {
    let dir = certificates();
    let dir = dir.path();
    let port = start(dir).await;
    for version in [&TLS12, &TLS13] {
        for name in ["alice", "alice-rsa"] {
            let key = dir.join(format!("{name}.key"));
            let certificate = read(dir, &format!("{name}.crt"));
            assert!(parse_v1(&certificate).is_some(), "openssl made another version");
            assert_eq!(ask(&port, version, certificate, &key).await.unwrap(), "alice of devs", "{name} {version:?}");
        }
        for file in ["rogue-alice.crt", "other-alice.crt"] {
            let refused = ask(&port, version, read(dir, file), &dir.join("alice.key")).await;
            assert!(refused.is_err(), "{file} {version:?}: {refused:?}");
        }
        // Who saw the certificate does not have its key.
        let thief = ask(&port, version, read(dir, "alice.crt"), &dir.join("rogue.key")).await;
        assert!(thief.is_err(), "{version:?}: {thief:?}");
    }
}

#[test]
fn every_refusal_has_its_reason() {
    let dir = certificates();
    let dir = dir.path();
    let provider = Arc::new(ring::default_provider());
    let verifier = |name: &str| {
        let (mut store, root) = (RootCertStore::empty(), read(dir, name));
        store.add(root.clone()).unwrap();
        let webpki = WebPkiClientVerifier::builder_with_provider(Arc::new(store), provider.clone()).build().unwrap();
        Verifier::new(webpki, vec![root], provider.signature_verification_algorithms)
    };
    let now = UnixTime::now();
    let at = |seconds: u64| UnixTime::since_unix_epoch(Duration::from_secs(seconds));
    let year = 366 * 24 * 3600;
    let mut forged = read(dir, "alice.crt").to_vec();
    let group = forged.windows(4).position(|window| window == b"devs").unwrap();
    forged[group..group + 4].copy_from_slice(b"root");
    let mut longer = read(dir, "alice.crt").to_vec();
    longer.push(0);
    let cases = [
        ("ca.crt", read(dir, "alice.crt"), now, None),
        ("ca.crt", read(dir, "alice.crt"), at(now.as_secs() + year), Some(CertificateError::Expired)),
        ("ca.crt", read(dir, "alice.crt"), at(now.as_secs() - year), Some(CertificateError::NotValidYet)),
        ("ca.crt", forged.into(), now, Some(CertificateError::BadSignature)),
        ("ca.crt", longer.into(), now, Some(CertificateError::BadEncoding)),
        ("ca.crt", read(dir, "rogue-alice.crt"), now, Some(CertificateError::BadSignature)),
        ("ca.crt", read(dir, "other-alice.crt"), now, Some(CertificateError::UnknownIssuer)),
        ("plain.crt", read(dir, "plain-alice.crt"), now, Some(CertificateError::UnknownIssuer)),
    ];
    for (index, (root, leaf, now, wanted)) in cases.into_iter().enumerate() {
        let verdict = verifier(root).verify_client_cert(&leaf, &[], now).map(|_| ());
        assert_eq!(verdict.err(), wanted.map(Error::InvalidCertificate), "case {index}");
    }
}
