//! A server per test: certificates, data directory and port of its own.

use std::{net::TcpListener, time::Duration};

use base64::{Engine, engine::general_purpose::STANDARD};
use kube::{
    Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
};
use kube_apiserver::{
    options::Options,
    server::{Running, start},
};
use rcgen::{CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

/// A running server.
pub struct Cluster {
    pub port: u16,
    ca: CertifiedIssuer<'static, KeyPair>,
    front_proxy: CertifiedIssuer<'static, KeyPair>,
    running: Option<Running>,
    shutdown: CancellationToken,
    dir: tempfile::TempDir,
    flags: Vec<String>,
}

impl Cluster {
    /// Starts a server and waits until it is ready.
    pub async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// As [`Self::start`] with more flags; `{dir}` in them is the server's directory.
    pub async fn start_with(flags: &[&str]) -> Self {
        let mut cluster = Self::prepare();
        cluster.restart_with(flags).await;
        cluster
    }

    /// A server that does not run yet; [`Self::restart`] starts it.
    pub fn prepare() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (ca, front_proxy) = (authority("test-ca"), authority("test-front-proxy-ca"));
        let write = |name: &str, text: String| std::fs::write(dir.path().join(name), text).unwrap();
        write("ca.crt", ca.pem());
        write("front-proxy-ca.crt", front_proxy.pem());
        let (cert, key) = issue(&ca, "kube-apiserver", &[], ExtendedKeyUsagePurpose::ServerAuth);
        write("server.crt", cert);
        write("server.key", key);
        write("sa.key", KeyPair::generate().unwrap().serialize_pem());
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let shutdown = CancellationToken::new();
        Self { port, ca, front_proxy, running: None, shutdown, dir, flags: Vec::new() }
    }

    /// Where the embedded store is.
    pub fn data_dir(&self) -> std::path::PathBuf {
        self.dir.path().join("data")
    }

    async fn boot(&mut self) {
        let path = |name: &str| self.dir.path().join(name).display().to_string();
        let flags = [
            "kube-apiserver".to_owned(),
            "--bind-address=127.0.0.1".to_owned(),
            "--advertise-address=127.0.0.1".to_owned(),
            format!("--secure-port={}", self.port),
            format!("--data-dir={}", path("data")),
            format!("--client-ca-file={}", path("ca.crt")),
            format!("--tls-cert-file={}", path("server.crt")),
            format!("--tls-private-key-file={}", path("server.key")),
            format!("--service-account-key-file={}", path("sa.key")),
            format!("--service-account-signing-key-file={}", path("sa.key")),
            "--service-account-issuer=https://kubernetes.default.svc".to_owned(),
            "--authorization-mode=Node,RBAC".to_owned(),
            "--enable-admission-plugins=NodeRestriction".to_owned(),
            "--service-cluster-ip-range=10.96.0.0/16".to_owned(),
        ];
        let dir = self.dir.path().display().to_string();
        let flags = flags.into_iter().chain(self.flags.iter().map(|flag| flag.replace("{dir}", &dir)));
        let options: Options = common::config::try_parse_from(flags).unwrap();
        self.shutdown = CancellationToken::new();
        self.running = Some(start(options, self.shutdown.clone()).await.unwrap());
        let admin = self.admin().await;
        wait_for("the server is ready", async || {
            admin.request_text(request("GET", "/readyz", &Value::Null)).await.is_ok()
        })
        .await;
    }

    /// As [`Self::restart`], with further flags from now on.
    pub async fn restart_with(&mut self, flags: &[&str]) {
        self.flags = flags.iter().map(|flag| (*flag).to_owned()).collect();
        self.restart().await;
    }

    /// Stops the server and starts it again on the same data.
    pub async fn restart(&mut self) {
        self.stop().await;
        self.boot().await;
    }

    /// Lets the store forget its history, so that old versions and continue tokens expire.
    pub async fn compact(&self) {
        let store = self.running.as_ref().unwrap().server.registry.store();
        let now = store.current_revision().await.unwrap();
        store.compact(now).await.unwrap();
    }

    /// The server's directory.
    pub fn dir(&self) -> &std::path::Path {
        self.dir.path()
    }

    /// Asks the server to end, without waiting for it.
    pub fn begin_stop(&self) {
        self.shutdown.cancel();
    }

    /// Ends the server.
    pub async fn stop(&mut self) {
        if let Some(running) = self.running.take() {
            running.server.registry.verify_caches().await.unwrap();
            self.shutdown.cancel();
            running.wait().await.unwrap();
        }
    }

    /// A client of system:masters.
    pub async fn admin(&self) -> Client {
        self.client("admin", &["system:masters"]).await
    }

    /// A client with a certificate for this user.
    pub async fn client(&self, user: &str, groups: &[&str]) -> Client {
        let (cert, key) = issue(&self.ca, user, groups, ExtendedKeyUsagePurpose::ClientAuth);
        let credentials = json!({
            "client-certificate-data": STANDARD.encode(cert), "client-key-data": STANDARD.encode(key),
        });
        self.with(credentials).await
    }

    /// A client with a certificate of the front proxy's CA.
    pub async fn front_proxy(&self, name: &str) -> Client {
        let (cert, key) = issue(&self.front_proxy, name, &[], ExtendedKeyUsagePurpose::ClientAuth);
        let credentials = json!({
            "client-certificate-data": STANDARD.encode(cert), "client-key-data": STANDARD.encode(key),
        });
        self.with(credentials).await
    }

    /// A kubeconfig file of system:masters, and a place for files beside it.
    pub fn kubeconfig(&self) -> std::path::PathBuf {
        let (cert, key) = issue(&self.ca, "admin", &["system:masters"], ExtendedKeyUsagePurpose::ClientAuth);
        let credentials = json!({
            "client-certificate-data": STANDARD.encode(cert), "client-key-data": STANDARD.encode(key),
        });
        let path = self.dir.path().join("kubeconfig");
        std::fs::write(&path, self.config(&credentials).to_string()).unwrap();
        path
    }

    /// A connection of its own, on which the test speaks HTTP/1.1 itself.
    pub async fn connect(&self) -> tokio_rustls::client::TlsStream<tokio::net::TcpStream> {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(self.ca.der().clone()).unwrap();
        let config = rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        let stream = tokio::net::TcpStream::connect(("127.0.0.1", self.port)).await.unwrap();
        let name = rustls_pki_types::ServerName::try_from("localhost").unwrap();
        tokio_rustls::TlsConnector::from(std::sync::Arc::new(config)).connect(name, stream).await.unwrap()
    }

    /// A client with these kubeconfig credentials.
    pub async fn with(&self, credentials: Value) -> Client {
        let kubeconfig: Kubeconfig = serde_json::from_value(self.config(&credentials)).unwrap();
        let mut config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.unwrap();
        // Tests look at what the server says.
        config.default_retry = false;
        Client::try_from(config).unwrap()
    }

    fn config(&self, credentials: &Value) -> Value {
        json!({
            "apiVersion": "v1", "kind": "Config",
            "clusters": [{"name": "c", "cluster": {
                "server": format!("https://127.0.0.1:{}", self.port),
                "certificate-authority-data": STANDARD.encode(self.ca.pem()),
            }}],
            "users": [{"name": "u", "user": credentials}],
            "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
            "current-context": "x",
        })
    }
}

