//! All profiles by scheduler name, as the queue and the handlers need them.

use std::collections::HashMap;
use std::sync::Arc;

use super::events::{ClusterEvent, Hint};
use super::plugin::Rank;
use super::pod::PodInfo;
use super::profile::Profile;
use super::status::Verdict;
use crate::queue::{Hooks, QueuedPod};

/// The profiles.
pub struct Profiles {
    by_name: HashMap<Arc<str>, Arc<Profile>>,
    /// Orders the one queue of all profiles.
    first: Arc<Profile>,
}

impl Profiles {
    /// At least one profile; names must differ.
    pub fn new(profiles: Vec<Profile>) -> Result<Self, String> {
        let profiles: Vec<_> = profiles.into_iter().map(Arc::new).collect();
        let first = profiles.first().cloned().ok_or("at least one profile is required")?;
        let by_name = profiles.into_iter().map(|profile| (profile.name.clone(), profile)).collect();
        Ok(Self { by_name, first })
    }

    /// The profile of a scheduler name.
    pub fn get(&self, scheduler_name: &str) -> Option<&Arc<Profile>> {
        self.by_name.get(scheduler_name)
    }

    /// Whether the pod is ours to schedule.
    pub fn responsible_for(&self, pod: &PodInfo) -> bool {
        self.by_name.contains_key(&pod.template.scheduler_name)
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Profile>> {
        self.by_name.values()
    }
}

impl Hooks for Profiles {
    fn pre_enqueue(&self, pod: &PodInfo, first: Option<&str>) -> Verdict {
        self.get(&pod.template.scheduler_name).map_or(Ok(()), |profile| profile.run_pre_enqueue(pod, first))
    }

    fn rank(&self, pod: &QueuedPod) -> Rank {
        match self.first.queue_sort() {
            Some(sort) => sort.rank(pod),
            None => Rank { priority: 0, since: pod.queued_at.as_nanos() },
        }
    }

    fn interested(&self, event: &ClusterEvent) -> bool {
        self.iter().any(|profile| profile.interested(event))
    }

    fn hint(&self, pod: &PodInfo, plugin: &str, event: &ClusterEvent) -> Option<Hint> {
        self.get(&pod.template.scheduler_name)?.hint(pod, plugin, event)
    }
}
