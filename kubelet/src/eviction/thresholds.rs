//! Thresholds and when they are crossed: hard ones at once, soft ones after their grace, both until the minimum was reclaimed.
//! Pure but for the clock that it is given.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use crate::config::KubeletConfiguration;
use crate::node::object;

/// What is measured: (name in the configuration, resource in messages, condition: 0 memory, 1 disk, 2 PIDs).
pub(super) const SIGNALS: [(&str, &str, usize); 4] = [
    ("memory.available", "memory", 0),
    ("nodefs.available", "ephemeral-storage", 1),
    ("nodefs.inodesFree", "inodes", 1),
    ("pid.available", "pids", 2),
];

/// One threshold of the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Threshold {
    /// Index in [`SIGNALS`].
    signal: usize,
    /// A quantity, or a percentage.
    value: String,
    /// Zero for a hard threshold.
    grace: Option<Duration>,
    minimum_reclaim: Option<String>,
}

/// A measured signal: (available, whole). A whole of zero means that it can't be measured.
pub(super) type Observed = [(i64, i64); SIGNALS.len()];

/// A threshold that is crossed and asks for an eviction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Crossed {
    pub(super) resource: &'static str,
    pub(super) threshold: i64,
    pub(super) available: i64,
    pub(super) soft: bool,
    /// Bytes, rather than a count.
    pub(super) bytes: bool,
}

/// All thresholds, and since when each is crossed.
#[derive(Debug, Default)]
pub(crate) struct Thresholds {
    all: Vec<Threshold>,
    since: HashMap<usize, Instant>,
    /// Those that asked for evictions the last time: they hold on until the minimum is reclaimed.
    due: Vec<usize>,
}

fn index(signal: &str) -> Option<usize> {
    SIGNALS.iter().position(|(name, ..)| *name == signal)
}

impl Thresholds {
    /// From the configuration. Signals that this kubelet doesn't measure are left out, as those of upstream that never fire.
    pub(crate) fn new(file: &KubeletConfiguration) -> anyhow::Result<Self> {
        let mut all = Vec::new();
        for (signal, value) in &file.eviction_hard {
            let Some(signal_index) = index(signal) else { continue };
            let minimum_reclaim = file.eviction_minimum_reclaim.get(signal).cloned();
            all.push(Threshold { signal: signal_index, value: value.clone(), grace: None, minimum_reclaim });
        }
        for (signal, value) in &file.eviction_soft {
            let grace = file.eviction_soft_grace_period.get(signal);
            let grace = grace.with_context(|| {
                format!(
                    "invalid configuration: grace period must be specified for the soft eviction threshold {signal}"
                )
            })?;
            let grace = match common::config::parse_go_duration(grace) {
                Ok(grace) => grace,
                Err(error) => bail!("invalid configuration: evictionSoftGracePeriod of {signal}: {error}"),
            };
            let Some(signal_index) = index(signal) else { continue };
            let minimum_reclaim = file.eviction_minimum_reclaim.get(signal).cloned();
            all.push(Threshold { signal: signal_index, value: value.clone(), grace: Some(grace), minimum_reclaim });
        }
        // Memory first, and what is hard before what is soft.
        all.sort_by_key(|threshold| (threshold.signal, threshold.grace.is_some()));
        Ok(Self { all, ..Self::default() })
    }

    /// Takes a measurement; answers which conditions hold, and what asks for an eviction, the most urgent first.
    pub(super) fn observe(&mut self, observed: &Observed, now: Instant) -> ([bool; 3], Vec<Crossed>) {
        let mut conditions = [false; 3];
        let mut crossed = Vec::new();
        let mut due = Vec::new();
        for (number, threshold) in self.all.iter().enumerate() {
            let (available, whole) = observed[threshold.signal];
            let (name, resource, condition) = SIGNALS[threshold.signal];
            let value = object::threshold(&threshold.value, whole);
            let reclaim = threshold.minimum_reclaim.as_deref().filter(|_| self.due.contains(&number));
            let until = value + reclaim.map_or(0, |text| object::threshold(text, whole));
            if whole <= 0 || available >= until {
                self.since.remove(&number);
                continue;
            }
            conditions[condition] = true;
            let since = *self.since.entry(number).or_insert(now);
            if now.duration_since(since) < threshold.grace.unwrap_or_default() {
                continue;
            }
            due.push(number);
            crossed.push(Crossed {
                resource,
                threshold: value,
                available,
                soft: threshold.grace.is_some(),
                bytes: matches!(name, "memory.available" | "nodefs.available"),
            });
        }
        self.due = due;
        crossed.sort_by_key(|crossed| crossed.soft);
        (conditions, crossed)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn thresholds(config: serde_json::Value) -> anyhow::Result<Thresholds> {
        Thresholds::new(&serde_json::from_value(config).unwrap())
    }

    /// Memory only: the rest is plenty.
    fn memory(available: i64) -> Observed {
        [(available, 1000), (900, 1000), (900, 1000), (900, 1000)]
    }

    #[test]
    fn hard_thresholds_hold_until_the_minimum_is_reclaimed() {
        let config =
            json!({"evictionHard": {"memory.available": "100"}, "evictionMinimumReclaim": {"memory.available": "50"}});
        let mut thresholds = thresholds(config).unwrap();
        let now = Instant::now();
        for (available, want) in [(120, false), (99, true), (120, true), (149, true), (150, false), (120, false)] {
            let (conditions, crossed) = thresholds.observe(&memory(available), now);
            assert_eq!((conditions[0], !crossed.is_empty()), (want, want), "{available}");
        }
    }

    #[test]
    fn soft_thresholds_wait() {
        let config = json!({
            "evictionHard": {"memory.available": "5%"},
            "evictionSoft": {"memory.available": "10%"},
            "evictionSoftGracePeriod": {"memory.available": "1m30s"},
        });
        let mut thresholds = thresholds(config).unwrap();
        let start = Instant::now();
        let mut at = |seconds: u64, available: i64| {
            let (conditions, crossed) = thresholds.observe(&memory(available), start + Duration::from_secs(seconds));
            (conditions[0], crossed.iter().map(|crossed| crossed.soft).collect::<Vec<_>>())
        };
        assert_eq!(at(0, 99), (true, vec![]), "the node says so at once");
        assert_eq!(at(80, 99), (true, vec![]));
        assert_eq!(at(85, 100), (false, vec![]), "relieved: the grace begins anew");
        assert_eq!(at(95, 99), (true, vec![]));
        assert_eq!(at(185, 99), (true, vec![true]));
        assert_eq!(at(186, 49), (true, vec![false, true]), "the hard one goes first");
    }

    #[test]
    fn a_soft_threshold_needs_its_grace() {
        let error = thresholds(json!({"evictionSoft": {"memory.available": "1"}})).unwrap_err().to_string();
        assert!(error.contains("grace period must be specified for the soft eviction threshold memory.available"));
        let config =
            json!({"evictionSoft": {"pid.available": "1"}, "evictionSoftGracePeriod": {"pid.available": "soon"}});
        assert!(thresholds(config).unwrap_err().to_string().contains("pid.available"));
    }
}
