//! The etcd store against a real etcd on loopback.

use std::{
    net::TcpListener,
    path::Path,
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
}

impl Etcd {
    /// `None` (with a notice) on a machine without etcd; there must be one in CI.
    fn start() -> Option<Self> {
        let installed = Command::new("etcd").arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
        if installed.is_err() {
            assert!(std::env::var("CI").as_deref() != Ok("true"), "etcd is not installed (Debian: etcd-server)");
            eprintln!("NOTICE: etcd is not installed; the etcd store is not tested (Debian: etcd-server)");
            return None;
        }
        let (client, peer) = (free_port(), free_port());
        let directory = tempfile::tempdir().unwrap();
        let child = launch(directory.path(), client, peer);
        Some(Self { child, client, peer, directory })
    }

    fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    fn restart(&mut self) {
        self.kill();
        self.child = launch(self.directory.path(), self.client, self.peer);
    }

    fn options(&self) -> EtcdOptions {
        let endpoints = vec![format!("http://127.0.0.1:{}", self.client)];
        EtcdOptions { compaction_interval: Duration::ZERO, connect_timeout: PATIENCE, ..EtcdOptions::new(endpoints) }
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        self.kill();
    }
}

fn launch(directory: &Path, client: u16, peer: u16) -> Child {
    let (client, peer) = (format!("http://127.0.0.1:{client}"), format!("http://127.0.0.1:{peer}"));
    Command::new("etcd")
        .args(["--name", "test", "--logger", "zap", "--log-level", "error", "--data-dir"])
        .arg(directory)
        .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
        .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
        .args(["--initial-cluster", &format!("test={peer}")])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
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
