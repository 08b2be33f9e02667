//! The secure port, as a real TLS client sees it over loopback.

use std::{path::Path, time::Duration};

use bytes::Bytes;
use http::{StatusCode, header};
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::Notify,
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tokio_util::sync::CancellationToken;

use super::*;

struct Pki {
    issuer: rcgen::Issuer<'static, rcgen::KeyPair>,
    ca_pem: String,
}

fn pki() -> Pki {
    let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let key = rcgen::KeyPair::generate().unwrap();
    let ca_pem = params.self_signed(&key).unwrap().pem();
    Pki { issuer: rcgen::Issuer::new(params, key), ca_pem }
}

impl Pki {
    fn sign(&self, name: &str, organization: &str, hosts: &[&str]) -> (String, String) {
        let mut params =
            rcgen::CertificateParams::new(hosts.iter().map(|host| (*host).to_owned()).collect::<Vec<_>>()).unwrap();
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        params.distinguished_name.push(rcgen::DnType::OrganizationName, organization);
        let usages = [rcgen::ExtendedKeyUsagePurpose::ServerAuth, rcgen::ExtendedKeyUsagePurpose::ClientAuth];
        params.extended_key_usages.extend(usages);
        let key = rcgen::KeyPair::generate().unwrap();
        (params.signed_by(&key, &self.issuer).unwrap().pem(), key.serialize_pem())
    }
}

/// Says who asks; `/slow` waits for the test, `/upgrade` echoes.
struct Echo {
    started: Notify,
    go: Notify,
}

#[async_trait]
impl Handler for Echo {
    async fn handle(&self, mut request: Request<Incoming>, peer: Arc<Peer>) -> Response<Body> {
        match request.uri().path() {
            "/slow" => {
                self.started.notify_one();
                self.go.notified().await;
                text(StatusCode::OK, "slow")
            }
            "/upgrade" => {
                let upgrade = hyper::upgrade::on(&mut request);
                tokio::spawn(async move {
                    let mut stream = TokioIo::new(upgrade.await.unwrap());
                    let mut bytes = [0; 4];
                    stream.read_exact(&mut bytes).await.unwrap();
                    stream.write_all(&bytes).await.unwrap();
                });
                let mut response = Response::new(empty());
                *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
                response.headers_mut().insert(header::CONNECTION, http::HeaderValue::from_static("Upgrade"));
                response.headers_mut().insert(header::UPGRADE, http::HeaderValue::from_static("echo"));
                response
            }
            _ => text(
                StatusCode::OK,
                &peer.certificate.as_ref().map_or("nobody".into(), |certificate| {
                    format!("{} of {}", certificate.common_name, certificate.organizations.join(","))
                }),
            ),
        }
    }
}

struct Fixture {
    address: SocketAddr,
    pki: Pki,
    echo: Arc<Echo>,
    shutdown: CancellationToken,
    server: tokio::task::JoinHandle<Result<(), ServeError>>,
    _dir: tempfile::TempDir,
}

async fn start() -> Fixture {
    let (pki, dir) = (pki(), tempfile::tempdir().unwrap());
    let write = |name: &str, content: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, content).unwrap();
        Some(Path::new(&path).to_owned())
    };
    let (cert, key) = pki.sign("server", "o", &["localhost"]);
    let tls = TlsOptions {
        cert: write("cert", &cert),
        key: write("key", &key),
        client_ca: write("ca", &pki.ca_pem),
        ..TlsOptions::default()
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let echo = Arc::new(Echo { started: Notify::new(), go: Notify::new() });
    let shutdown = CancellationToken::new();
    let server = tokio::spawn(serve(listener, Some(tls), echo.clone(), shutdown.clone()));
    Fixture { address, pki, echo, shutdown, server, _dir: dir }
}

impl Fixture {
    async fn connect(&self, client: Option<&Pki>, alpn: &[u8]) -> std::io::Result<TlsStream<TcpStream>> {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.pki.ca_pem.as_bytes()).unwrap()).unwrap();
        let builder = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
        let mut config = match client {
            None => builder.with_no_client_auth(),
            Some(pki) => {
                let (cert, key) = pki.sign("alice", "system:masters", &[]);
                let cert = CertificateDer::from_pem_slice(cert.as_bytes()).unwrap();
                builder
                    .with_client_auth_cert(vec![cert], PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap())
                    .unwrap()
            }
        };
        config.alpn_protocols = vec![alpn.to_vec()];
        let stream = TcpStream::connect(self.address).await?;
        TlsConnector::from(Arc::new(config)).connect(ServerName::try_from("localhost").unwrap(), stream).await
    }
}

