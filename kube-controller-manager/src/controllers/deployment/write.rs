//! The API calls of the deployment controller, with their events.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::{Deployment, DeploymentStatus, ReplicaSet, ReplicaSetSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Api;
use kube::api::{DeleteParams, PostParams};

use super::Controller;
use super::facts::{
    self, DeploymentExt, HASH_LABEL, REVISION, ReplicaSetExt, comparable, replica_set_name, replicas_annotations_differ,
};
use super::plan::{self, Resize};
use super::rollout::Sets;
use super::status::{self, PROGRESSING, TIMED_OUT};
use crate::events::reference;
use crate::shared::meta::{MetaExt, now};
use crate::shared::owner::{controller_of, controller_ref};
use crate::shared::{apierr, hash};

impl Controller {
    fn sets_api(&self, d: &Deployment) -> Api<ReplicaSet> {
        Api::namespaced(self.client.clone(), d.ns_str())
    }

    /// Writes the status; `d` then carries what the server answered.
    pub(super) async fn write_status(&self, d: &mut Deployment, status: DeploymentStatus) -> Result<(), kube::Error> {
        d.status = Some(status);
        let api: Api<Deployment> = Api::namespaced(self.client.clone(), d.ns_str());
        match api.replace_status(d.name_str(), &PostParams::default(), d).await {
            Ok(written) => {
                d.metadata.resource_version = written.metadata.resource_version;
                Ok(())
            }
            Err(error) if apierr::is_not_found(&error) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Keeps the Progressing condition's word on pause and resume; true when it had to be written.
    pub(super) async fn note_pause(&self, d: &mut Deployment) -> Result<bool, kube::Error> {
        let mut status = d.status.clone().unwrap_or_default();
        let reason = status::get(&status, PROGRESSING).and_then(|c| c.reason.as_deref());
        if d.progress_deadline().is_none() || reason == Some(TIMED_OUT) {
            return Ok(false);
        }
        let noted = reason == Some("DeploymentPaused");
        let (reason, message) = match (d.paused(), noted) {
            (true, false) => ("DeploymentPaused", "Deployment is paused"),
            (false, true) => ("DeploymentResumed", "Deployment is resumed"),
            _ => return Ok(false),
        };
        status::set(&mut status, status::condition(PROGRESSING, "Unknown", reason, message.into(), now()));
        self.write_status(d, status).await?;
        Ok(true)
    }

    /// Brings annotations, revision and minReadySeconds of the current set up to date, and the revision
    /// of the Deployment. True: the set was written, its event continues the work.
    pub(super) async fn refresh_current(&self, d: &mut Deployment, sets: &mut Sets) -> Result<bool, kube::Error> {
        let revision = facts::max_revision(&sets.old) + 1;
        let Some(new) = &sets.new else { return Ok(false) };
        let mut copy = new.clone();
        let mut changed = facts::sync_annotations(d, &mut copy, revision, true);
        let min_ready = copy.spec.as_ref().and_then(|s| s.min_ready_seconds).unwrap_or(0);
        if let Some(spec) = copy.spec.as_mut().filter(|_| min_ready != d.min_ready()) {
            spec.min_ready_seconds = Some(d.min_ready());
            changed = true;
        }
        if changed {
            sets.new = Some(self.sets_api(d).replace(copy.name_str(), &PostParams::default(), &copy).await?);
            return Ok(true);
        }
        let mut status = d.status.clone().unwrap_or_default();
        let mut write = set_revision(d, copy.annotation(REVISION).unwrap_or(""));
        if d.progress_deadline().is_some() && status::get(&status, PROGRESSING).is_none() {
            let message = format!("Found new replica set \"{}\"", copy.name_str());
            status::set(&mut status, status::condition(PROGRESSING, "True", "FoundNewReplicaSet", message, now()));
            write = true;
        }
        if write {
            self.write_status(d, status).await?;
        }
        Ok(false)
    }

    /// Makes the set of the current template. False: nothing more to do in this run (a hash collision
    /// was counted, or another run's set is not in the cache yet).
    pub(super) async fn create_current(&self, d: &mut Deployment, sets: &mut Sets) -> Result<bool, kube::Error> {
        let revision = facts::max_revision(&sets.old) + 1;
        let set = new_set(d, sets, revision);
        let size = set.size();
        match self.sets_api(d).create(&PostParams::default(), &set).await {
            Ok(created) => {
                if size > 0 {
                    let message = format!("Scaled up replica set {} from 0 to {size}", created.name_str());
                    self.events.normal(&reference(d), "ScalingReplicaSet", message);
                }
                self.note_created(d, &created, revision).await?;
                sets.new = Some(created);
                Ok(true)
            }
            Err(error) if apierr::is_already_exists(&error) => self.resolve_name_clash(d, sets, &set, error).await,
            Err(error) => Err(self.note_create_failure(d, &set, error).await),
        }
    }

    async fn note_created(&self, d: &mut Deployment, created: &ReplicaSet, revision: i64) -> Result<(), kube::Error> {
        let mut status = d.status.clone().unwrap_or_default();
        let mut write = set_revision(d, &revision.to_string());
        if d.progress_deadline().is_some() {
            let message = format!("Created new replica set \"{}\"", created.name_str());
            status::set(&mut status, status::condition(PROGRESSING, "True", "NewReplicaSetCreated", message, now()));
            write = true;
        }
        if write { self.write_status(d, status).await } else { Ok(()) }
    }

    /// The name is taken: by our own set that the cache does not show yet, or by another template with the same hash.
    async fn resolve_name_clash(
        &self,
        d: &mut Deployment,
        sets: &mut Sets,
        wanted: &ReplicaSet,
        error: kube::Error,
    ) -> Result<bool, kube::Error> {
        let Some(existing) = self.sets_api(d).get_opt(wanted.name_str()).await? else { return Err(error) };
        let template = |rs: &ReplicaSet| rs.spec.as_ref().and_then(|s| s.template.as_ref()).map(comparable);
        let ours = controller_of(&existing.metadata).is_some_and(|r| r.uid == d.uid_str());
        if ours && template(&existing) == template(wanted) {
            sets.new = Some(existing);
            return Ok(true);
        }
        let mut status = d.status.clone().unwrap_or_default();
        status.collision_count = Some(status.collision_count.unwrap_or(0) + 1);
        self.write_status(d, status).await?;
        Err(error)
    }

    async fn note_create_failure(&self, d: &mut Deployment, set: &ReplicaSet, error: kube::Error) -> kube::Error {
        const REASON: &str = "ReplicaSetCreateError";
        if apierr::is_namespace_terminating(&error) {
            return error;
        }
        let message = format!("Failed to create new replica set \"{}\": {}", set.name_str(), apierr::message(&error));
        if d.progress_deadline().is_some() {
            let mut status = d.status.clone().unwrap_or_default();
            status::set(&mut status, status::condition(PROGRESSING, "False", REASON, message.clone(), now()));
            if let Err(second) = self.write_status(d, status).await {
                tracing::debug!(deployment = d.name_str(), error = %second, "cannot note the failure in the status");
            }
        }
        self.events.warning(&reference(d), REASON, message);
        error
    }

    /// Gives one set its size and the annotations that go with it.
    pub(super) async fn resize(&self, d: &Deployment, rs: &mut ReplicaSet, step: &Resize) -> Result<(), kube::Error> {
        let (from, to) = (rs.size(), step.to);
        let (desired, max) = (d.replicas(), d.replicas() + d.max_surge());
        if from == to && !(step.force && replicas_annotations_differ(rs, desired, max)) {
            return Ok(());
        }
        let mut copy = rs.clone();
        if let Some(spec) = &mut copy.spec {
            spec.replicas = Some(to);
        }
        facts::set_replicas_annotations(&mut copy, desired, max);
        *rs = self.sets_api(d).replace(copy.name_str(), &PostParams::default(), &copy).await?;
        if from != to {
            let direction = if from < to { "up" } else { "down" };
            let message = format!("Scaled {direction} replica set {} from {from} to {to}", rs.name_str());
            self.events.normal(&reference(d), "ScalingReplicaSet", message);
        }
        Ok(())
    }

    /// Deletes the sets that the history limit no longer keeps.
    pub(super) async fn clean_up(&self, d: &Deployment, sets: &Sets) -> Result<(), kube::Error> {
        let api = self.sets_api(d);
        for rs in plan::expired(d, &sets.old) {
            apierr::ignore_not_found(api.delete(rs.name_str(), &DeleteParams::default()).await)?;
        }
        Ok(())
    }
}

fn set_revision(d: &mut Deployment, revision: &str) -> bool {
    let annotations = d.metadata.annotations.get_or_insert_default();
    if annotations.get(REVISION).map(String::as_str) == Some(revision) {
        return false;
    }
    annotations.insert(REVISION.to_owned(), revision.to_owned());
    true
}

/// The set of the current template, sized as the strategy allows at this moment.
fn new_set(d: &Deployment, sets: &Sets, revision: i64) -> ReplicaSet {
    let spec = d.spec.clone().unwrap_or_default();
    let mut template = spec.template;
    let hash = hash::pod_template_hash(&template, d.status.as_ref().and_then(|s| s.collision_count));
    let add_hash = |map: &mut Option<BTreeMap<String, String>>| {
        map.get_or_insert_default().insert(HASH_LABEL.to_owned(), hash.clone());
    };
    add_hash(&mut template.metadata.get_or_insert_default().labels);
    let mut selector = spec.selector;
    add_hash(&mut selector.match_labels);
    let mut set = ReplicaSet {
        metadata: ObjectMeta {
            name: Some(replica_set_name(d.name_str(), &hash)),
            namespace: d.metadata.namespace.clone(),
            labels: template.metadata.as_ref().and_then(|m| m.labels.clone()),
            owner_references: Some(vec![controller_ref(d, "apps/v1", "Deployment")]),
            ..ObjectMeta::default()
        },
        spec: Some(ReplicaSetSpec {
            replicas: Some(plan::new_size(d, &sets.old_refs(), 0)),
            min_ready_seconds: (d.min_ready() != 0).then(|| d.min_ready()),
            selector,
            template: Some(template),
        }),
        status: None,
    };
    facts::sync_annotations(d, &mut set, revision, false);
    set
}
