//! The etcd store against a real etcd on loopback: the one on PATH, or what `CORTEN_ETCD` names.

use std::{
    ffi::OsString,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use super::*;
use kube_apiserver::storage::etcd::{EtcdOptions, connect};

/// An etcd of its own; ends with the test.
struct Etcd {
    child: Child,
    client: u16,
    peer: u16,
    directory: tempfile::TempDir,
    secure: bool,
}

fn program() -> OsString {
    std::env::var_os("CORTEN_ETCD").unwrap_or_else(|| "etcd".into())
}

impl Etcd {
    /// `None` (with a notice) on a machine without etcd; there must be one in CI.
    fn start() -> Option<Self> {
        Self::launch(false)
    }

    fn launch(secure: bool) -> Option<Self> {
        let installed = Command::new(program()).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
        if installed.is_err() {
            assert!(std::env::var("CI").as_deref() != Ok("true"), "etcd is not installed (Debian: etcd-server)");
            eprintln!("NOTICE: etcd is not installed; the etcd store is not tested (Debian: etcd-server)");
            return None;
        }
        let (client, peer) = (free_port(), free_port());
        let directory = tempfile::tempdir().unwrap();
        if secure {
            certificates(directory.path());
        }
        let child = launch(directory.path(), client, peer, secure);
        Some(Self { child, client, peer, directory, secure })
    }

    fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    fn restart(&mut self) {
        self.kill();
        self.child = launch(self.directory.path(), self.client, self.peer, self.secure);
    }

    fn options(&self) -> EtcdOptions {
        let scheme = if self.secure { "https" } else { "http" };
        let endpoints = vec![format!("{scheme}://127.0.0.1:{}", self.client)];
        EtcdOptions { compaction_interval: Duration::ZERO, connect_timeout: PATIENCE, ..EtcdOptions::new(endpoints) }
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        self.kill();
    }
}

fn launch(directory: &Path, client: u16, peer: u16, secure: bool) -> Child {
    let scheme = if secure { "https" } else { "http" };
    let (client, peer) = (format!("{scheme}://127.0.0.1:{client}"), format!("http://127.0.0.1:{peer}"));
    let mut command = Command::new(program());
    command
        .args(["--name", "test", "--logger", "zap", "--log-level", "error", "--data-dir"])
        .arg(directory.join("data"))
        .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
        .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
        .args(["--initial-cluster", &format!("test={peer}")]);
    if secure {
        command
            .arg("--cert-file")
            .arg(directory.join("server.crt"))
            .arg("--key-file")
            .arg(directory.join("server.key"));
        command.arg("--client-cert-auth").arg("--trusted-ca-file").arg(directory.join("ca.crt"));
    }
    command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

/// A CA, and certificates of it for the server and a client.
fn certificates(directory: &Path) {
    let write = |name: &str, pem: String| std::fs::write(directory.join(name), pem).unwrap();
    let key = rcgen::KeyPair::generate().unwrap();
    let mut authority = rcgen::CertificateParams::new(Vec::new()).unwrap();
    authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    write("ca.crt", authority.self_signed(&key).unwrap().pem());
    let issuer = rcgen::Issuer::new(authority, key);
    for name in ["server", "client"] {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut leaf = rcgen::CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
        leaf.distinguished_name.push(rcgen::DnType::CommonName, name);
        leaf.extended_key_usages =
            vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth, rcgen::ExtendedKeyUsagePurpose::ClientAuth];
        write(&format!("{name}.crt"), leaf.signed_by(&key, &issuer).unwrap().pem());
        write(&format!("{name}.key"), key.serialize_pem());
    }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn etcd_conforms() {
    let Some(etcd) = Etcd::start() else { return };
    let store = connect(etcd.options()).await.unwrap();
    run_all(&store).await;
    store.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watches_survive_an_etcd_restart() {
    let Some(mut etcd) = Etcd::start() else { return };
    let store = connect(etcd.options()).await.unwrap();
    let start = store.current_revision().await.unwrap();
    let mut watch = store.watch("/registry/x/", start).await.unwrap();
    let first = store.create("/registry/x/a", text("1"), None).await.unwrap();
    assert_eq!(until(&mut watch, first).await.len(), 1);
    etcd.restart();
    let second = tokio::time::timeout(PATIENCE, async {
        loop {
            match store.create("/registry/x/b", text("1"), None).await {
                Ok(revision) => return revision,
                Err(StoreError::Unavailable(_)) => tokio::time::sleep(Duration::from_millis(50)).await,
                // The try before was made although its answer got lost.
                Err(StoreError::Exists { .. }) => {
                    return store.get("/registry/x/b", None).await.unwrap().0.unwrap().mod_revision;
                }
                Err(error) => panic!("{error}"),
            }
        }
    });
    let second = second.await.unwrap();
    let events = until(&mut watch, second).await;
    assert_eq!(events.iter().map(show).collect::<Vec<_>>(), [format!("/registry/x/b=1@{second}")]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn servers_agree_on_who_compacts() {
    let Some(etcd) = Etcd::start() else { return };
    let options = EtcdOptions { compaction_interval: Duration::from_millis(300), ..etcd.options() };
    let servers = [connect(options.clone()).await.unwrap(), connect(options).await.unwrap()];
    let first = servers[0].create("/registry/x/a", text("1"), None).await.unwrap();
    let second = servers[1].update("/registry/x/a", first, text("2"), None).await.unwrap();
    let compacted = async {
        while !matches!(servers[0].get("/registry/x/a", Some(first)).await, Err(StoreError::Compacted { .. })) {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(PATIENCE, compacted).await.unwrap();
    let (key, _) = servers[0].get("compact_rev_key", None).await.unwrap();
    assert!(key.unwrap().version >= 2);
    assert_eq!(servers[1].get("/registry/x/a", None).await.unwrap().0.unwrap().mod_revision, second);
}

#[tokio::test]
async fn who_cannot_be_reached_is_named() {
    let endpoint = format!("http://127.0.0.1:{}", free_port());
    let options =
        EtcdOptions { connect_timeout: Duration::from_millis(500), ..EtcdOptions::new(vec![endpoint.clone()]) };
    let error = connect(options).await.err().unwrap();
    assert!(matches!(&error, StoreError::Unavailable(message) if message.contains(&endpoint)), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn client_certificates() {
    let Some(etcd) = Etcd::launch(true) else { return };
    let file = |name: &str| -> Option<PathBuf> { Some(etcd.directory.path().join(name)) };
    let options = EtcdOptions { ca_file: file("ca.crt"), ..etcd.options() };
    let with_certificate =
        EtcdOptions { cert_file: file("client.crt"), key_file: file("client.key"), ..options.clone() };
    let store = connect(with_certificate.clone()).await.unwrap();
    store.create("/registry/x/a", text("1"), None).await.unwrap();

    let without = EtcdOptions { connect_timeout: Duration::from_millis(500), ..options.clone() };
    assert!(matches!(connect(without).await.err(), Some(StoreError::Unavailable(_))));
    let half = EtcdOptions { key_file: None, ..with_certificate.clone() };
    let missing = EtcdOptions { ca_file: file("none.crt"), ..with_certificate.clone() };
    let unknown = EtcdOptions { ca_file: None, ..with_certificate };
    for (bad, says) in [(half, "--etcd-keyfile"), (missing, "none.crt"), (unknown, "--etcd-cafile")] {
        let error = connect(bad).await.err().unwrap().to_string();
        assert!(error.contains(says), "{error}");
    }
}
