//! One run for one set: claim its pods, create or delete the difference, write the status.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use common::informer::{object_key, split_key};
use k8s_openapi::api::core::v1::{ObjectReference, Pod};
use kube::api::{Api, PostParams};
use kube::core::Selector;

use super::kinds::ReplicaKind;
use super::{Controller, status};
use crate::events::reference;
use crate::shared::consistency::LOOK_AGAIN;
use crate::shared::meta::{MetaExt, now};
use crate::shared::owned::{self, Owners};
use crate::shared::owner::controller_of;
use crate::shared::pod_control::pod_from_template;
use crate::shared::{apierr, batch, pods, ranking, selector};

/// More than this many pods are not created or deleted in one run.
const BURST: usize = 500;

/// What one run has to do.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Plan {
    Nothing,
    Create(usize),
    Delete(usize),
}

/// The difference between what is there and what is wanted, bounded by [`BURST`].
pub(super) fn plan(active: usize, wanted: i32) -> Plan {
    let wanted = usize::try_from(wanted).unwrap_or(0);
    match active.cmp(&wanted) {
        std::cmp::Ordering::Less => Plan::Create((wanted - active).min(BURST)),
        std::cmp::Ordering::Equal => Plan::Nothing,
        std::cmp::Ordering::Greater => Plan::Delete((active - wanted).min(BURST)),
    }
}

impl<K: ReplicaKind> Controller<K> {
    pub(super) async fn sync(&self, key: &str) -> Result<(), kube::Error> {
        let (namespace, name) = split_key(key);
        if !self.consistency.seen(key, &self.owners.cache) || !self.consistency.seen(key, &self.pods) {
            self.owners.queue.add_after(key.to_owned(), LOOK_AGAIN);
            return Ok(());
        }
        let Some(set) = self.owners.cache.get(namespace, name) else {
            self.owners.expectations.forget(key);
            self.consistency.forget(key);
            return Ok(());
        };
        let may_act = self.owners.expectations.satisfied(key);
        let selector = match set.selector() {
            Ok(selector) => selector,
            Err(error) => {
                tracing::error!(kind = K::KIND, key, %error, "invalid selector");
                return Ok(());
            }
        };
        let all = Owners::candidates(&*set, &self.pods);
        let terminating = all
            .iter()
            .filter(|p| pods::is_terminating(p) && selector::selects(&selector, &p.metadata))
            .filter(|p| controller_of(&p.metadata).is_some_and(|r| r.uid == set.uid_str()))
            .count();
        let active = all.into_iter().filter(|p| pods::is_active(p)).collect();
        let matches = |pod: &Pod| selector::selects(&selector, &pod.metadata);
        let active = owned::claim(&self.control.client, &*set, active, matches, None).await?;
        let result = match may_act && !set.is_deleting() {
            true => self.manage(key, &set, &active).await,
            false => Ok(()),
        };
        self.write_status(&set, &active, terminating, result.as_ref().err()).await?;
        result?;
        self.revisit_for_availability(key, &set, &active);
        Ok(())
    }

    fn api(&self, namespace: &str) -> Api<K> {
        Api::namespaced(self.control.client.clone(), namespace)
    }

    async fn manage(&self, key: &str, set: &K, active: &[Arc<Pod>]) -> Result<(), kube::Error> {
        let owner = reference(set);
        match plan(active.len(), set.replicas()) {
            Plan::Nothing => Ok(()),
            Plan::Create(count) => self.create(key, set, &owner, count).await,
            Plan::Delete(count) => {
                let mut victims = active.to_vec();
                if count < victims.len() {
                    ranking::sort_for_deletion(&mut victims, &self.related(set), now());
                }
                victims.truncate(count);
                self.owners.expectations.expect_deletions(key, victims.iter().map(|p| pods::uid_key(p)));
                self.owners.delete_pods(&self.control, key, &owner, victims).await
            }
        }
    }

