//! One suite for both stores: whatever runs behind the `Store` trait must behave the same.

#![allow(clippy::unwrap_used, reason = "a test may panic, and clippy only knows functions marked as tests")]

mod embedded;
mod etcd;
mod history;
mod suite;

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures::{StreamExt, future::BoxFuture};
use kube_apiserver::storage::{Revision, Store, StoreError, StoreEvent, StoreWatch};

/// Nothing in a test takes that long; it only ends a test that hangs.
const PATIENCE: Duration = Duration::from_secs(60);

type Case = (&'static str, fn(Arc<dyn Store>) -> BoxFuture<'static, ()>);

/// The cases, each on a store of its own prefix; the last ones compact and so disturb older history.
fn cases() -> Vec<Case> {
    vec![
        ("create and read", |store| Box::pin(suite::create_and_read(store))),
        ("compare and swap", |store| Box::pin(suite::compare_and_swap(store))),
        ("races", |store| Box::pin(suite::races(store))),
        ("ranges", |store| Box::pin(suite::ranges(store))),
        ("sizes", |store| Box::pin(suite::sizes(store))),
        ("time to live", |store| Box::pin(suite::time_to_live(store))),
        ("watch live", |store| Box::pin(history::live(store))),
        ("watch resumes", |store| Box::pin(history::resumes(store))),
        ("watch from far back", |store| Box::pin(history::far_back(store))),
        ("watch progress", |store| Box::pin(history::progress(store))),
        ("cache", |store| Box::pin(history::cache(store))),
        ("compaction", |store| Box::pin(history::compaction(store))),
    ]
}

async fn run_all(store: &Arc<dyn Store>) {
    for (name, case) in cases() {
        println!("case: {name}");
        tokio::time::timeout(PATIENCE, case(store.clone())).await.unwrap_or_else(|_| panic!("{name}: hangs"));
    }
}

fn text(value: &str) -> Bytes {
    Bytes::copy_from_slice(value.as_bytes())
}

/// `key=value@revision` or `key gone@revision`.
fn show(event: &StoreEvent) -> String {
    match event {
        StoreEvent::Put(kv) => format!("{}={}@{}", kv.key, String::from_utf8_lossy(&kv.value), kv.mod_revision),
        StoreEvent::Delete { key, revision } => format!("{key} gone@{revision}"),
    }
}

/// Reads a watch until it has come to `revision`.
async fn until(watch: &mut StoreWatch, revision: Revision) -> Vec<StoreEvent> {
    watch.progress.request(revision);
    let mut events = Vec::new();
    loop {
        let batch = tokio::time::timeout(PATIENCE, watch.batches.next()).await.expect("a batch in time");
        let batch = batch.expect("a running watch").expect("a batch");
        events.extend(batch.events);
        if batch.revision >= revision {
            return events;
        }
    }
}

/// The error of a watch, wherever it shows.
async fn watch_error(store: &Arc<dyn Store>, prefix: &str, after: Revision) -> StoreError {
    match store.watch(prefix, after).await {
        Err(error) => error,
        Ok(mut watch) => loop {
            match watch.batches.next().await.expect("an error, not the end") {
                Ok(_) => {}
                Err(error) => return error,
            }
        },
    }
}
