//! Which daemon pods to create and delete, regardless of updates. Pure.

use std::cmp::Ordering;
use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use common::meta::intstr::scaled;
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{DaemonSet, RollingUpdateDaemonSet};
use k8s_openapi::api::core::v1::{Node, Pod};

use super::placement::{Fit, Placement, target_node};
use crate::shared::history::REVISION_LABEL;
use crate::shared::meta::MetaExt;
use crate::shared::pods;

/// The number of the template, from before there were revisions.
const GENERATION_ANNOTATION: &str = "deprecated.daemonset.template.generation";
pub(super) const GENERATION_LABEL: &str = "pod-template-generation";

/// The pods of each node, by its name.
pub(super) type PodsByNode = BTreeMap<String, Vec<Arc<Pod>>>;

/// What one run decides on.
pub(super) struct View<'a> {
    pub(super) ds: &'a DaemonSet,
    /// The label of pods of the current template.
    pub(super) hash: &'a str,
    pub(super) placement: Placement,
    pub(super) nodes: &'a [Arc<Node>],
    pub(super) now: Timestamp,
}

/// What to do, and what to tell.
#[derive(Debug, Default)]
pub(super) struct Changes {
    /// Names of nodes.
    pub(super) create: Vec<String>,
    pub(super) delete: Vec<Arc<Pod>>,
    /// Failed and succeeded pods that are deleted for that, with their node.
    pub(super) finished: Vec<(Arc<Pod>, String)>,
    /// Deletions that wait for their back-off.
    pub(super) retry_after: Option<Duration>,
}

impl View<'_> {
    pub(super) fn fit(&self, node: &Node) -> Fit {
        self.placement.fit(node)
    }

    fn rolling(&self) -> Option<&RollingUpdateDaemonSet> {
        let strategy = self.ds.spec.as_ref()?.update_strategy.as_ref()?;
        strategy.rolling_update.as_ref().filter(|_| strategy.type_.as_deref() == Some("RollingUpdate"))
    }

    /// How many nodes may have two pods during an update, of `total`.
    pub(super) fn max_surge(&self, total: i32) -> Result<i32, String> {
        self.rolling().and_then(|r| r.max_surge.as_ref()).map_or(Ok(0), |v| scaled(v, total, true))
    }

    /// How many nodes may be without an available pod during an update, of `total`.
    pub(super) fn max_unavailable(&self, total: i32) -> Result<i32, String> {
        self.rolling().and_then(|r| r.max_unavailable.as_ref()).map_or(Ok(0), |v| scaled(v, total, true))
    }

    pub(super) fn is_available(&self, pod: &Pod) -> bool {
        let min_ready = self.ds.spec.as_ref().and_then(|s| s.min_ready_seconds).unwrap_or(0);
        pods::is_available(pod, min_ready, self.now)
    }

    /// Is the pod of the current template?
    pub(super) fn is_current(&self, pod: &Pod) -> bool {
        let by_generation =
            template_generation(self.ds).is_some_and(|g| pod.label(GENERATION_LABEL) == Some(&g.to_string()));
        by_generation || (!self.hash.is_empty() && pod.label(REVISION_LABEL) == Some(self.hash))
    }

    /// Brings every node to one pod or none. `failed` answers whether the failed pod of a node may be replaced already.
    pub(super) fn manage(&self, by_node: &PodsByNode, failed: impl Fn(&str) -> Result<(), Duration>) -> Changes {
        let mut changes = Changes::default();
        for node in self.nodes {
            self.manage_node(node, by_node.get(node.name_str()), &failed, &mut changes);
        }
        // Nobody else deletes pods that wait for a node that is gone.
        let known: HashSet<&str> = self.nodes.iter().map(|n| n.name_str()).collect();
        for (name, list) in by_node {
            if !known.contains(name.as_str()) {
                changes.delete.extend(list.iter().filter(|p| pods::node_name(p).is_empty()).cloned());
            }
        }
        changes
    }

    fn manage_node(
        &self,
        node: &Node,
        there: Option<&Vec<Arc<Pod>>>,
        failed: &impl Fn(&str) -> Result<(), Duration>,
        changes: &mut Changes,
    ) {
        let (name, fit) = (node.name_str(), self.fit(node));
        let Some(there) = there else {
            changes.create.extend(fit.should_run.then(|| name.to_owned()));
            return;
        };
        let living = there.iter().filter(|p| !p.is_deleting());
        if !fit.may_stay {
            changes.delete.extend(living.cloned());
            return;
        }
        let mut running: Vec<&Arc<Pod>> = Vec::new();
        for pod in living {
            match pods::phase(pod) {
                "Failed" => {
                    if let Err(delay) = failed(name) {
                        changes.retry_after = Some(changes.retry_after.map_or(delay, |d| d.min(delay)));
                        continue;
                    }
                }
                "Succeeded" => {}
                _ => {
                    running.push(pod);
                    continue;
                }
            }
            changes.finished.push((pod.clone(), name.to_owned()));
            changes.delete.push(pod.clone());
        }
        running.sort_by(|a, b| oldest_first(a, b));
        if !self.max_surge(1).is_ok_and(|n| n > 0) {
            changes.delete.extend(running.into_iter().skip(1).cloned());
        } else if running.is_empty() {
            changes.create.extend(fit.should_run.then(|| name.to_owned()));
        } else if running.len() > 1 {
            self.prune_surge(&running, changes);
        }
    }

    /// Of several pods only the oldest new and the oldest old one stay; the old one until the new one can take over.
    fn prune_surge(&self, running: &[&Arc<Pod>], changes: &mut Changes) {
        let (mut new, mut old) = (None, None);
        for pod in running {
            let current = pod.label(REVISION_LABEL) == Some(self.hash);
            let place = if current { &mut new } else { &mut old };
            match place {
                None => *place = Some(*pod),
                Some(_) => changes.delete.push((*pod).clone()),
            }
        }
        if let (Some(new), Some(old)) = (new, old)
            && (!pods::is_ready(old) || self.is_available(new))
        {
            changes.delete.push(old.clone());
        }
    }
}

/// The generation that pods of the template may bear instead of the hash.
pub(super) fn template_generation(ds: &DaemonSet) -> Option<i64> {
    ds.annotation(GENERATION_ANNOTATION)?.parse().ok()
}

/// Sorts pods by their node, those that are done and going excepted unless `with_gone`.
pub(super) fn by_node(list: &[Arc<Pod>], with_gone: bool) -> PodsByNode {
    let mut map = PodsByNode::new();
    for pod in list {
        if !with_gone && pods::is_terminal(pod) && pod.is_deleting() {
            continue;
        }
        if let Some(node) = target_node(pod) {
            map.entry(node.to_owned()).or_default().push(pod.clone());
        }
    }
    map
}

/// Scheduled pods first, then by age and name.
pub(super) fn oldest_first(a: &Pod, b: &Pod) -> Ordering {
    let unscheduled = |p: &Pod| pods::node_name(p).is_empty();
    unscheduled(a)
        .cmp(&unscheduled(b))
        .then_with(|| a.created().cmp(&b.created()))
        .then_with(|| a.name_str().cmp(b.name_str()))
}