    async fn create(&self, key: &str, set: &K, owner: &ObjectReference, count: usize) -> Result<(), kube::Error> {
        let Some(template) = set.template() else { return Ok(()) };
        let pod = pod_from_template(template, set.ns_str(), set.name_str(), set.reference());
        self.owners.expectations.expect_creations(key, count);
        let (created, result) = batch::slow_start(count, 1, || async {
            match self.control.create(set.ns_str(), &pod, owner).await {
                // Nothing more can be created here; the set goes with its namespace.
                Err(error) if apierr::is_namespace_terminating(&error) => {
                    self.owners.expectations.creation_observed(key);
                    Ok(())
                }
                other => other.map(|pod| self.consistency.wrote(key, &pod)),
            }
        })
        .await;
        for _ in created..count {
            self.owners.expectations.creation_observed(key);
        }
        result
    }

    /// The pods of every set with the same controller as this one (all revisions of a Deployment).
    fn related(&self, set: &K) -> Vec<Arc<Pod>> {
        let owner = controller_of(set.meta()).map(|r| r.uid.as_str());
        let siblings = self.owners.cache.list_namespace(set.ns_str());
        let same = siblings.iter().filter(|s| match owner {
            Some(uid) => controller_of((***s).meta()).is_some_and(|r| r.uid == uid),
            None => s.uid_str() == set.uid_str(),
        });
        let selectors: Vec<Selector> = same.filter_map(|s| s.selector().ok()).collect();
        let mut seen = HashSet::new();
        let mut list = self.pods.list_namespace(set.ns_str());
        list.retain(|p| {
            selectors.iter().any(|s| selector::selects(s, &p.metadata)) && seen.insert(p.uid_str().to_owned())
        });
        list
    }

    /// Writes the status if it differs; on a conflict once more over the fresh object.
    async fn write_status(
        &self,
        set: &Arc<K>,
        active: &[Arc<Pod>],
        terminating: usize,
        failure: Option<&kube::Error>,
    ) -> Result<(), kube::Error> {
        let failure = failure.map(apierr::message);
        let new = status::calculate(&**set, active, terminating, failure.as_deref(), now());
        if status::is_current(&set.status(), &new) {
            return Ok(());
        }
        let api = self.api(set.ns_str());
        let mut object = (**set).clone();
        object.set_status(new.clone());
        match api.replace_status(set.name_str(), &PostParams::default(), &object).await {
            Ok(written) => {
                self.consistency.wrote(&object_key(&**set), &written);
                Ok(())
            }
            Err(error) if apierr::is_not_found(&error) => Ok(()),
            Err(error) if apierr::is_conflict(&error) => {
                let fresh = api.get_opt(set.name_str()).await?;
                let Some(mut fresh) = fresh.filter(|f| f.uid_str() == set.uid_str()) else { return Ok(()) };
                fresh.set_status(new);
                api.replace_status(set.name_str(), &PostParams::default(), &fresh).await.map(|_| ())
            }
            Err(error) => Err(error),
        }
    }

    /// Pods that are ready but not long enough turn available by time alone: look again then.
    fn revisit_for_availability(&self, key: &str, set: &K, active: &[Arc<Pod>]) {
        debug_assert_eq!(key, object_key(set));
        let now = jiff::Timestamp::now();
        let wait = active.iter().filter_map(|p| pods::time_to_available(p, set.min_ready_seconds(), now)).min();
        if let Some(wait) = wait {
            let wait = Duration::try_from(wait).unwrap_or(Duration::from_secs(1));
            self.owners.queue.add_after(key.to_owned(), wait + Duration::from_millis(20));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn plans_close_the_gap(active in 0_usize..2000, wanted in -5_i32..2000) {
            let target = usize::try_from(wanted).unwrap_or(0);
            let after = match plan(active, wanted) {
                Plan::Nothing => { prop_assert_eq!(active, target); active }
                Plan::Create(n) => { prop_assert!(n > 0 && n <= BURST); active + n }
                Plan::Delete(n) => { prop_assert!(n > 0 && n <= BURST); active - n }
            };
            prop_assert!(after.abs_diff(target) <= active.abs_diff(target).saturating_sub(BURST.min(active.abs_diff(target))));
        }
    }
}
