//! Limits how many requests are served at the same time; the rest is told to come back.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::{
    authn::{MASTERS, User},
    request::{ApiError, ApiResult, RequestInfo},
};

/// Two pools: reads and writes. Long-running requests and system:masters are not counted.
pub struct Inflight {
    reads: Option<Arc<Semaphore>>,
    writes: Option<Arc<Semaphore>>,
}

impl Inflight {
    /// Zero means no limit.
    #[must_use]
    pub fn new(reads: usize, writes: usize) -> Self {
        let pool = |size: usize| (size > 0).then(|| Arc::new(Semaphore::new(size)));
        Self { reads: pool(reads), writes: pool(writes) }
    }

    /// A slot for the request, held until it is answered.
    ///
    /// # Errors
    /// 429 when all slots are taken.
    pub fn enter(&self, info: &RequestInfo, user: &User) -> ApiResult<Option<OwnedSemaphorePermit>> {
        if info.is_long_running() || user.groups.iter().any(|g| g == MASTERS) {
            return Ok(None);
        }
        let read = matches!(info.verb.as_str(), "get" | "list" | "watch");
        let Some(pool) = (if read { &self.reads } else { &self.writes }) else { return Ok(None) };
        match Arc::clone(pool).try_acquire_owned() {
            Ok(permit) => Ok(Some(permit)),
            Err(_) => Err(ApiError::too_many_requests("Too many requests, please try again later.", 1)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pool_is_bounded() {
        let inflight = Inflight::new(1, 1);
        let info = |verb: &str| RequestInfo { verb: verb.into(), is_resource: true, ..Default::default() };
        let user = User::default();
        let held = inflight.enter(&info("list"), &user).unwrap();
        assert!(held.is_some());
        assert_eq!(inflight.enter(&info("get"), &user).unwrap_err().code(), 429);
        assert!(inflight.enter(&info("watch"), &user).unwrap().is_none());
        assert!(inflight.enter(&info("create"), &user).unwrap().is_some());
        drop(held);
        assert!(inflight.enter(&info("get"), &user).unwrap().is_some());
    }
}
