//! The time that queues go by; tests have one of their own.

use std::{sync::Arc, time::Instant};

/// Tells the time.
#[derive(Clone)]
pub(super) struct Clock(Arc<dyn Fn() -> Instant + Send + Sync>);

impl Clock {
    /// One that this function tells.
    #[cfg(test)]
    pub fn of(tell: impl Fn() -> Instant + Send + Sync + 'static) -> Self {
        Self(Arc::new(tell))
    }

    /// What time it is.
    pub fn now(&self) -> Instant {
        (self.0)()
    }
}

impl Default for Clock {
    fn default() -> Self {
        Self(Arc::new(Instant::now))
    }
}
