//! The revisions of a StatefulSet: which one its pods were, which one they are to become.

use std::collections::HashSet;
use std::sync::Arc;

use k8s_openapi::api::apps::v1::{ControllerRevision, StatefulSet};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, DeleteParams, PostParams};
use kube::core::Selector;
use serde_json::Value;

use super::facts::{Revision, pod_revision};
use super::{Controller, Error};
use crate::shared::meta::MetaExt;
use crate::shared::owned::{self, Owners};
use crate::shared::{apierr, history, selector};

/// Two templates of one hash are rare, three by chance impossible.
const COLLISIONS: i32 = 10;

/// All revisions, oldest first, and the two that matter.
pub(super) struct Revisions {
    all: Vec<ControllerRevision>,
    pub(super) current: Revision,
    pub(super) update: Revision,
    pub(super) collisions: i32,
}

fn parsed(set: &StatefulSet, revision: &ControllerRevision) -> Revision {
    let template = history::template_of(revision).or_else(|| set.spec.as_ref().map(|s| s.template.clone()));
    Revision { name: revision.name_str().to_owned(), template: Arc::new(template.unwrap_or_default()) }
}

impl Controller {
    fn revisions_api(&self, set: &StatefulSet) -> Api<ControllerRevision> {
        Api::namespaced(self.control.client.clone(), set.ns_str())
    }

    /// Finds or makes the revision of the current template.
    pub(super) async fn revisions(
        &self,
        key: &str,
        set: &StatefulSet,
        selector: &Selector,
    ) -> Result<Revisions, Error> {
        let candidates = Owners::candidates(set, &self.revisions);
        let matches = |r: &ControllerRevision| selector::selects(selector, &r.metadata);
        let all = owned::claim(&self.control.client, set, candidates, matches, None).await?;
        let mut all: Vec<ControllerRevision> = all.into_iter().map(|r| (*r).clone()).collect();
        all.sort_by(history::by_age);
        let patch = set.spec.as_ref().map_or(Value::Null, |s| history::patch_of(&s.template));
        let mut collisions = set.status.as_ref().and_then(|s| s.collision_count).unwrap_or(0);
        let next = all.last().map_or(1, |r| r.revision + 1);
        let last = all.len().saturating_sub(1);
        let update = match all.iter().rposition(|r| history::keeps(r, &patch)) {
            Some(index) if index == last => all[index].clone(),
            Some(index) => {
                let mut known = all[index].clone();
                known.revision = next;
                let written = self.revisions_api(set).replace(known.name_str(), &PostParams::default(), &known).await?;
                self.consistency.wrote(key, &written);
                written
            }
            None => self.create_revision(key, set, patch, next, &mut collisions).await?,
        };
        let name = set.status.as_ref().and_then(|s| s.current_revision.as_deref()).unwrap_or("");
        let current = all.iter().find(|r| r.name_str() == name).unwrap_or(&update);
        Ok(Revisions { current: parsed(set, current), update: parsed(set, &update), all, collisions })
    }

    async fn create_revision(
        &self,
        key: &str,
        set: &StatefulSet,
        patch: Value,
        number: i64,
        collisions: &mut i32,
    ) -> Result<ControllerRevision, Error> {
        let labels = set.spec.as_ref().and_then(|s| s.template.metadata.as_ref()?.labels.clone());
        let api = self.revisions_api(set);
        for _ in 0..COLLISIONS {
            let wanted = history::hashed_revision(set, labels.clone(), patch.clone(), number, *collisions);
            match api.create(&PostParams::default(), &wanted).await {
                Ok(created) => {
                    self.consistency.wrote(key, &created);
                    return Ok(created);
                }
                Err(error) if apierr::is_already_exists(&error) => {}
                Err(error) => return Err(error.into()),
            }
            let existing = api.get(wanted.name_str()).await?;
            if history::keeps(&existing, &patch) {
                return Ok(existing);
            }
            *collisions += 1;
        }
        Err(Error::Other(format!("no free name for a revision of {}", set.name_str())))
    }

    /// Deletes the oldest revisions that neither the set nor a pod is of, beyond `revisionHistoryLimit`.
    pub(super) async fn clean_up(
        &self,
        set: &StatefulSet,
        revisions: &Revisions,
        pods: &[Arc<Pod>],
    ) -> Result<(), Error> {
        let limit = set.spec.as_ref().and_then(|s| s.revision_history_limit).unwrap_or(10);
        let Ok(limit) = usize::try_from(limit) else { return Ok(()) };
        let mut live: HashSet<&str> = pods.iter().map(|p| pod_revision(p)).collect();
        live.extend([revisions.current.name.as_str(), revisions.update.name.as_str()]);
        let dead: Vec<_> = revisions.all.iter().filter(|r| !live.contains(r.name_str())).collect();
        for revision in dead.iter().take(dead.len().saturating_sub(limit)) {
            let deleted = self.revisions_api(set).delete(revision.name_str(), &DeleteParams::default()).await;
            apierr::ignore_not_found(deleted)?;
        }
        Ok(())
    }
}
