//! In which order and for how long pods end when the node shuts down. Pure.

use std::time::Duration;

use anyhow::bail;

use crate::config::{KubeletConfiguration, ShutdownGracePeriodByPodPriority as Group};

const CRITICAL: i32 = 2_000_000_000;

/// Groups by rising priority; `None` when graceful shutdown is off.
pub(crate) fn groups(file: &KubeletConfiguration) -> anyhow::Result<Option<Vec<Group>>> {
    let (all, critical) = (file.shutdown_grace_period.0, file.shutdown_grace_period_critical_pods.0);
    let second = Duration::from_secs(1);
    for (name, period) in [("shutdownGracePeriod", all), ("shutdownGracePeriodCriticalPods", critical)] {
        if !period.is_zero() && period < second {
            bail!("invalid configuration: {name} {period:?} must be either zero or otherwise >= 1 sec");
        }
    }
    if critical > all {
        bail!(
            "invalid configuration: shutdownGracePeriodCriticalPods {critical:?} must be <= shutdownGracePeriod {all:?}"
        );
    }
    let mut groups = file.shutdown_grace_period_by_pod_priority.clone();
    if !groups.is_empty() && !all.is_zero() {
        bail!(
            "invalid configuration: Cannot specify both shutdownGracePeriodByPodPriority and shutdownGracePeriod at the same time"
        );
    }
    if groups.is_empty() && !all.is_zero() {
        let seconds = |period: Duration| i64::try_from(period.as_secs()).unwrap_or(i64::MAX);
        groups = vec![
            Group { priority: 0, shutdown_grace_period_seconds: seconds(all - critical) },
            Group { priority: CRITICAL, shutdown_grace_period_seconds: seconds(critical) },
        ];
    }
    groups.sort_by_key(|group| group.priority);
    if groups.windows(2).any(|pair| pair[0].priority == pair[1].priority) {
        bail!("invalid configuration: shutdownGracePeriodByPodPriority has a priority twice");
    }
    Ok((groups.iter().any(|group| group.shutdown_grace_period_seconds > 0)).then_some(groups))
}

/// The longest that all of it takes.
pub(crate) fn whole(groups: &[Group]) -> Duration {
    let seconds: i64 = groups.iter().map(|group| group.shutdown_grace_period_seconds).sum();
    Duration::from_secs(u64::try_from(seconds).unwrap_or(0))
}

/// The group of a pod: the one of the highest priority that is not above the pod's, or the first.
pub(crate) fn group_of(groups: &[Group], priority: i32) -> usize {
    groups.iter().rposition(|group| group.priority <= priority).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::GoDuration;

    fn file(all: u64, critical: u64, groups: &[(i32, i64)]) -> KubeletConfiguration {
        let group =
            |(priority, seconds): &(i32, i64)| Group { priority: *priority, shutdown_grace_period_seconds: *seconds };
        KubeletConfiguration {
            shutdown_grace_period: GoDuration::seconds(all),
            shutdown_grace_period_critical_pods: GoDuration::seconds(critical),
            shutdown_grace_period_by_pod_priority: groups.iter().map(group).collect(),
            ..KubeletConfiguration::default()
        }
    }

    #[test]
    fn lesser_pods_end_first() {
        assert!(groups(&file(0, 0, &[])).unwrap().is_none());
        let two = groups(&file(30, 10, &[])).unwrap().unwrap();
        let seconds: Vec<_> = two.iter().map(|group| (group.priority, group.shutdown_grace_period_seconds)).collect();
        assert_eq!(seconds, [(0, 20), (CRITICAL, 10)]);
        assert_eq!(whole(&two), Duration::from_secs(30));
        let own = groups(&file(0, 0, &[(1000, 5), (10, 20)])).unwrap().unwrap();
        for (priority, want) in [(-5, 0), (10, 0), (999, 0), (1000, 1), (CRITICAL, 1)] {
            assert_eq!(group_of(&own, priority), want, "{priority}");
        }
        for (bad, part) in [
            (file(10, 20, &[]), "must be <= shutdownGracePeriod"),
            (file(10, 0, &[(0, 1)]), "Cannot specify both"),
            (file(0, 0, &[(0, 1), (0, 2)]), "twice"),
        ] {
            assert!(groups(&bad).unwrap_err().to_string().contains(part), "{part}");
        }
    }
}
