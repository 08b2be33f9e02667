//! Writes what was decided: allocations and reservations into the claims, before the pod is bound.

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use common::events::EventType;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ObjectReference, Pod};
use k8s_openapi::api::resource::v1::{AllocationResult, ResourceClaim, ResourceClaimConsumerReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use serde_json::json;

use super::binding::{Readiness, has_conditions, readiness, results, timed_out};
use super::claims::{allocation, uid};
use super::cycle::{Cycle, Found};
use super::{DynamicResources, FINALIZER, extended, pod};
use crate::framework::pod::PodInfo;
use crate::metrics;

/// Attempts at a write that others interfere with, and the pause between them.
const ATTEMPTS: u32 = 5;
const PAUSE: Duration = Duration::from_millis(10);
/// How long to wait for a claim that was just made to be seen.
const SEEN: Duration = Duration::from_secs(120);
/// How often readiness of devices is looked at when nothing tells of a change.
const LOOK: Duration = Duration::from_secs(5);

fn name(claim: &ResourceClaim) -> &str {
    claim.metadata.name.as_deref().unwrap_or_default()
}

fn api(client: &kube::Client, claim: &ResourceClaim) -> Api<ResourceClaim> {
    Api::namespaced(client.clone(), claim.metadata.namespace.as_deref().unwrap_or_default())
}

fn is_conflict(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.is_conflict())
}

/// Why a claim could not be written.
enum Trouble {
    /// Someone else wrote it; look again.
    Conflict(String),
    /// No use trying again.
    Final(String),
}

impl Trouble {
    fn of(doing: &str, claim: &ResourceClaim, error: &kube::Error) -> Self {
        let text = format!("{doing} claim {}: {error}", super::allocator::problem::key(claim));
        if is_conflict(error) { Self::Conflict(text) } else { Self::Final(text) }
    }
}

/// Replaces a claim's status.
pub async fn replace_status(client: kube::Client, claim: ResourceClaim) -> Result<(), kube::Error> {
    api(&client, &claim).replace_status(name(&claim), &PostParams::default(), &claim).await.map(drop)
}

/// Deletes a claim that the scheduler made, its protection first.
pub async fn delete(client: kube::Client, claim: Arc<ResourceClaim>) -> Result<(), kube::Error> {
    let api = api(&client, &claim);
    let mut claim = (*claim).clone();
    for attempt in 1.. {
        if let Some(finalizers) = &mut claim.metadata.finalizers {
            finalizers.retain(|finalizer| finalizer != FINALIZER);
        }
        match api.replace(name(&claim), &PostParams::default(), &claim).await {
            Ok(_) => break,
            Err(error) if is_conflict(&error) && attempt < ATTEMPTS => claim = api.get(name(&claim)).await?,
            Err(error) => return Err(error),
        }
        tokio::time::sleep(PAUSE).await;
    }
    api.delete(name(&claim), &DeleteParams::default()).await.map(drop)
}

impl DynamicResources {
    /// Starts a write that nobody waits for: the event that follows it makes the pod schedulable.
    pub(super) fn spawn<F>(&self, write: impl FnOnce(kube::Client) -> F)
    where
        F: Future<Output = Result<(), kube::Error>> + Send + 'static,
    {
        let (Some(client), Ok(runtime)) = (self.client.clone(), &self.runtime) else { return };
        let write = write(client);
        runtime.spawn(async move {
            if let Err(error) = write.await {
                tracing::error!(%error, "resource claim could not be given back");
            }
        });
    }

    /// PreBind.
    pub(super) async fn bind(&self, pod: &PodInfo, node: &str, cycle: &Cycle) -> Result<(), String> {
        let client = self.client.as_ref().ok_or("no API server to bind claims with")?;
        let claims = cycle.claims.lock().clone();
        for (at, claim) in claims.iter().enumerate() {
            if pod::is_reserved(claim, pod) {
                continue;
            }
            let decided = self.decided(cycle, at);
            let allocation = decided.as_deref().and_then(allocation).cloned();
            let written = self.write(client, claim, allocation, pod).await?;
            self.devices.claims.publish(&written, uid(claim));
            cycle.claims.lock()[at] = written;
        }
        let special = cycle.found.lock().get(node).cloned().filter(|found| found.plan.special.is_some());
        if let Some(found) = special {
            self.bind_special(client, pod, cycle, &found, claims.len()).await?;
        }
        if self.devices.features.binding_conditions {
            self.wait(pod, node, cycle).await?;
        }
        Ok(())
    }

    fn decided(&self, cycle: &Cycle, at: usize) -> Option<Arc<ResourceClaim>> {
        cycle.decided.lock().iter().find(|(place, _)| *place == at).map(|(_, claim)| claim.clone())
    }

