//! Limits how many requests are served at the same time; the rest is told to come back. Knows when none is left.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use prometheus::IntGauge;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

use super::metrics;
use crate::{
    authn::{MASTERS, User},
    request::RequestInfo,
};

/// Two pools: reads and writes. Long-running requests are not counted.
pub struct Inflight {
    reads: Pool,
    writes: Pool,
    under_way: Arc<UnderWay>,
}

struct Pool {
    slots: Option<Arc<Semaphore>>,
    gauge: &'static IntGauge,
}

#[derive(Default)]
struct UnderWay {
    count: AtomicUsize,
    idle: Notify,
}

/// All slots are taken.
#[derive(Debug)]
pub struct Full;

/// A request's place, until it is answered.
pub struct Slot {
    gauge: &'static IntGauge,
    under_way: Arc<UnderWay>,
    _permit: Option<OwnedSemaphorePermit>,
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.gauge.dec();
        if self.under_way.count.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.under_way.idle.notify_waiters();
        }
    }
}

impl Inflight {
    /// Zero means no limit.
    #[must_use]
    pub fn new(reads: usize, writes: usize) -> Self {
        let [read_only, mutating] = metrics::inflight();
        let pool = |size: usize, gauge| Pool { slots: (size > 0).then(|| Arc::new(Semaphore::new(size))), gauge };
        Self { reads: pool(reads, read_only), writes: pool(writes, mutating), under_way: Arc::default() }
    }

    /// A slot for the request; none for one that may last. Members of system:masters get one in any case.
    ///
    /// # Errors
    /// All slots are taken.
    pub fn enter(&self, info: &RequestInfo, user: &User) -> Result<Option<Slot>, Full> {
        if info.is_long_running() {
            return Ok(None);
        }
        let pool = if matches!(info.verb.as_str(), "get" | "list" | "watch") { &self.reads } else { &self.writes };
        let permit = pool.slots.as_ref().map(|slots| Arc::clone(slots).try_acquire_owned());
        let permit = match permit.transpose() {
            Ok(permit) => permit,
            Err(_) if user.groups.iter().any(|g| g == MASTERS) => None,
            Err(_) => return Err(Full),
        };
        pool.gauge.inc();
        self.under_way.count.fetch_add(1, Ordering::AcqRel);
        Ok(Some(Slot { gauge: pool.gauge, under_way: Arc::clone(&self.under_way), _permit: permit }))
    }

    /// Waits until no request is under way, but for those that may last.
    pub async fn drained(&self) {
        loop {
            let idle = self.under_way.idle.notified();
            if self.under_way.count.load(Ordering::Acquire) == 0 {
                return;
            }
            idle.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_pool_is_bounded() {
        let inflight = Inflight::new(1, 1);
        let info = |verb: &str| RequestInfo { verb: verb.into(), is_resource: true, ..Default::default() };
        let user = User::default();
        let held = inflight.enter(&info("list"), &user).unwrap();
        assert!(held.is_some());
        assert!(inflight.enter(&info("get"), &user).is_err());
        let master = User { groups: vec![MASTERS.to_owned()], ..User::default() };
        assert!(inflight.enter(&info("get"), &master).is_ok());
        assert!(inflight.enter(&info("watch"), &user).unwrap().is_none());
        assert!(inflight.enter(&info("create"), &user).unwrap().is_some());
        let waiting = tokio::spawn(async move {
            inflight.drained().await;
            inflight
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        drop(held);
        assert!(waiting.await.unwrap().enter(&info("get"), &user).unwrap().is_some());
    }
}
