//! The revisions of a DaemonSet: one per template, the current one named in the label of new pods.

use std::collections::HashSet;
use std::sync::Arc;

use k8s_openapi::api::apps::v1::{ControllerRevision, DaemonSet};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams};
use kube::core::Selector;
use serde_json::{Value, json};

use super::Controller;
use crate::shared::history::{self, REVISION_LABEL};
use crate::shared::meta::MetaExt;
use crate::shared::owned::{self, Owners};
use crate::shared::{apierr, hash, selector};

/// The revision of the current template, and the others.
pub(super) struct Revisions {
    pub(super) current: ControllerRevision,
    old: Vec<ControllerRevision>,
}

impl Revisions {
    /// What pods of the current template bear.
    pub(super) fn hash(&self) -> &str {
        self.current.label(REVISION_LABEL).unwrap_or("")
    }

    /// The oldest ones that no pod is of, as many as exceed the limit.
    fn expired(&self, limit: usize, pods: &[Arc<Pod>]) -> Vec<&ControllerRevision> {
        let live: HashSet<&str> = pods.iter().filter_map(|p| p.label(REVISION_LABEL)).collect();
        let excess = self.old.len().saturating_sub(limit);
        let mut old: Vec<&ControllerRevision> = self.old.iter().collect();
        old.sort_by_key(|r| r.revision);
        old.retain(|r| !r.label(REVISION_LABEL).is_some_and(|hash| live.contains(hash)));
        old.truncate(excess);
        old
    }
}

impl Controller {
    fn revisions_api(&self, ds: &DaemonSet) -> Api<ControllerRevision> {
        Api::namespaced(self.control.client.clone(), ds.ns_str())
    }

    /// Finds or makes the revision of the current template.
    pub(super) async fn revisions(
        &self,
        key: &str,
        ds: &DaemonSet,
        selector: &Selector,
        pods: &[Arc<Pod>],
    ) -> Result<Revisions, kube::Error> {
        let candidates = Owners::candidates(ds, &self.revisions);
        let matches = |r: &ControllerRevision| selector::selects(selector, &r.metadata);
        let all = owned::claim(&self.control.client, ds, candidates, matches, None).await?;
        let patch = ds.spec.as_ref().map_or(Value::Null, |s| history::patch_of(&s.template));
        let (mut current, mut old) = (Vec::new(), Vec::new());
        for revision in all {
            let mut revision = (*revision).clone();
            if revision.label(REVISION_LABEL).is_none() {
                let name = revision.name_str().to_owned();
                revision.metadata.labels.get_or_insert_default().insert(REVISION_LABEL.to_owned(), name);
                revision = self.replace_revision(key, ds, &revision).await?;
            }
            if history::keeps(&revision, &patch) { current.push(revision) } else { old.push(revision) }
        }
        let number = old.iter().map(|r| r.revision).max().unwrap_or(0).max(0) + 1;
        let current = match self.without_duplicates(ds, current, pods).await? {
            None => self.create_revision(key, ds, patch, number).await?,
            Some(mut known) if known.revision < number => {
                known.revision = number;
                self.replace_revision(key, ds, &known).await?
            }
            Some(known) => known,
        };
        Ok(Revisions { current, old })
    }

    async fn replace_revision(
        &self,
        key: &str,
        ds: &DaemonSet,
        revision: &ControllerRevision,
    ) -> Result<ControllerRevision, kube::Error> {
        let written = self.revisions_api(ds).replace(revision.name_str(), &PostParams::default(), revision).await?;
        self.consistency.wrote(key, &written);
        Ok(written)
    }

    /// Several revisions of one template: the newest stays, the pods of the others become its own.
    async fn without_duplicates(
        &self,
        ds: &DaemonSet,
        mut same: Vec<ControllerRevision>,
        pods: &[Arc<Pod>],
    ) -> Result<Option<ControllerRevision>, kube::Error> {
        same.sort_by_key(|r| r.revision);
        let Some(keep) = same.pop() else { return Ok(None) };
        if same.is_empty() {
            return Ok(Some(keep));
        }
        let api: Api<Pod> = Api::namespaced(self.control.client.clone(), ds.ns_str());
        let hash = keep.label(REVISION_LABEL);
        for pod in pods.iter().filter(|p| p.label(REVISION_LABEL) != hash) {
            let patch = json!({"metadata": {"labels": {REVISION_LABEL: hash}}});
            api.patch(pod.name_str(), &PatchParams::default(), &Patch::Merge(patch)).await?;
        }
        for duplicate in &same {
            self.revisions_api(ds).delete(duplicate.name_str(), &DeleteParams::default()).await?;
        }
        Ok(Some(keep))
    }

    async fn create_revision(
        &self,
        key: &str,
        ds: &DaemonSet,
        patch: Value,
        number: i64,
    ) -> Result<ControllerRevision, kube::Error> {
        let Some(spec) = &ds.spec else { return Ok(ControllerRevision::default()) };
        let collisions = ds.status.as_ref().and_then(|s| s.collision_count);
        let hash = hash::pod_template_hash(&spec.template, collisions);
        let mut labels = spec.template.metadata.as_ref().and_then(|m| m.labels.clone()).unwrap_or_default();
        labels.insert(REVISION_LABEL.to_owned(), hash.clone());
        let name = format!("{}-{hash}", ds.name_str());
        let wanted = history::revision(ds, Some(labels), patch.clone(), name, number);
        let api = self.revisions_api(ds);
        let error = match api.create(&PostParams::default(), &wanted).await {
            Ok(created) => {
                self.consistency.wrote(key, &created);
                return Ok(created);
            }
            Err(error) if apierr::is_already_exists(&error) => error,
            Err(error) => return Err(error),
        };
        let existing = api.get(wanted.name_str()).await?;
        if history::keeps(&existing, &patch) {
            return Ok(existing);
        }
        // Another template has this hash: count it, so that the next run computes another one.
        let sets: Api<DaemonSet> = Api::namespaced(self.control.client.clone(), ds.ns_str());
        let mut fresh = sets.get(ds.name_str()).await?;
        let mut status = fresh.status.take().unwrap_or_default();
        if status.collision_count == collisions {
            status.collision_count = Some(collisions.unwrap_or(0) + 1);
            fresh.status = Some(status);
            let written = sets.replace_status(ds.name_str(), &PostParams::default(), &fresh).await?;
            self.consistency.wrote(key, &written);
        }
        Err(error)
    }

    /// Deletes revisions beyond `revisionHistoryLimit` that no pod is of.
    pub(super) async fn clean_up(
        &self,
        ds: &DaemonSet,
        revisions: &Revisions,
        pods: &[Arc<Pod>],
    ) -> Result<(), kube::Error> {
        let limit = ds.spec.as_ref().and_then(|s| s.revision_history_limit).unwrap_or(10);
        let limit = usize::try_from(limit).unwrap_or(0);
        for revision in revisions.expired(limit, pods) {
            apierr::ignore_not_found(
                self.revisions_api(ds).delete(revision.name_str(), &DeleteParams::default()).await,
            )?;
        }
        Ok(())
    }
}
