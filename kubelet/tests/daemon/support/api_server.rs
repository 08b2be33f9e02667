//! A real API server of the test's own, on the embedded store. Who comes is told by static tokens.

use std::path::{Path, PathBuf};

use base64::{Engine, engine::general_purpose::STANDARD};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube_apiserver::options::Options;
use kube_apiserver::server::{Running, start};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::eventually;

const TOKENS: &str = "admin,admin,1,system:masters\nnode,system:node:n1,2,system:nodes\n";

/// A port that was free a moment ago.
pub fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// The API server, running or not.
pub struct ApiServer {
    dir: PathBuf,
    port: u16,
    running: Option<(Running, CancellationToken)>,
}

impl ApiServer {
    /// Its files, below `dir`, and its place; it doesn't run yet.
    pub fn prepare(dir: &Path) -> Self {
        std::fs::write(dir.join("tokens"), TOKENS).unwrap();
        std::fs::write(dir.join("sa.key"), rcgen::KeyPair::generate().unwrap().serialize_pem()).unwrap();
        let params = rcgen::CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
        let key = rcgen::KeyPair::generate().unwrap();
        std::fs::write(dir.join("server.crt"), params.self_signed(&key).unwrap().pem()).unwrap();
        std::fs::write(dir.join("server.key"), key.serialize_pem()).unwrap();
        let server = Self { dir: dir.to_owned(), port: free_port(), running: None };
        std::fs::write(server.kubeconfig(), serde_json::to_vec(&server.access("node")).unwrap()).unwrap();
        server
    }

    fn access(&self, token: &str) -> Kubeconfig {
        let certificate = std::fs::read(self.dir.join("server.crt")).unwrap();
        let cluster = json!({
            "server": format!("https://127.0.0.1:{}", self.port),
            "certificate-authority-data": STANDARD.encode(certificate),
        });
        serde_json::from_value(json!({
            "apiVersion": "v1", "kind": "Config",
            "clusters": [{"name": "c", "cluster": cluster}],
            "users": [{"name": "u", "user": {"token": token}}],
            "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
            "current-context": "x",
        }))
        .unwrap()
    }

    /// The node's kubeconfig.
    pub fn kubeconfig(&self) -> PathBuf {
        self.dir.join("kubeconfig")
    }

    /// Runs it and waits until it answers.
    pub async fn start(&mut self) {
        let path = |name: &str| self.dir.join(name).display().to_string();
        let flags = [
            "kube-apiserver".to_owned(),
            "--bind-address=127.0.0.1".to_owned(),
            "--advertise-address=127.0.0.1".to_owned(),
            format!("--secure-port={}", self.port),
            format!("--data-dir={}", path("data")),
            format!("--tls-cert-file={}", path("server.crt")),
            format!("--tls-private-key-file={}", path("server.key")),
            format!("--token-auth-file={}", path("tokens")),
            format!("--service-account-key-file={}", path("sa.key")),
            format!("--service-account-signing-key-file={}", path("sa.key")),
            "--service-account-issuer=https://kubernetes.default.svc".to_owned(),
            "--authorization-mode=Node,RBAC".to_owned(),
            "--enable-admission-plugins=NodeRestriction".to_owned(),
            "--disable-admission-plugins=ServiceAccount".to_owned(),
            "--service-cluster-ip-range=10.96.0.0/16".to_owned(),
        ];
        let options: Options = common::config::try_parse_from(flags).unwrap();
        let shutdown = CancellationToken::new();
        self.running = Some((start(options, shutdown.clone()).await.unwrap(), shutdown));
        let admin = self.admin().await;
        eventually("the API server", async || {
            let request = http::Request::get("/readyz").body(Vec::new()).unwrap();
            admin.request_text(request).await.map_err(|error| error.to_string())
        })
        .await;
    }

    /// Ends it.
    pub async fn stop(&mut self) {
        if let Some((running, shutdown)) = self.running.take() {
            shutdown.cancel();
            running.wait().await.unwrap();
        }
    }

    /// A client of system:masters.
    pub async fn admin(&self) -> kube::Client {
        let options = KubeConfigOptions::default();
        let config = kube::Config::from_custom_kubeconfig(self.access("admin"), &options).await.unwrap();
        kube::Client::try_from(config).unwrap()
    }
}
