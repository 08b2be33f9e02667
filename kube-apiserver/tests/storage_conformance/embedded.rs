//! The embedded store: the suite, and that nothing acknowledged is ever lost.

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Write},
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Command, Stdio},
};

use super::*;
use kube_apiserver::storage::{
    KeyRange, RangeOptions,
    embedded::{EmbeddedOptions, open},
};

fn options(directory: &Path) -> EmbeddedOptions {
    EmbeddedOptions { directory: directory.to_owned(), compaction_interval: Duration::ZERO }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn embedded_conforms() {
    let directory = tempfile::tempdir().unwrap();
    run_all(&open(options(directory.path())).await.unwrap()).await;
}

#[tokio::test]
async fn everything_is_there_after_reopening() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("data");
    let store = open(options(&data)).await.unwrap();
    let first = store.create("/registry/a", text("1"), None).await.unwrap();
    let second = store.update("/registry/a", first, text("2"), None).await.unwrap();
    let expiring = store.create("/registry/ttl", text("1"), Some(Duration::from_millis(300))).await.unwrap();
    assert_eq!(std::fs::metadata(&data).unwrap().permissions().mode() & 0o777, 0o700);
    assert_eq!(std::fs::metadata(data.join("store.redb")).unwrap().permissions().mode() & 0o777, 0o600);
    let locked = open(options(&data)).await.err();
    assert!(matches!(locked, Some(StoreError::Locked { .. })), "{locked:?}");
    drop(store);

    // Opening waits a little for the file, so no shutdown is needed in between.
    let store = open(options(&data)).await.unwrap();
    assert!(store.current_revision().await.unwrap() >= expiring);
    assert_eq!(store.get("/registry/a", Some(first)).await.unwrap().0.unwrap().value, text("1"));
    let mut watch = store.watch("/registry/", 1).await.unwrap();
    let events = until(&mut watch, second).await;
    assert_eq!(
        events[..2].iter().map(show).collect::<Vec<_>>(),
        [format!("/registry/a=1@{first}"), format!("/registry/a=2@{second}")]
    );
    // The time to live goes on across the restart.
    let mut watch = store.watch("/registry/ttl", expiring).await.unwrap();
    let batch = tokio::time::timeout(PATIENCE, watch.batches.next()).await.unwrap().unwrap().unwrap();
    assert!(matches!(batch.events[..], [StoreEvent::Delete { .. }]), "{batch:?}");
    drop(watch);
    store.compact(second).await.unwrap();
    store.close().await;
    assert!(matches!(store.get("/registry/a", None).await, Err(StoreError::Closed)));
    assert!(matches!(store.create("/registry/b", text("1"), None).await, Err(StoreError::Closed)));

    let store = open(options(&data)).await.unwrap();
    let old = store.get("/registry/a", Some(first)).await;
    assert!(matches!(old, Err(StoreError::Compacted { .. })), "{old:?}");
}

#[tokio::test]
async fn a_damaged_file_is_named() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("store.redb"), vec![7; 8192]).unwrap();
    let error = open(options(directory.path())).await.err().unwrap();
    assert!(matches!(error, StoreError::Corrupt { .. }), "{error:?}");
    assert!(error.to_string().contains("store.redb"), "{error}");
}

const CHILD: &str = "CORTEN_STORAGE_CHILD";

/// Not a test by itself: what `nothing_is_lost_by_kill` runs in a process of its own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn child_that_writes_until_killed() {
    let Some(directory) = std::env::var_os(CHILD) else { return };
    let store = open(options(Path::new(&directory))).await.unwrap();
    let run = store.current_revision().await.unwrap();
    let writers = (0..8).map(|writer| {
        let store = store.clone();
        tokio::spawn(async move {
            for round in 0.. {
                let key = format!("/registry/kill/{run}-{writer}-{round}");
                let revision = store.create(&key, text(&"x".repeat(500)), None).await.unwrap();
                acknowledge(&key, revision);
                if round % 3 == 0 {
                    let revision = store.update(&key, revision, text("changed"), None).await.unwrap();
                    acknowledge(&key, revision);
                }
            }
        })
    });
    futures::future::join_all(writers).await;
}

/// One line in one write.
fn acknowledge(key: &str, revision: Revision) {
    let _ = std::io::stdout().lock().write_all(format!("\nack {key} {revision}\n").as_bytes());
}

#[tokio::test]
async fn nothing_is_lost_by_kill() {
    let directory = tempfile::tempdir().unwrap();
    let mut acknowledged = BTreeMap::<String, Revision>::new();
    for round in 0..5 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "embedded::child_that_writes_until_killed", "--nocapture"])
            .env(CHILD, directory.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut take = |lines: &mut dyn Iterator<Item = std::io::Result<String>>, limit: usize| {
            let acks = lines.map_while(Result::ok).filter_map(|line| {
                let (key, revision) = line.strip_prefix("ack ")?.split_once(' ')?;
                Some((key.to_owned(), revision.parse().ok()?))
            });
            acks.take(limit).map(|(key, revision)| acknowledged.insert(key, revision)).count()
        };
        let before_the_kill = 1 + rand::random_range(0..150);
        assert_eq!(take(&mut lines, before_the_kill), before_the_kill, "the child ended by itself");
        child.kill().unwrap();
        child.wait().unwrap();
        // What it still managed to say counts as well.
        take(&mut lines, usize::MAX);
        let store = open(options(directory.path())).await.unwrap();
        let all = store.range(KeyRange::prefix("/registry/kill/"), RangeOptions::default()).await.unwrap();
        let stored: BTreeMap<String, Revision> =
            all.kvs.iter().map(|kv| (kv.key.to_string(), kv.mod_revision)).collect();
        for (key, revision) in &acknowledged {
            // A change may have been made durable without its answer being heard.
            assert!(stored.get(key).is_some_and(|at| at >= revision), "round {round}: {key}@{revision} is lost");
        }
        store.create(&format!("/registry/after/{round}"), text("1"), None).await.unwrap();
        store.close().await;
    }
}
