//! How long a pod that failed waits before its next attempt.

use std::time::Duration;

use super::QueuedPod;

/// Initial and maximal back-off.
#[derive(Clone, Copy, Debug)]
pub struct Backoff {
    /// After the first failure.
    pub initial: Duration,
    /// Never longer than this; zero means no back-off at all.
    pub max: Duration,
}

/// Expirations are rounded down to whole seconds, so that pods expiring together are taken by priority.
fn to_window(time: Duration) -> Duration {
    Duration::from_secs(time.as_secs())
}

impl Backoff {
    /// The wait after the n-th failure: doubling, capped.
    pub fn duration(&self, failures: u32) -> Duration {
        if failures == 0 {
            return Duration::ZERO;
        }
        let factor = 1u32.checked_shl(failures - 1).unwrap_or(u32::MAX).max(1);
        self.initial.saturating_mul(factor).min(self.max)
    }

    /// When the pod's back-off ends; zero when it has none.
    pub fn expiry(&self, pod: &QueuedPod) -> Duration {
        let failures = if pod.consecutive_errors > 0 { pod.consecutive_errors } else { pod.unschedulable_count };
        if self.max.is_zero() || failures == 0 {
            return Duration::ZERO;
        }
        to_window(pod.queued_at + self.duration(failures))
    }

    /// Whether the pod must still wait.
    pub fn waits(&self, pod: &QueuedPod, now: Duration) -> bool {
        let expiry = self.expiry(pod);
        !expiry.is_zero() && expiry >= to_window(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_up_to_the_maximum() {
        let backoff = Backoff { initial: Duration::from_secs(1), max: Duration::from_secs(10) };
        let seconds: Vec<_> = (0..8).map(|n| backoff.duration(n).as_secs()).collect();
        assert_eq!(seconds, [0, 1, 2, 4, 8, 10, 10, 10]);
        assert_eq!(backoff.duration(u32::MAX), Duration::from_secs(10));
    }
}
