//! What the embedded store does by itself: delete expired keys, forget old history.

use std::{sync::Arc, time::Duration};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{
    Inner,
    writer::{Op, now_millis},
};
use crate::storage::StoreError;

/// How late an expiry may be, so that many keys go in one batch.
const EXPIRY_SLACK: Duration = Duration::from_millis(250);
/// Never sleep longer, should the wall clock jump.
const EXPIRY_CHECK: Duration = Duration::from_secs(60);

/// Starts both; they end with `stop`.
pub(super) fn spawn(
    inner: &Arc<Inner>,
    expiries: watch::Receiver<u64>,
    compaction_interval: Duration,
    stop: &CancellationToken,
) {
    tokio::spawn(stop.clone().run_until_cancelled_owned(expire(Arc::downgrade(inner), expiries)));
    if !compaction_interval.is_zero() {
        tokio::spawn(stop.clone().run_until_cancelled_owned(compact(Arc::downgrade(inner), compaction_interval)));
    }
}

async fn expire(inner: std::sync::Weak<Inner>, mut expiries: watch::Receiver<u64>) {
    loop {
        let next = *expiries.borrow_and_update();
        let now = now_millis();
        if next != 0 && next <= now {
            let Some(inner) = inner.upgrade() else { return };
            if let Err(error) = inner.write(Op::Expire { now }).await {
                tracing::warn!(%error, "store: cannot delete expired keys, trying again");
                tokio::time::sleep(EXPIRY_CHECK / 60).await;
            }
            continue;
        }
        let wait = if next == 0 { EXPIRY_CHECK } else { Duration::from_millis(next - now).min(EXPIRY_CHECK) };
        tokio::select! {
            changed = expiries.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(wait + EXPIRY_SLACK) => {}
        }
    }
}

/// Forgets what was already old an interval ago, so that lists of several pages can finish.
async fn compact(inner: std::sync::Weak<Inner>, interval: Duration) {
    let mut old = 0;
    loop {
        tokio::time::sleep(interval).await;
        let Some(inner) = inner.upgrade() else { return };
        let current = inner.hub.published();
        if old != 0 {
            match inner.compact(old).await {
                Ok(()) => tracing::debug!(revision = old, "store: compacted"),
                Err(StoreError::Compacted { .. }) => {}
                Err(error) => tracing::warn!(%error, revision = old, "store: cannot compact"),
            }
        }
        old = current;
    }
}
