//! The one watch that feeds the ordered log.
//!
//! How the log learns of revisions that changed nothing under the prefix (so that a consistent read need not wait for
//! the next event): newer members report progress on request, in order with the events; with older ones, whose reports
//! may overtake events, the watch covers all keys, and then every revision comes by as an event.

use std::{sync::Arc, time::Duration};

use etcd_client::{EventType, WatchOptions, WatchResponse, WatchStream};
use tokio::sync::watch;

use super::{Inner, MAX_MESSAGE, failed, header, key_value};
use crate::storage::{Revision, StoreError, StoreEvent};

const FIRST_RETRY: Duration = Duration::from_millis(50);
const LAST_RETRY: Duration = Duration::from_secs(5);
/// How soon to ask again when a progress report came too early.
const ASK_AGAIN: Duration = Duration::from_millis(50);

/// Follows until dropped.
pub(super) async fn run(inner: Arc<Inner>, mut wishes: watch::Receiver<Revision>) {
    let mut retry = FIRST_RETRY;
    loop {
        let before = inner.hub.published();
        let error = follow(&inner, &mut wishes).await;
        if let StoreError::Compacted { .. } = error {
            // Events were missed: send every cache through history, which tells them.
            match inner.revision().await {
                Ok(revision) => inner.hub.reset(revision),
                Err(error) => tracing::warn!(%error, "etcd: cannot start the watch over"),
            }
        }
        if inner.hub.published() > before {
            retry = FIRST_RETRY;
        }
        tracing::warn!(%error, "etcd: the watch broke, trying again");
        tokio::time::sleep(retry).await;
        retry = (retry * 2).min(LAST_RETRY);
    }
}

/// Opens a watch of everything the log covers, from a revision on.
pub(super) async fn open(inner: &Inner, after: Revision) -> Result<WatchStream, StoreError> {
    let mut client = inner.client.watch_client().max_decoding_message_size(MAX_MESSAGE);
    let options = WatchOptions::new().with_start_revision(after as i64 + 1);
    let (key, options) = if inner.progress {
        (inner.prefix.as_bytes(), options.with_prefix().with_progress_notify())
    } else {
        (&b"\0"[..], options.with_from_key())
    };
    client.watch(key, Some(options)).await.map_err(failed)
}

async fn follow(inner: &Inner, wishes: &mut watch::Receiver<Revision>) -> StoreError {
    let mut stream = match open(inner, inner.hub.published()).await {
        Ok(stream) => stream,
        Err(error) => return error,
    };
    // A wish of before this stream still counts.
    wishes.mark_changed();
    loop {
        let behind = inner.progress && *wishes.borrow() > inner.hub.published();
        tokio::select! {
            message = stream.message() => match message {
                Ok(Some(response)) => match read(inner, &response) {
                    Ok(news) => inner.hub.publish(news.events, news.revision),
                    Err(error) => return error,
                },
                Ok(None) => return StoreError::Unavailable("etcd ended the watch".into()),
                Err(error) => return failed(error),
            },
            changed = wishes.changed(), if inner.progress => {
                if changed.is_err() {
                    return StoreError::Closed;
                }
                let wanted = *wishes.borrow_and_update();
                if wanted > inner.hub.published() && stream.request_progress().await.is_err() {
                    return StoreError::Unavailable("etcd closed the watch".into());
                }
            },
            () = tokio::time::sleep(ASK_AGAIN), if behind => {
                if stream.request_progress().await.is_err() {
                    return StoreError::Unavailable("etcd closed the watch".into());
                }
            },
        }
    }
}

/// What a message of the watch says: everything up to `revision` has been seen.
pub(super) struct News {
    pub revision: Revision,
    pub events: Vec<StoreEvent>,
}

/// Reads a message; events outside of the prefix only count as progress.
pub(super) fn read(inner: &Inner, response: &WatchResponse) -> Result<News, StoreError> {
    if response.compact_revision() != 0 {
        return Err(StoreError::Compacted { compacted: response.compact_revision() as Revision });
    }
    if response.canceled() {
        return Err(StoreError::Unavailable(format!("etcd cancelled the watch: {}", response.cancel_reason())));
    }
    let mut news = News { revision: 0, events: Vec::new() };
    if response.events().is_empty() {
        if inner.progress && !response.created() {
            news.revision = header(response.header());
        }
        return Ok(news);
    }
    for event in response.events() {
        let Some(kv) = event.kv() else { continue };
        news.revision = news.revision.max(kv.mod_revision() as Revision);
        if !kv.key().starts_with(inner.prefix.as_bytes()) {
            continue;
        }
        let kv = key_value(kv.clone())?;
        news.events.push(match event.event_type() {
            EventType::Put => StoreEvent::Put(kv),
            EventType::Delete => StoreEvent::Delete { key: kv.key, revision: kv.mod_revision },
        });
    }
    Ok(news)
}
