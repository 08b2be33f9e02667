//! Leases for keys with a time to live, shared by many keys as upstream does: leases are dear to etcd, and a key may
//! live a little longer than asked.

use std::time::{Duration, Instant};

use etcd_client::LeaseClient;
use tokio::sync::Mutex;

use super::call;
use crate::storage::StoreError;

/// A lease outlives the asked time by at most this, or a twentieth of the time.
const MAX_EXTRA: Duration = Duration::from_secs(60);
/// So many keys share a lease.
const MAX_KEYS: u32 = 1000;

pub(super) struct Leases {
    client: LeaseClient,
    last: Mutex<Option<Lease>>,
}

#[derive(Clone, Copy)]
struct Lease {
    id: i64,
    expires: Instant,
    keys: u32,
}

impl Lease {
    /// Whether it lives long enough, but not much longer than asked.
    fn fits(&self, now: Instant, ttl: Duration, extra: Duration) -> bool {
        self.keys < MAX_KEYS && now + ttl < self.expires && now + ttl + extra >= self.expires
    }
}

impl Leases {
    pub fn new(client: LeaseClient) -> Self {
        Self { client, last: Mutex::new(None) }
    }

    /// A lease for a key that is to live for `ttl`.
    pub async fn get(&self, ttl: Duration) -> Result<i64, StoreError> {
        let extra = Duration::from_secs(ttl.as_secs() / 20).min(MAX_EXTRA);
        let now = Instant::now();
        let mut last = self.last.lock().await;
        if let Some(lease) = last.as_mut().filter(|lease| lease.fits(now, ttl, extra)) {
            lease.keys += 1;
            return Ok(lease.id);
        }
        let lifetime = Duration::from_secs(ttl.as_secs().max(1)) + extra;
        let mut client = self.client.clone();
        let granted = call(client.grant(lifetime.as_secs() as i64, None)).await?;
        let lease = Lease { id: granted.id(), expires: now + lifetime, keys: 1 };
        *last = Some(lease);
        Ok(lease.id)
    }

    /// Asks for a new lease next time if a write failed: etcd may not know the old one any more.
    pub fn forget_after<T>(&self, outcome: &Result<T, StoreError>) {
        if matches!(outcome, Err(StoreError::Unavailable(_)))
            && let Ok(mut last) = self.last.try_lock()
        {
            last.take();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leases_are_shared_within_reason() {
        let now = Instant::now();
        let seconds = Duration::from_secs;
        let lease = Lease { id: 1, expires: now + seconds(3660), keys: 1 };
        assert!(lease.fits(now + seconds(1), seconds(3600), seconds(60)));
        assert!(!lease.fits(now + seconds(61), seconds(3600), seconds(60)), "would die too early");
        assert!(!lease.fits(now, seconds(60), seconds(3)), "would live too long");
        assert!(!Lease { keys: MAX_KEYS, ..lease }.fits(now + seconds(1), seconds(3600), seconds(60)), "is full");
    }
}
