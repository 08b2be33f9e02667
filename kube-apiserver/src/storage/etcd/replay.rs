//! Watches handed out by the etcd store: positions in the shared log; who is further back replays etcd's history on a
//! stream of its own until it has caught up with the log.

use std::sync::Arc;

use etcd_client::WatchStream;

use super::{
    Inner, failed,
    follow::{self, News},
};
use crate::storage::{
    ProgressRequest, Revision, StoreError, StoreWatch, WatchBatch,
    hub::{Next, Subscription},
};

struct Replay {
    inner: Arc<Inner>,
    prefix: String,
    position: Subscription,
    history: Option<WatchStream>,
}

pub(super) fn watch(inner: Arc<Inner>, prefix: &str, after: Revision) -> StoreWatch {
    let position = inner.hub.subscribe(prefix, after);
    let local = position.progress();
    let shared = inner.clone();
    let progress = ProgressRequest::new(move |revision| {
        local.request(revision);
        shared.wanted.send_if_modified(|wanted| {
            let newer = revision > *wanted;
            *wanted = revision.max(*wanted);
            newer
        });
    });
    let replay = Replay { inner, prefix: prefix.to_owned(), position, history: None };
    let batches = futures::stream::unfold(Some(replay), |replay| async move {
        let mut replay = replay?;
        match replay.next().await {
            Ok(batch) => Some((Ok(batch), Some(replay))),
            Err(error) => Some((Err(error), None)),
        }
    });
    StoreWatch { batches: Box::pin(batches), progress }
}

impl Replay {
    async fn next(&mut self) -> Result<WatchBatch, StoreError> {
        loop {
            if self.history.is_none() || self.position.reachable() {
                self.history = None;
                match self.position.next().await {
                    Next::Batch(batch) => return Ok(batch),
                    Next::Closed(error) => return Err(error),
                    Next::Lagged => self.history = Some(follow::open(&self.inner, self.position.position).await?),
                }
            }
            if let Some(batch) = self.replay().await? {
                return Ok(batch);
            }
        }
    }

    /// One message of history.
    async fn replay(&mut self) -> Result<Option<WatchBatch>, StoreError> {
        let Some(stream) = &mut self.history else { return Ok(None) };
        let message = stream.message().await.map_err(failed)?;
        let response = message.ok_or_else(|| StoreError::Unavailable("etcd ended the watch".into()))?;
        let News { revision, mut events } = follow::read(&self.inner, &response)?;
        if revision <= self.position.position {
            return Ok(None);
        }
        events.retain(|event| event.key().starts_with(&self.prefix));
        let asked = self.position.wanted();
        self.position.reached(revision);
        let report = !events.is_empty() || (asked != 0 && asked <= revision);
        Ok(report.then_some(WatchBatch { revision, events }))
    }
}
