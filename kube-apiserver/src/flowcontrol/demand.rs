//! How many seats a priority level could use, over time.

use std::time::Instant;

/// Half of what was is forgotten after five minutes of ten-second periods.
const DECAY: f64 = 0.977;

/// Sums up a number of seats over a period.
#[derive(Debug, Clone)]
pub struct Integrator {
    at: Instant,
    value: f64,
    time: f64,
    sum: f64,
    squares: f64,
    highest: f64,
}

/// What a period looked like.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Period {
    /// Its length in seconds.
    pub time: f64,
    /// The average, weighted by time.
    pub average: f64,
    /// The standard deviation.
    pub deviation: f64,
    /// The highest value.
    pub highest: f64,
}

impl Integrator {
    /// Starts at zero.
    #[must_use]
    pub fn new(now: Instant) -> Self {
        Self { at: now, value: 0.0, time: 0.0, sum: 0.0, squares: 0.0, highest: 0.0 }
    }

    /// From now on it is this many.
    pub fn set(&mut self, now: Instant, value: f64) {
        let elapsed = now.saturating_duration_since(self.at).as_secs_f64();
        self.at = now;
        self.time += elapsed;
        self.sum += elapsed * self.value;
        self.squares += elapsed * self.value * self.value;
        self.value = value;
        self.highest = self.highest.max(value);
    }

    /// The period so far; a new one begins.
    pub fn take(&mut self, now: Instant) -> Period {
        self.set(now, self.value);
        let per = |sum: f64| if self.time > 0.0 { sum / self.time } else { 0.0 };
        let average = per(self.sum);
        let period = Period {
            time: self.time,
            average,
            deviation: (per(self.squares) - average * average).max(0.0).sqrt(),
            highest: self.highest,
        };
        *self = Self { at: now, value: self.value, time: 0.0, sum: 0.0, squares: 0.0, highest: self.value };
        period
    }
}

/// A level's need as it is believed to be: rises at once, falls slowly.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Smoothed {
    /// The latest period.
    pub period: Period,
    /// The need.
    pub need: f64,
}

impl Smoothed {
    /// Takes another period into account.
    pub fn add(&mut self, period: Period) {
        self.period.highest = period.highest.round();
        if period.time <= 0.0 {
            return;
        }
        let envelope = period.average + period.deviation;
        self.need = envelope.max(DECAY * self.need + (1.0 - DECAY) * envelope);
        self.period = Period { highest: self.period.highest, ..period };
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn averages_are_weighted_by_time() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut integrator = Integrator::new(start);
        integrator.set(at(1), 4.0);
        integrator.set(at(4), 0.0);
        let period = integrator.take(at(4));
        assert_eq!((period.time, period.average, period.highest), (4.0, 3.0, 4.0));
        assert!((period.deviation - 3f64.sqrt()).abs() < 1e-9);
        assert_eq!(integrator.take(at(6)), Period { time: 2.0, ..Period::default() });
    }

    #[test]
    fn needs_rise_at_once_and_fall_slowly() {
        let mut smoothed = Smoothed::default();
        smoothed.add(Period { time: 10.0, average: 8.0, deviation: 2.0, highest: 11.6 });
        assert_eq!((smoothed.need, smoothed.period.highest), (10.0, 12.0));
        smoothed.add(Period { time: 10.0, ..Period::default() });
        assert!((smoothed.need - 9.77).abs() < 1e-9);
        smoothed.add(Period::default());
        assert!((smoothed.need - 9.77).abs() < 1e-9);
    }
}
