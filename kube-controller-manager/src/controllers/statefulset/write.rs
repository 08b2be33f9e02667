//! The API calls of the StatefulSet controller, with their events.

use std::sync::Arc;

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{ObjectReference, PersistentVolumeClaim, Pod};
use kube::api::{Api, DeleteParams, PostParams};

use super::facts::{StatefulSetExt, claim_name, identity_matches, ordinal, set_identity, set_volumes, storage_matches};
use super::plan::{self, Step};
use super::{Controller, Error, retention};
use crate::events::reference;
use crate::shared::apierr;
use crate::shared::meta::MetaExt;
use crate::shared::pod_control::uid_precondition;

/// One set, and what the events and the cache call it.
pub(super) struct Job<'a> {
    pub(super) key: &'a str,
    pub(super) set: &'a StatefulSet,
    about: ObjectReference,
}

impl<'a> Job<'a> {
    pub(super) fn new(key: &'a str, set: &'a StatefulSet) -> Self {
        Self { key, set, about: reference(set) }
    }
}

impl Controller {
    /// Does one step.
    pub(super) async fn step(&self, job: &Job<'_>, step: &Step) -> Result<(), Error> {
        match step {
            Step::Create(pod) => self.create_pod(job, pod).await,
            Step::Delete(pod) => self.delete_pod(job, pod).await,
            Step::MakeClaims(pod) => {
                self.make_claims(job, pod).await?;
                self.own_claims(job, pod).await
            }
            Step::OwnClaims(pod) => self.own_claims(job, pod).await,
            Step::Repair(pod) => self.repair(job, pod).await,
        }
    }

    fn tell<T>(&self, job: &Job<'_>, verb: &str, what: &str, result: &Result<T, kube::Error>) {
        let set = job.set.name_str();
        match result {
            Ok(_) => {
                let message = format!("{verb} {what} in StatefulSet {set} successful");
                self.control.events.normal(&job.about, &format!("Successful{verb}"), message);
            }
            Err(error) => {
                let message = format!("{verb} {what} in StatefulSet {set} failed error: {}", apierr::message(error));
                self.control.events.warning(&job.about, &format!("Failed{verb}"), message);
            }
        }
    }

    async fn create_pod(&self, job: &Job<'_>, pod: &Pod) -> Result<(), Error> {
        self.make_claims(job, pod).await?;
        let api: Api<Pod> = Api::namespaced(self.control.client.clone(), job.set.ns_str());
        let result = api.create(&PostParams::default(), pod).await;
        match &result {
            Ok(created) => self.consistency.wrote(job.key, created),
            Err(error) if apierr::is_already_exists(error) => {}
            Err(error) if apierr::is_namespace_terminating(error) => return Ok(()),
            Err(_) => {}
        }
        if !result.as_ref().is_err_and(apierr::is_already_exists) {
            self.tell(job, "Create", &format!("Pod {}", pod.name_str()), &result);
        }
        let created = result?;
        self.own_claims(job, &created).await
    }

    async fn delete_pod(&self, job: &Job<'_>, pod: &Pod) -> Result<(), Error> {
        let api: Api<Pod> = Api::namespaced(self.control.client.clone(), job.set.ns_str());
        let params = uid_precondition(DeleteParams::default(), pod.uid_str());
        let result = match api.delete(pod.name_str(), &params).await {
            Ok(answer) => {
                if let Some(going) = answer.left() {
                    self.consistency.wrote(job.key, &going);
                }
                Ok(())
            }
            // Gone already, or another pod of that name by now.
            Err(error) if apierr::is_not_found(&error) || apierr::is_conflict(&error) => Ok(()),
            Err(error) => Err(error),
        };
        self.tell(job, "Delete", &format!("Pod {}", pod.name_str()), &result);
        Ok(result?)
    }

    fn claims_api(&self, set: &StatefulSet) -> Api<PersistentVolumeClaim> {
        Api::namespaced(self.control.client.clone(), set.ns_str())
    }

    async fn make_claims(&self, job: &Job<'_>, pod: &Pod) -> Result<(), Error> {
        let cached = |name: &str| self.claims.get(job.set.ns_str(), name);
        let (missing, deleting) = plan::missing_claims(job.set, pod, &cached);
        let mut failure = deleting.map(Error::Other);
        for claim in missing {
            let result = self.claims_api(job.set).create(&PostParams::default(), &claim).await;
            if let Ok(created) = &result {
                self.consistency.wrote(job.key, created);
            }
            let exists = result.as_ref().is_err_and(apierr::is_already_exists);
            let set = job.set.name_str();
            let what = format!("Claim {} Pod {} in StatefulSet {set}", claim.name_str(), pod.name_str());
            match result {
                Ok(_) => {
                    let message = format!("Create {what} success");
                    self.control.events.normal(&job.about, "SuccessfulCreate", message);
                }
                Err(error) => {
                    if !exists {
                        let what = what.replacen(" Pod ", " for Pod ", 1);
                        let message = format!("Create {what} failed error: {}", apierr::message(&error));
                        self.control.events.warning(&job.about, "FailedCreate", message);
                    }
                    failure = Some(error.into());
                }
            }
        }
        match failure {
            None => Ok(()),
            Some(error) => {
                let (name, set) = (pod.name_str(), job.set.name_str());
                let message = format!("Create Pod {name} in StatefulSet {set} failed error: {error}");
                self.control.events.warning(&job.about, "FailedCreate", message);
                Err(error)
            }
        }
    }

    /// Lets the claims be owned as the retention policy says.
    async fn own_claims(&self, job: &Job<'_>, pod: &Pod) -> Result<(), Error> {
        let Some(ordinal) = ordinal(pod) else { return Ok(()) };
        for template in job.set.claim_templates() {
            let name = claim_name(job.set, template, ordinal);
            let Some(claim) = self.claims.get(job.set.ns_str(), &name) else { continue };
            if retention::has_other_controller(&claim, job.set, pod) {
                let message = format!(
                    "PersistentVolumeClaim {name} has a conflicting OwnerReference that acts as a manging controller, \
                     the retention policy is ignored for this claim"
                );
                self.control.events.warning(&job.about, "ConflictingController", message);
            }
            if !retention::is_current(&claim, job.set, pod) {
                let mut claim = (*claim).clone();
                retention::apply(&mut claim, job.set, pod);
                let written = self.claims_api(job.set).replace(&name, &PostParams::default(), &claim).await?;
                self.consistency.wrote(job.key, &written);
            }
        }
        Ok(())
    }

    async fn repair(&self, job: &Job<'_>, pod: &Arc<Pod>) -> Result<(), Error> {
        let mut fixed = (**pod).clone();
        let mut changed = false;
        if !identity_matches(job.set, pod) {
            set_identity(&mut fixed);
            changed = true;
        }
        if !storage_matches(job.set, pod) {
            set_volumes(job.set, &mut fixed);
            self.make_claims(job, pod).await?;
            changed = true;
        }
        self.own_claims(job, pod).await?;
        if !changed {
            return Ok(());
        }
        let api: Api<Pod> = Api::namespaced(self.control.client.clone(), job.set.ns_str());
        let result = api.replace(pod.name_str(), &PostParams::default(), &fixed).await;
        self.tell(job, "Update", &format!("Pod {}", pod.name_str()), &result);
        self.consistency.wrote(job.key, &result?);
        Ok(())
    }
}
