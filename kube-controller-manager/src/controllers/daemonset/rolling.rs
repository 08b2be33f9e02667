//! One step of a rolling update, within maxUnavailable or maxSurge. Pure.

use std::collections::HashSet;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;

use super::plan::{Changes, PodsByNode, View};
use crate::shared::meta::MetaExt;

/// The new and the old pod of a node.
type Pair<'a> = (Option<&'a Arc<Pod>>, Option<&'a Arc<Pod>>);

/// Those of a node; None when there are several of a sort, which is for `manage` to clear up.
fn pair<'a>(view: &View<'_>, list: &'a [Arc<Pod>]) -> Option<Pair<'a>> {
    let (mut new, mut old) = (None, None);
    for pod in list.iter().filter(|p| !p.is_deleting()) {
        let place = if view.is_current(pod) { &mut new } else { &mut old };
        if place.replace(pod).is_some() {
            return None;
        }
    }
    Some((new, old))
}

impl View<'_> {
    /// The next pods to replace.
    ///
    /// # Errors
    /// A malformed percentage in the strategy.
    pub(super) fn roll(&self, by_node: &PodsByNode) -> Result<Changes, String> {
        let mut all = by_node.clone();
        let wanted: HashSet<&str> =
            self.nodes.iter().filter(|n| self.fit(n).should_run).map(|n| n.name_str()).collect();
        let desired = i32::try_from(wanted.len()).unwrap_or(i32::MAX);
        for node in &wanted {
            all.entry((*node).to_owned()).or_default();
        }
        let (surge, mut unavailable) = (self.max_surge(desired)?, self.max_unavailable(desired)?);
        if desired > 0 && surge == 0 && unavailable == 0 {
            unavailable = 1;
        }
        Ok(match surge {
            0 => self.replace(&all, usize::try_from(unavailable).unwrap_or(0)),
            _ => self.surge(&all, usize::try_from(surge).unwrap_or(0), &wanted),
        })
    }

    /// Deletes old pods, so that no more than `max` nodes are without an available pod.
    fn replace(&self, all: &PodsByNode, max: usize) -> Changes {
        let (mut unavailable, mut changes, mut candidates) = (0, Changes::default(), Vec::new());
        for list in all.values() {
            match pair(self, list) {
                None | Some((None, None) | (Some(_), Some(_))) => unavailable += 1,
                Some((Some(new), None)) => unavailable += usize::from(!self.is_available(new)),
                Some((None, Some(old))) if !self.is_available(old) => {
                    changes.delete.push(old.clone());
                    unavailable += 1;
                }
                Some((None, Some(old))) => candidates.push(old.clone()),
            }
        }
        changes.delete.extend(candidates.into_iter().take(max.saturating_sub(unavailable)));
        changes
    }

    /// Creates new pods beside at most `max` available old ones, and deletes old ones whose successor is available.
    fn surge(&self, all: &PodsByNode, max: usize, wanted: &HashSet<&str>) -> Changes {
        let (mut surging, mut available) = (0_usize, 0_usize);
        let (mut changes, mut candidates, mut misplaced) = (Changes::default(), Vec::new(), Vec::new());
        for (name, list) in all {
            let Some((new, old)) = pair(self, list) else {
                surging += 1;
                continue;
            };
            available += usize::from(old.or(new).is_some_and(|p| self.is_available(p)));
            let Some(old) = old else { continue };
            let wanted_here = wanted.contains(name.as_str());
            match (new, self.is_available(old)) {
                (Some(new), _) if self.is_available(new) => changes.delete.push(old.clone()),
                (Some(_), _) => surging += 1,
                (None, false) if wanted_here => changes.create.push(name.clone()),
                (None, false) => changes.delete.push(old.clone()),
                (None, true) if wanted_here => candidates.push(name.clone()),
                (None, true) => misplaced.push(old.clone()),
            }
        }
        // Where daemons should run no more they go when their successors elsewhere are available.
        let spare = available.saturating_sub(wanted.len());
        changes.delete.extend(misplaced.into_iter().take(spare));
        changes.create.extend(candidates.into_iter().take(max.saturating_sub(surging)));
        changes
    }
}
