//! The apiserver as the neighbour of another daemon's tests, which include this file: in their process, on the embedded store, with
//! certificates, data directory and port of its own. And the daemon under test, asked over its secure port.
#![allow(dead_code, reason = "every test binary that includes this file uses a part of it")]

use std::{fmt::Debug, future::Future, net::TcpListener, path::PathBuf, process::Command, time::Duration};

use base64::{Engine, engine::general_purpose::STANDARD};
use http_body_util::BodyExt;
use kube::{
    Api, Client, Config,
    api::{DeleteParams, Patch, PatchParams, PostParams},
    config::{KubeConfigOptions, Kubeconfig},
};
use kube_apiserver::server::{Running, start};
use rcgen::{CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// An apiserver, running or about to.
pub struct ApiServer {
    ca: CertifiedIssuer<'static, KeyPair>,
    running: Option<Running>,
    shutdown: CancellationToken,
    port: u16,
    dir: tempfile::TempDir,
    flags: Vec<String>,
}

impl ApiServer {
    /// Everything but the server itself: kubeconfigs can be written, connections are refused.
    pub fn prepare() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "test-ca");
        let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let (port, shutdown) = (free_port(), CancellationToken::new());
        let server = Self { ca, running: None, shutdown, port, dir, flags: Vec::new() };
        server.write("ca.crt", &server.ca.pem());
        server.write("ca.key", &server.ca.key().serialize_pem());
        server.write("sa.key", &KeyPair::generate().unwrap().serialize_pem());
        let (cert, key) = server.issue("localhost", &[]);
        server.write("tls.crt", &cert);
        server.write("tls.key", &key);
        server
    }

    /// The same with these flags besides its own.
    pub fn prepare_with(flags: &[&str]) -> Self {
        Self { flags: flags.iter().map(|flag| (*flag).to_owned()).collect(), ..Self::prepare() }
    }

    /// Starts and waits until it is ready.
    pub async fn start() -> Self {
        let mut server = Self::prepare();
        server.boot().await;
        server
    }

    /// Starts what was prepared or stopped.
    pub async fn boot(&mut self) {
        let path = |name: &str| self.path(name).display().to_string();
        let own = [
            "kube-apiserver".to_owned(),
            "--bind-address=127.0.0.1".to_owned(),
            "--advertise-address=127.0.0.1".to_owned(),
            format!("--secure-port={}", self.port),
            format!("--data-dir={}", path("data")),
            format!("--client-ca-file={}", path("ca.crt")),
            format!("--tls-cert-file={}", path("tls.crt")),
            format!("--tls-private-key-file={}", path("tls.key")),
            format!("--service-account-key-file={}", path("sa.key")),
            format!("--service-account-signing-key-file={}", path("sa.key")),
            "--service-account-issuer=https://kubernetes.default.svc".to_owned(),
            "--authorization-mode=Node,RBAC".to_owned(),
            "--service-cluster-ip-range=10.96.0.0/16".to_owned(),
        ];
        let options = parse(&[&own, self.flags.as_slice()].concat());
        self.shutdown = CancellationToken::new();
        self.running = Some(start(options, self.shutdown.clone()).await.unwrap());
        let admin = self.admin().await;
        eventually("the apiserver is ready", async || {
            let request = http::Request::get("/readyz").body(Vec::new()).unwrap();
            admin.request_text(request).await.ok()
        })
        .await;
    }

    /// Ends it.
    pub async fn stop(&mut self) {
        if let Some(running) = self.running.take() {
            self.shutdown.cancel();
            running.wait().await.unwrap();
        }
    }

    /// Where the test's files are; `ca.crt`, `ca.key`, `sa.key`, `tls.crt` and `tls.key` are there.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Writes a file among them.
    pub fn write(&self, name: &str, text: &str) -> PathBuf {
        std::fs::write(self.path(name), text).unwrap();
        self.path(name)
    }

    /// A kubeconfig for this user, who proves himself with a certificate.
    pub fn kubeconfig(&self, user: &str, groups: &[&str]) -> PathBuf {
        let kubeconfig = self.access(self.port, user, groups);
        self.write(&format!("{}.kubeconfig", user.replace(':', "-")), &kubeconfig.to_string())
    }

    fn access(&self, port: u16, user: &str, groups: &[&str]) -> Value {
        let (cert, key) = self.issue(user, groups);
        json!({
            "clusters": [{"name": "c", "cluster": {
                "server": format!("https://127.0.0.1:{port}"),
                "certificate-authority-data": STANDARD.encode(self.ca.pem()),
            }}],
            "users": [{"name": "u", "user": {
                "client-certificate-data": STANDARD.encode(cert), "client-key-data": STANDARD.encode(key),
            }}],
            "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
            "current-context": "x",
        })
    }

    /// A client of system:masters.
    pub async fn admin(&self) -> Client {
        self.client(self.port).await
    }

    async fn client(&self, port: u16) -> Client {
        let access: Kubeconfig = serde_json::from_value(self.access(port, "admin", &["system:masters"])).unwrap();
        let config = Config::from_custom_kubeconfig(access, &KubeConfigOptions::default()).await.unwrap();
        Client::try_from(config).unwrap()
    }

    fn issue(&self, name: &str, groups: &[&str]) -> (String, String) {
        let mut params = CertificateParams::new(vec!["localhost".to_owned(), "127.0.0.1".to_owned()]).unwrap();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        for group in groups {
            params.distinguished_name.push(DnType::OrganizationName, *group);
        }
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
        let key = KeyPair::generate().unwrap();
        (params.signed_by(&key, &self.ca).unwrap().pem(), key.serialize_pem())
    }

    /// Runs a daemon as `user` with these flags besides those of its connection and its secure port.
    pub async fn daemon<O, Fut>(
        &self,
        run: impl FnOnce(O, CancellationToken) -> Fut,
        user: &str,
        flags: &[&str],
    ) -> Daemon
    where
        O: clap::Parser,
        Fut: Future<Output = anyhow::Result<()>> + Send + 'static,
    {
        let (port, shutdown) = (free_port(), CancellationToken::new());
        let mut line = vec![
            "daemon".to_owned(),
            format!("--kubeconfig={}", self.kubeconfig(user, &[]).display()),
            "--bind-address=127.0.0.1".to_owned(),
            format!("--secure-port={port}"),
            format!("--tls-cert-file={}", self.path("tls.crt").display()),
            format!("--tls-private-key-file={}", self.path("tls.key").display()),
        ];
        line.extend(flags.iter().map(|flag| (*flag).to_owned()));
        let task = tokio::spawn(run(parse(&line), shutdown.clone()));
        Daemon { client: self.client(port).await, task, shutdown }
    }
}