    /// Adds the reservation, and the allocation if one was decided.
    async fn write(
        &self,
        client: &kube::Client,
        claim: &ResourceClaim,
        allocation: Option<AllocationResult>,
        pod: &PodInfo,
    ) -> Result<Arc<ResourceClaim>, String> {
        let api = api(client, claim);
        let mut claim = claim.clone();
        for attempt in 1.. {
            match self.write_once(&api, claim.clone(), allocation.as_ref(), pod).await {
                Ok(written) => return Ok(Arc::new(written)),
                Err(Trouble::Conflict(_)) if attempt < ATTEMPTS => {}
                Err(Trouble::Conflict(error) | Trouble::Final(error)) => return Err(error),
            }
            tokio::time::sleep(PAUSE).await;
            let key = super::allocator::problem::key(&claim);
            claim = api
                .get(name(&claim))
                .await
                .map_err(|error| format!("get updated claim {key} after conflict: {error}"))?;
        }
        Err("claim could not be written".into())
    }

    async fn write_once(
        &self,
        api: &Api<ResourceClaim>,
        mut claim: ResourceClaim,
        decided: Option<&AllocationResult>,
        pod: &PodInfo,
    ) -> Result<ResourceClaim, Trouble> {
        let key = super::allocator::problem::key(&claim);
        if claim.metadata.deletion_timestamp.is_some() {
            return Err(Trouble::Final(format!("claim {key} got deleted in the meantime")));
        }
        if let Some(decided) = decided {
            if allocation(&claim).is_some() {
                return Err(Trouble::Final(format!("claim {key} got allocated elsewhere in the meantime")));
            }
            let finalizers = claim.metadata.finalizers.get_or_insert_default();
            if !finalizers.iter().any(|known| known == FINALIZER) {
                // Finalizers cannot be set together with the status.
                finalizers.push(FINALIZER.into());
                let sent = api.replace(name(&claim), &PostParams::default(), &claim).await;
                claim = sent.map_err(|error| Trouble::of("add finalizer to", &claim, &error))?;
            }
            claim.status.get_or_insert_default().allocation = Some(decided.clone());
        }
        let status = claim.status.get_or_insert_default();
        status.reserved_for.get_or_insert_default().push(ResourceClaimConsumerReference {
            api_group: None,
            name: pod.name.to_string(),
            resource: "pods".into(),
            uid: pod.uid.to_string(),
        });
        if self.devices.features.binding_conditions {
            let gone = || Trouble::Final(format!("claim {key} got deallocated elsewhere in the meantime"));
            let allocation = status.allocation.as_mut().ok_or_else(gone)?;
            allocation.allocation_timestamp.get_or_insert(Time(Timestamp::now()));
        }
        let doing = if decided.is_some() { "add allocation and reservation to" } else { "add reservation to" };
        let sent = api.replace_status(name(&claim), &PostParams::default(), &claim).await;
        sent.map_err(|error| Trouble::of(doing, &claim, &error))
    }

    /// Makes the claim for extended resources, and tells the kubelet through the pod's status which container has what.
    async fn bind_special(
        &self,
        client: &kube::Client,
        pod: &PodInfo,
        cycle: &Cycle,
        found: &Found,
        at: usize,
    ) -> Result<(), String> {
        let Some((template, mappings)) = &found.plan.special else { return Ok(()) };
        let decided = self.decided(cycle, at);
        let Some(allocation) = decided.as_deref().and_then(allocation).cloned() else { return Ok(()) };
        let mut claim = (**template).clone();
        (claim.metadata.name, claim.metadata.uid, claim.status) = (None, None, None);
        let made = api(client, &claim).create(&PostParams::default(), &claim).await;
        metrics::CLAIMS_MADE.with_label_values(&[if made.is_ok() { "success" } else { "failure" }]).inc();
        let key = format!("{}/{}", pod.namespace(), extended::IN_MEMORY);
        let made = made.map_err(|error| format!("create claim for extended resources {key}: {error}"))?;
        *cycle.written.lock() = Some(Arc::new(made.clone()));
        let written = self.write(client, &made, Some(allocation), pod).await?;
        *cycle.written.lock() = Some(written.clone());
        self.see(&written, uid(template)).await;
        let status = json!({"metadata": {"uid": *pod.uid}, "status": {"extendedResourceClaimStatus": {
            "requestMappings": mappings, "resourceClaimName": name(&written)}}});
        let pods: Api<Pod> = Api::namespaced(client.clone(), pod.namespace());
        let sent = pods.patch_status(&pod.name, &PatchParams::default(), &Patch::Strategic(status)).await;
        sent.map(drop).map_err(|error| format!("update pod {} ExtendedResourceClaimStatus: {error}", pod.key()))
    }