fn authority(name: &str) -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, name);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

fn issue(
    ca: &CertifiedIssuer<'static, KeyPair>,
    name: &str,
    groups: &[&str],
    usage: ExtendedKeyUsagePurpose,
) -> (String, String) {
    let mut params = CertificateParams::new(vec!["localhost".to_owned(), "127.0.0.1".to_owned()]).unwrap();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    for group in groups {
        params.distinguished_name.push(DnType::OrganizationName, *group);
    }
    params.extended_key_usages.push(usage);
    let key = KeyPair::generate().unwrap();
    (params.signed_by(&key, ca).unwrap().pem(), key.serialize_pem())
}

/// A request with a JSON body, or none.
pub fn request(method: &str, path: &str, body: &Value) -> http::Request<Vec<u8>> {
    let content_type = if method == "PATCH" { "application/merge-patch+json" } else { "application/json" };
    let bytes = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
    http::Request::builder().method(method).uri(path).header("content-type", content_type).body(bytes).unwrap()
}

/// The answer of a request that must succeed.
pub async fn call(client: &Client, method: &str, path: &str, body: Value) -> Value {
    match client.request(request(method, path, &body)).await {
        Ok(value) => value,
        Err(error) => panic!("{method} {path}: {error:?}"),
    }
}

/// Code, reason and message of a request that must fail.
pub async fn refused(client: &Client, request: http::Request<Vec<u8>>) -> (u16, String, String) {
    let text = format!("{} {}", request.method(), request.uri());
    match client.request::<Value>(request).await {
        Err(kube::Error::Api(status)) => (status.code, status.reason, status.message),
        other => panic!("{text}: {other:?}"),
    }
}

/// The whole answer of a request, whatever its code.
pub async fn send(client: &Client, request: http::Request<Vec<u8>>) -> (http::response::Parts, String) {
    let response = client.send(request.map(kube::client::Body::from)).await.unwrap();
    let (parts, body) = response.into_parts();
    let bytes = http_body_util::BodyExt::collect(body).await.unwrap().to_bytes();
    (parts, String::from_utf8_lossy(&bytes).into_owned())
}

/// A GET with headers.
pub fn get(path: &str, headers: &[(&str, &str)]) -> http::Request<Vec<u8>> {
    let mut request = http::Request::builder().uri(path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(Vec::new()).unwrap()
}

/// Waits for a condition.
pub async fn wait_for(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    for _ in 0..600 {
        if condition().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("gave up waiting until {what}");
}