fn parse<O: clap::Parser>(line: &[String]) -> O {
    match common::config::try_parse_from(line) {
        Ok(options) => options,
        Err(exit) => panic!("{line:?}: {exit:?}"),
    }
}

/// A port that was free a moment ago.
pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// The daemon under test, in this process.
pub struct Daemon {
    client: Client,
    task: JoinHandle<anyhow::Result<()>>,
    shutdown: CancellationToken,
}

impl Daemon {
    /// What the secure port answers; None while it is not there.
    pub async fn get(&self, path: &str) -> Option<(u16, String)> {
        let request = http::Request::get(path).body(kube::client::Body::empty()).unwrap();
        let answer = self.client.send(request).await.ok()?;
        let code = answer.status().as_u16();
        let body = answer.into_body().collect().await.ok()?.to_bytes();
        Some((code, String::from_utf8_lossy(&body).into_owned()))
    }

    /// Waits until the path answers 200; returns the body.
    pub async fn passes(&self, path: &str) -> String {
        let passed = async || self.get(path).await.filter(|(code, _)| *code == 200);
        eventually(&format!("{path} answers 200"), passed).await.1
    }

    /// Ends the daemon, which must end without an error.
    pub async fn stop(self) {
        self.shutdown.cancel();
        self.task.await.unwrap().unwrap();
    }
}

/// A daemon that starts before its server retries and says so on /readyz; when the server appears, it becomes ready.
pub async fn waits_for_the_server<O, Fut>(run: impl FnOnce(O, CancellationToken) -> Fut, user: &str, flags: &[&str])
where
    O: clap::Parser,
    Fut: Future<Output = anyhow::Result<()>> + Send + 'static,
{
    let mut server = ApiServer::prepare();
    let daemon = server.daemon(run, user, flags).await;
    let told = async || {
        daemon.get("/readyz").await.filter(|(_, text)| text.contains("refused")).map(|(code, text)| {
            assert_eq!(code, 500, "{text}");
            text
        })
    };
    let text = eventually("/readyz tells why the daemon is not ready", told).await;
    let address = format!("[-]apiserver failed: GET https://127.0.0.1:{}/", server.port);
    assert!(text.contains(&address), "{text}");
    assert_eq!(daemon.get("/livez").await, Some((200, "ok".to_owned())), "a restart would not help");
    server.boot().await;
    daemon.passes("/readyz").await;
    assert!(daemon.passes("/readyz?verbose").await.contains("[+]apiserver ok\n"));
    daemon.stop().await;
}

