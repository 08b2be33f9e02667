//! Time as the queue sees it: since some fixed moment, and replaceable in tests.

use std::time::{Duration, Instant};

/// A monotonic clock.
pub trait Clock: Send + Sync {
    /// Time since a fixed moment in the past.
    fn now(&self) -> Duration;
}

/// The machine's clock.
pub struct SystemClock(Instant);

impl Default for SystemClock {
    fn default() -> Self {
        Self(Instant::now())
    }
}

impl Clock for SystemClock {
    fn now(&self) -> Duration {
        // An hour ahead, so that subtracting small spans never reaches zero.
        self.0.elapsed() + Duration::from_secs(3600)
    }
}

/// A clock that a test moves.
#[cfg(test)]
#[derive(Default)]
pub struct FakeClock(parking_lot::Mutex<Duration>);

#[cfg(test)]
impl FakeClock {
    /// Moves on.
    pub fn step(&self, by: Duration) {
        *self.0.lock() += by;
    }
}

#[cfg(test)]
impl Clock for FakeClock {
    fn now(&self) -> Duration {
        *self.0.lock() + Duration::from_secs(3600)
    }
}