    /// Waits until a new claim is in the cache, so that its devices count without the decision.
    async fn see(&self, written: &Arc<ResourceClaim>, decided: &str) {
        let deadline = Instant::now() + SEEN;
        while Instant::now() < deadline {
            let changed = self.devices.claims.changed.notified();
            if self.devices.claims.publish(written, decided) {
                return;
            }
            let _ = tokio::time::timeout(Duration::from_secs(1), changed).await;
        }
        tracing::warn!(claim = name(written), "a new resource claim was not seen for long");
    }

    /// Waits for devices that must be made ready.
    async fn wait(&self, pod: &PodInfo, node: &str, cycle: &Cycle) -> Result<(), String> {
        let written = cycle.written.lock().clone();
        let claims: Vec<_> = cycle.claims.lock().iter().cloned().chain(written).collect();
        if !claims.iter().any(|claim| has_conditions(claim)) {
            return Ok(());
        }
        if let Some(recorder) = &self.recorder {
            let regarding = ObjectReference {
                api_version: Some("v1".into()),
                kind: Some("Pod".into()),
                namespace: Some(pod.namespace().into()),
                name: Some(pod.name.to_string()),
                uid: Some(pod.uid.to_string()),
                ..ObjectReference::default()
            };
            let note = format!("waiting for binding conditions for device on node {node}");
            recorder.event(&regarding, None, EventType::Normal, "BindingConditionsPending", "Scheduling", &note);
        }
        let started = Instant::now();
        let ready = tokio::time::timeout(self.binding_timeout, self.until_ready(&claims)).await;
        let outcome = ready.unwrap_or_else(|_| Err("device binding timeout: context deadline exceeded".into()));
        let label = match &outcome {
            Ok(()) => "success",
            Err(error) if error.starts_with("device binding timeout") => "timeout",
            Err(error) if error.starts_with("device binding failed") => "failure",
            Err(_) => "error",
        };
        for result in claims.iter().flat_map(|claim| results(claim)) {
            let labels = [self.profile.as_str(), &result.driver, label];
            metrics::BINDING_CONDITIONS_WAIT.with_label_values(&labels).observe(started.elapsed().as_secs_f64());
            if result.binding_conditions.as_ref().is_some_and(|conditions| !conditions.is_empty()) {
                metrics::BINDING_CONDITIONS_ALLOCATIONS.with_label_values(&labels).inc();
            }
        }
        outcome
    }

    async fn until_ready(&self, claims: &[Arc<ResourceClaim>]) -> Result<(), String> {
        loop {
            // Registered before the look, so that no change in between is missed.
            let changed = self.devices.claims.changed.notified();
            if self.all_ready(claims)? {
                return Ok(());
            }
            let _ = tokio::time::timeout(LOOK, changed).await;
        }
    }

    fn all_ready(&self, claims: &[Arc<ResourceClaim>]) -> Result<bool, String> {
        for claim in claims {
            let key = super::allocator::problem::key(claim);
            let (namespace, name) = (claim.metadata.namespace.as_deref().unwrap_or_default(), name(claim));
            let missing = || format!("could not find ResourceClaim {key:?}");
            let claim = self.devices.claims.get(namespace, name).ok_or_else(missing)?;
            match readiness(&claim) {
                Readiness::Ready => {}
                Readiness::Failed(error) => return Err(error),
                Readiness::Waiting if timed_out(&claim, self.binding_timeout, Timestamp::now()) => {
                    return Err(format!("device binding timeout: claim={name}"));
                }
                Readiness::Waiting => return Ok(false),
            }
        }
        Ok(true)
    }

    /// Takes back what [`Self::bind`] wrote: reservations for the pod, and the claim made for it.
    pub(super) async fn unbind(&self, pod: &PodInfo, cycle: &Cycle) {
        let Some(client) = &self.client else { return };
        let claims = cycle.claims.lock().clone();
        for claim in claims.iter().filter(|claim| allocation(claim).is_some() && pod::is_reserved(claim, pod)) {
            let gone = json!([{"$patch": "delete", "uid": *pod.uid}]);
            let patch = json!({"metadata": {"uid": uid(claim)}, "status": {"reservedFor": gone}});
            let (api, patch) = (api(client, claim), Patch::Strategic(patch));
            if let Err(error) = api.patch_status(name(claim), &PatchParams::default(), &patch).await {
                tracing::error!(claim = name(claim), %error, "reservation could not be taken back");
            }
        }
        let written = cycle.written.lock().take();
        if let Some(claim) = written
            && let Err(error) = delete(client.clone(), claim.clone()).await
        {
            tracing::error!(claim = name(&claim), %error, "claim for extended resources could not be deleted");
        }
    }
}
