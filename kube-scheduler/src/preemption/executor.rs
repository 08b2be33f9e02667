//! Carries out a preemption in a task of its own: nominations of less important pods on the node are withdrawn, the victims
//! marked and deleted. Until the last deletion is sent, the preemptor is kept out of the active queue.

use std::collections::HashSet;
use std::sync::{Arc, OnceLock};

use common::events::{EventType, EventsV1Recorder};
use k8s_openapi::api::core::v1::{ObjectReference, Pod};
use kube::api::{Api, DeleteParams, Patch, PatchParams, Preconditions};
use parking_lot::Mutex;
use serde_json::json;
use tokio::runtime::Handle;

use crate::framework::pod::PodInfo;
use crate::metrics;
use crate::plugins::registry::{Activate, Services};

/// The preemptions under way.
pub struct Executor {
    client: Option<kube::Client>,
    runtime: Option<Handle>,
    recorder: Option<EventsV1Recorder>,
    activate: Arc<OnceLock<Activate>>,
    preempting: Mutex<HashSet<Arc<str>>>,
}

fn reference(pod: &PodInfo) -> ObjectReference {
    ObjectReference {
        api_version: Some("v1".into()),
        kind: Some("Pod".into()),
        namespace: Some(pod.namespace().to_owned()),
        name: Some(pod.name.to_string()),
        uid: Some(pod.uid.to_string()),
        resource_version: Some(pod.resource_version.to_string()),
        field_path: None,
    }
}

/// An answer that means the pod is gone, which is what was wanted.
fn gone_is_fine<T>(result: Result<T, kube::Error>) -> Result<(), kube::Error> {
    match result {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        Err(error) => Err(error),
    }
}

impl Executor {
    /// Runs on the current runtime, if there is one.
    pub fn new(services: &Services) -> Self {
        Self {
            client: services.client.clone(),
            runtime: Handle::try_current().ok(),
            recorder: services.recorder.clone(),
            activate: services.activate.clone(),
            preempting: Mutex::default(),
        }
    }

    /// Whether victims of the pod are still being told to go.
    pub fn is_preempting(&self, uid: &str) -> bool {
        self.preempting.lock().contains(uid)
    }

    /// Starts a preemption.
    pub fn start(
        self: &Arc<Self>,
        preemptor: &PodInfo,
        node: &Arc<str>,
        mut victims: Vec<Arc<PodInfo>>,
        outranked: Vec<Arc<PodInfo>>,
    ) {
        victims.retain(|victim| !victim.deleting);
        let (Some(client), Some(runtime)) = (self.client.clone(), &self.runtime) else { return };
        if victims.is_empty() {
            return;
        }
        self.preempting.lock().insert(preemptor.uid.clone());
        let (this, preemptor, node) = (self.clone(), preemptor.clone(), node.clone());
        runtime.spawn(async move {
            let started = std::time::Instant::now();
            let result = this.carry_out(&client, &preemptor, &node, victims, outranked).await;
            this.preempting.lock().remove(&preemptor.uid);
            let label = if result.is_ok() { "success" } else { "error" };
            metrics::PREEMPTION_EXECUTIONS.with_label_values(&[label]).inc();
            metrics::PREEMPTION_DURATION.with_label_values(&[label]).observe(started.elapsed().as_secs_f64());
            if let Err(error) = result {
                tracing::error!(pod = preemptor.key(), %error, "preemption failed");
                if let Some(activate) = this.activate.get() {
                    activate(std::slice::from_ref(&preemptor.uid));
                }
            }
        });
    }

    async fn carry_out(
        &self,
        client: &kube::Client,
        preemptor: &PodInfo,
        node: &str,
        mut victims: Vec<Arc<PodInfo>>,
        outranked: Vec<Arc<PodInfo>>,
    ) -> Result<(), kube::Error> {
        for pod in outranked {
            let api: Api<Pod> = Api::namespaced(client.clone(), pod.namespace());
            let patch = json!({"metadata": {"uid": &*pod.uid}, "status": {"nominatedNodeName": null}});
            gone_is_fine(api.patch_status(&pod.name, &PatchParams::default(), &Patch::Strategic(patch)).await)?;
        }
        let last = victims.pop();
        let all = victims.iter().map(|victim| self.evict(client, preemptor, node, victim));
        futures::future::try_join_all(all).await?;
        if let Some(last) = last {
            // Its deletion is the event that wakes the preemptor; the gate must be open by then.
            self.preempting.lock().remove(&preemptor.uid);
            self.evict(client, preemptor, node, &last).await?;
        }
        Ok(())
    }

    async fn evict(
        &self,
        client: &kube::Client,
        preemptor: &PodInfo,
        node: &str,
        victim: &PodInfo,
    ) -> Result<(), kube::Error> {
        let api: Api<Pod> = Api::namespaced(client.clone(), victim.namespace());
        let scheduler = &preemptor.template.scheduler_name;
        let patch = json!({"metadata": {"uid": &*victim.uid}, "status": {"conditions": [{
            "type": "DisruptionTarget",
            "status": "True",
            "reason": "PreemptionByScheduler",
            "message": format!("{scheduler}: preempting to accommodate a higher priority pod"),
            "lastTransitionTime": jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
        }]}});
        gone_is_fine(api.patch_status(&victim.name, &PatchParams::default(), &Patch::Strategic(patch)).await)?;
        let same = Preconditions { uid: Some(victim.uid.to_string()), resource_version: None };
        let params = DeleteParams { preconditions: Some(same), ..DeleteParams::default() };
        gone_is_fine(api.delete(&victim.name, &params).await)?;
        tracing::info!(pod = preemptor.key(), victim = victim.key(), node, "preempted a pod");
        if let Some(recorder) = &self.recorder {
            let note = format!("Preempted by pod {} on node {node}", preemptor.uid);
            let related = Some(reference(preemptor));
            recorder.event(&reference(victim), related, EventType::Normal, "Preempted", "Preempting", &note);
        }
        Ok(())
    }
}