/// What every daemon refuses at start: it says which, and exits with 1. `flags` are those it can't start without.
pub fn refuses_bad_input(program: &str, flags: &[&str]) {
    let server = ApiServer::prepare();
    let kubeconfig = format!("--kubeconfig={}", server.kubeconfig("nobody", &[]).display());
    let broken = server.write("broken.crt", "no certificate").display().to_string();
    let pair = |cert: &str, key: &str| [format!("--tls-cert-file={cert}"), format!("--tls-private-key-file={key}")];
    let key = server.path("tls.key").display().to_string();
    let cases: Vec<(Vec<String>, &str)> = vec![
        (vec!["--no-such-flag".into()], "unknown flag: --no-such-flag"),
        (vec!["--leader-elect-lease-duration=soon".into()], "--leader-elect-lease-duration"),
        (vec!["--leader-elect-renew-deadline=20s".into()], "leaseDuration must be greater than renewDeadline"),
        (vec!["--kubeconfig=/no/such/kubeconfig".into()], "/no/such/kubeconfig"),
        (vec![format!("--kubeconfig={broken}")], "broken.crt"),
        (pair("/no/such.crt", &key).to_vec(), "/no/such.crt"),
        (pair(&broken, &key).to_vec(), "broken.crt"),
        (vec!["--client-ca-file=/no/such/ca.crt".into()], "/no/such/ca.crt"),
    ];
    for (bad, message) in cases {
        let mut command = Command::new(program);
        command.args(flags).arg("--bind-address=127.0.0.1").arg(format!("--secure-port={}", free_port()));
        command.arg(format!("--cert-dir={}", server.path("pki").display()));
        if !bad.iter().any(|flag| flag.starts_with("--kubeconfig")) {
            command.arg(&kubeconfig);
        }
        let output = command.args(&bad).output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{bad:?}: {text}");
        assert!(text.contains(message), "{bad:?}: {text}");
    }
}

/// Waits for something to be there; two minutes is for slow machines.
pub async fn eventually<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    for _ in 0..1200 {
        if let Some(found) = look().await {
            return found;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("gave up waiting until {what}");
}

/// Reads an object from JSON.
pub fn object<K: DeserializeOwned>(value: Value) -> K {
    serde_json::from_value(value).unwrap()
}

/// Creates an object that the test relies on.
pub async fn create<K: Clone + DeserializeOwned + Serialize + Debug>(api: &Api<K>, value: Value) -> K {
    api.create(&PostParams::default(), &object(value)).await.unwrap()
}

/// A merge patch that must succeed, of the object or of its status.
pub async fn merge<K: Clone + DeserializeOwned + Debug>(api: &Api<K>, name: &str, status: bool, patch: Value) -> K {
    let (params, patch) = (PatchParams::default(), Patch::Merge(patch));
    let patched = match status {
        true => api.patch_status(name, &params, &patch).await,
        false => api.patch(name, &params, &patch).await,
    };
    patched.unwrap()
}

/// Deletes in the background, as kubectl does.
pub async fn delete<K: Clone + DeserializeOwned + Debug>(api: &Api<K>, name: &str) {
    api.delete(name, &DeleteParams::background()).await.unwrap();
}

/// A node that is up, with room for `pods` pods of one CPU each.
pub async fn add_node(client: &Client, name: &str, pods: u32) {
    let api: Api<k8s_openapi::api::core::v1::Node> = Api::all(client.clone());
    create(&api, json!({"metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}}})).await;
    let room = json!({"cpu": pods.to_string(), "memory": "8Gi", "pods": "110"});
    let ready = json!([{"type": "Ready", "status": "True", "reason": "KubeletReady", "message": "",
        "lastHeartbeatTime": "2026-01-01T00:00:00Z", "lastTransitionTime": "2026-01-01T00:00:00Z"}]);
    // There may be no node-lifecycle controller to remove the taint of a new node.
    merge(&api, name, false, json!({"spec": {"taints": null}})).await;
    merge(&api, name, true, json!({"status": {"capacity": room, "allocatable": room, "conditions": ready}})).await;
}