fn request(path: &str) -> Request<Empty<Bytes>> {
    Request::builder().uri(format!("https://localhost{path}")).header("host", "localhost").body(Empty::new()).unwrap()
}

async fn read(response: Response<Incoming>) -> String {
    String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap()
}

async fn get(stream: TlsStream<TcpStream>, path: &str) -> Result<String, hyper::Error> {
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    Ok(read(sender.send_request(request(path)).await?).await)
}

#[tokio::test]
async fn client_certificates_are_optional_but_must_be_right() {
    let fixture = start().await;
    let with = fixture.connect(Some(&fixture.pki), b"http/1.1").await.unwrap();
    assert_eq!(get(with, "/").await.unwrap(), "alice of system:masters");
    let without = fixture.connect(None, b"http/1.1").await.unwrap();
    assert_eq!(get(without, "/").await.unwrap(), "nobody");
    let stranger = match fixture.connect(Some(&pki()), b"http/1.1").await {
        Err(_) => None,
        Ok(stream) => get(stream, "/").await.ok(),
    };
    assert_eq!(stranger, None, "a certificate of another CA ends the connection");
}

#[tokio::test]
async fn speaks_http2() {
    let fixture = start().await;
    let stream = fixture.connect(Some(&fixture.pki), b"h2").await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let responses = futures::future::join_all((0..20).map(|_| sender.send_request(request("/")))).await;
    for response in responses {
        assert_eq!(read(response.unwrap()).await, "alice of system:masters");
    }
}

#[tokio::test]
async fn upgrades_hand_over_the_connection() {
    let fixture = start().await;
    let stream = fixture.connect(None, b"http/1.1").await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection.with_upgrades());
    let mut upgrade = request("/upgrade");
    upgrade.headers_mut().insert(header::CONNECTION, http::HeaderValue::from_static("Upgrade"));
    upgrade.headers_mut().insert(header::UPGRADE, http::HeaderValue::from_static("echo"));
    let response = sender.send_request(upgrade).await.unwrap();
    assert_eq!(response.status(), StatusCode::SWITCHING_PROTOCOLS);
    let mut stream = TokioIo::new(hyper::upgrade::on(response).await.unwrap());
    stream.write_all(b"ping").await.unwrap();
    let mut bytes = [0; 4];
    stream.read_exact(&mut bytes).await.unwrap();
    assert_eq!(&bytes, b"ping");
}

#[tokio::test]
async fn shutdown_lets_requests_finish() {
    let fixture = start().await;
    let stream = fixture.connect(None, b"http/1.1").await.unwrap();
    let pending = tokio::spawn(get(stream, "/slow"));
    fixture.echo.started.notified().await;
    fixture.shutdown.cancel();
    while TcpStream::connect(fixture.address).await.is_ok() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    fixture.echo.go.notify_one();
    assert_eq!(pending.await.unwrap().unwrap(), "slow");
    fixture.server.await.unwrap().unwrap();
}

#[tokio::test]
async fn delegated_auth_without_a_server_allows_health_and_masters_only() {
    let auth = DelegatedAuth::new(None, DelegatedAuthOptions::default());
    let path = |path: &str| Attributes::Path { verb: "get".into(), path: path.into() };
    let anonymous = Peer::new("127.0.0.1:1".parse().unwrap());
    let certificate = ClientCertificate {
        common_name: "a".into(),
        organizations: vec!["system:masters".into()],
        ..Default::default()
    };
    let master = Peer { certificate: Some(Arc::new(certificate)), ..anonymous.clone() };
    let mut headers = http::HeaderMap::new();
    assert!(auth.check(&headers, &anonymous, &path("/healthz")).await.is_ok());
    let refused = auth.check(&headers, &anonymous, &path("/metrics")).await.unwrap_err();
    assert_eq!(refused.status(), StatusCode::FORBIDDEN);
    assert_eq!(auth.check(&headers, &master, &path("/metrics")).await.unwrap().name, "a");
    headers.insert(header::AUTHORIZATION, http::HeaderValue::from_static("Bearer x"));
    assert_eq!(
        auth.check(&headers, &anonymous, &path("/healthz")).await.unwrap_err().status(),
        StatusCode::UNAUTHORIZED
    );
}
