//! A token bucket in front of a service: bursts pass, then requests wait for their turn.

use std::{
    task::{Context, Poll},
    time::Duration,
};

use futures::{FutureExt, future::BoxFuture};
use tokio::time::Instant;
use tower::Service;

/// Delays requests beyond `qps`; `burst` of them may pass at once. A qps below 0 is no limit, 0 is the default of 5.
pub struct RateLimit<S> {
    inner: S,
    bucket: Option<Bucket>,
}

impl<S> RateLimit<S> {
    /// Limits a service.
    pub fn new(inner: S, qps: f32, burst: u32) -> Self {
        let qps = if qps == 0.0 { 5.0 } else { qps };
        let bucket = (qps > 0.0).then(|| Bucket::new(qps, burst.max(1), Instant::now()));
        Self { inner, bucket }
    }
}

/// The generic cell rate form of a token bucket: one instant instead of a count.
struct Bucket {
    interval: Duration,
    tolerance: Duration,
    /// When the bucket will be full again.
    full_at: Instant,
}

impl Bucket {
    fn new(qps: f32, burst: u32, now: Instant) -> Self {
        let interval = Duration::from_secs_f32(1.0 / qps);
        Self { interval, tolerance: interval.saturating_mul(burst.saturating_sub(1)), full_at: now }
    }

    /// Takes a token; tells how long to wait for it.
    fn take(&mut self, now: Instant) -> Duration {
        let start = self.full_at.max(now);
        self.full_at = start + self.interval;
        start.saturating_duration_since(now + self.tolerance)
    }
}

impl<S, R> Service<R> for RateLimit<S>
where
    S: Service<R>,
    S::Future: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<S::Response, S::Error>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: R) -> Self::Future {
        let wait = self.bucket.as_mut().map_or(Duration::ZERO, |bucket| bucket.take(Instant::now()));
        let response = self.inner.call(request);
        if wait.is_zero() {
            return response.boxed();
        }
        async move {
            if wait > Duration::from_secs(1) {
                tracing::debug!(?wait, "request waits for the client-side rate limit");
            }
            tokio::time::sleep(wait).await;
            response.await
        }
        .boxed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_passes_then_requests_are_spaced_and_the_bucket_refills() {
        let start = Instant::now();
        let mut bucket = Bucket::new(10.0, 3, start);
        let close =
            |wait: Duration, millis: u64| wait.abs_diff(Duration::from_millis(millis)) < Duration::from_millis(2);
        for want in [0, 0, 0, 100, 200] {
            let wait = bucket.take(start);
            assert!(close(wait, want), "{wait:?} is not {want} ms");
        }
        let later = start + Duration::from_secs(10);
        assert!(bucket.take(later).is_zero() && bucket.take(later).is_zero() && bucket.take(later).is_zero());
        assert!(close(bucket.take(later), 100));
    }
}
