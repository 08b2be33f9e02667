//! How long refused clients are told to stay away: longer while a priority level refuses many.

use std::{collections::HashMap, time::Instant};

use parking_lot::Mutex;

/// Seconds that are never exceeded.
const LONGEST: u64 = 32;

/// The refusals of every priority level.
pub struct Refusals {
    since: Instant,
    levels: Mutex<HashMap<String, Level>>,
}

impl Default for Refusals {
    fn default() -> Self {
        Self { since: Instant::now(), levels: Mutex::default() }
    }
}

impl Refusals {
    /// Counts a refusal; says after how many seconds the client may come back.
    pub fn count(&self, level: &str) -> u64 {
        let second = self.since.elapsed().as_secs();
        let mut levels = self.levels.lock();
        if !levels.contains_key(level) {
            levels.insert(level.to_owned(), Level::default());
        }
        levels.get_mut(level).map_or(1, |level| level.count(second))
    }
}

struct Level {
    /// Refusals by second, oldest first; the last entry is of the current second.
    history: Vec<(u64, u64)>,
    retry_after: u64,
    raised: Option<u64>,
}

impl Default for Level {
    fn default() -> Self {
        Self { history: Vec::new(), retry_after: 1, raised: None }
    }
}

impl Level {
    fn count(&mut self, second: u64) -> u64 {
        match self.history.last_mut() {
            Some((at, count)) if *at == second => *count += 1,
            _ => {
                let oldest = second.saturating_sub((2 * self.retry_after).min(LONGEST));
                self.history.retain(|(at, _)| *at >= oldest);
                self.settle(second);
                self.history.push((second, 1));
            }
        }
        self.retry_after
    }

    /// As TCP does: doubles under load (at most once in its own time), and goes back one by one.
    fn settle(&mut self, second: u64) {
        let within = self.history.iter().filter(|(at, _)| second - at <= self.retry_after);
        let refused: u64 = within.map(|(_, count)| count).sum();
        let rested = self.raised.is_none_or(|at| second - at >= self.retry_after);
        if rested && refused >= 3 * self.retry_after {
            self.retry_after = (2 * self.retry_after).min(LONGEST);
            self.raised = Some(second);
        } else if refused < self.retry_after && self.retry_after > 1 {
            self.retry_after -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_refusals_make_clients_wait_longer() {
        let mut level = Level::default();
        for _ in 0..10 {
            assert_eq!(level.count(100), 1);
        }
        assert_eq!(level.count(101), 2);
        for second in 102..160 {
            for _ in 0..200 {
                level.count(second);
            }
        }
        assert_eq!(level.retry_after, LONGEST);
        assert_eq!(level.count(300), LONGEST - 1);
        assert!(level.history.len() <= 2);
        assert_eq!(level.count(400), LONGEST - 2);
    }
}
