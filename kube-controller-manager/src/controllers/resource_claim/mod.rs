//! `resourceclaim-controller`: makes the claims of pods from their templates, reserves claims for pods that no scheduler placed,
//! and gives back what no pod uses any longer.

mod plan;

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use common::informer::{Event, Informer, WorkQueue, object_key, run_workers, split_key};
use k8s_openapi::api::core::v1::{Pod, PodResourceClaim};
use k8s_openapi::api::resource::v1::{ResourceClaim, ResourceClaimConsumerReference, ResourceClaimTemplate};
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::{Api, Client};
use parking_lot::Mutex;
use prometheus::{IntCounterVec, Opts};
use serde_json::json;

use self::plan::{FINALIZER, Named, POD_CLAIM_NAME, listed};
use crate::context::{Context, Task};
use crate::events::{Events, reference};
use crate::shared::meta::MetaExt;
use crate::shared::owner::controller_of;
use crate::shared::pod_control::uid_precondition;
use crate::shared::{apierr, pods};

/// The field manager of generated claims' names in the status of pods; upstream's.
const MANAGER: &str = "ResourceClaimController";
/// Index of generated claims by the UID of their pod.
const BY_OWNER: &str = "claim-owner";
/// Index of pods by `namespace/name` of the claims they use.
pub(crate) const BY_RESOURCE_CLAIM: &str = "resource-claim";

/// Sets up the controller.
pub(crate) fn start(ctx: &Context) -> anyhow::Result<Task> {
    let client = ctx.client("resource-claim-controller");
    let controller = Arc::new(Controller {
        events: ctx.events(&client, "resource_claim"),
        client,
        pods: ctx.factory.informer(),
        claims: ctx.factory.informer(),
        templates: ctx.factory.informer(),
        queue: WorkQueue::new("resource_claim"),
        made: Mutex::default(),
    });
    controller.register();
    let (shutdown, workers) = (ctx.shutdown.clone(), ctx.options.volumes.concurrent_resourceclaim_syncs);
    Ok(Box::pin(async move {
        let queue = controller.queue.clone();
        run_workers("resource_claim", queue, workers, shutdown, move |item: Item| {
            let controller = controller.clone();
            async move {
                match item {
                    Item::Pod(key) => controller.sync_pod(&key).await,
                    Item::Claim(key) => controller.sync_claim(&key).await,
                }
            }
        })
        .await;
    }))
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Item {
    Pod(String),
    Claim(String),
}

/// Why a run has to be repeated.
#[derive(Debug, thiserror::Error)]
enum SyncError {
    #[error("{0}")]
    Refused(String),
    #[error(transparent)]
    Api(#[from] kube::Error),
}

struct Controller {
    client: Client,
    events: Events,
    pods: Arc<Informer<Pod>>,
    claims: Arc<Informer<ResourceClaim>>,
    templates: Arc<Informer<ResourceClaimTemplate>>,
    queue: Arc<WorkQueue<Item>>,
    /// Names of claims that we made and the cache may not show yet, by UID of the pod and entry.
    made: Mutex<HashMap<(String, String), String>>,
}

/// `namespace/name` of the claims that the pod uses, as far as they are known.
pub(crate) fn claims_of(pod: &Pod) -> impl Iterator<Item = String> + '_ {
    listed(pod).iter().filter_map(|entry| match plan::named(pod, entry) {
        Named::Given(name) | Named::Generated(name) => Some(format!("{}/{name}", pod.ns_str())),
        Named::Nothing | Named::Unknown => None,
    })
}

impl Controller {
    fn register(self: &Arc<Self>) {
        self.claims
            .add_index(BY_OWNER, |claim| controller_of(&claim.metadata).map(|o| o.uid.clone()).into_iter().collect());
        self.pods.add_index(BY_RESOURCE_CLAIM, |pod| claims_of(pod).collect());
        let c = self.clone();
        self.pods.on_event(move |event: &Event<Pod>| c.on_pod(event));
        let c = self.clone();
        self.claims.on_event(move |event: &Event<ResourceClaim>| {
            let claim = event.object();
            if !matches!(event, Event::Deleted(_)) {
                c.queue.add(Item::Claim(object_key(&**claim)));
            }
            // A pod that no scheduler placed waits for the allocation.
            for pod in c.pods.by_index(BY_RESOURCE_CLAIM, &object_key(&**claim)) {
                if !pods::node_name(&pod).is_empty() && plan::wants_reservation(&pod, claim) {
                    c.queue.add(Item::Pod(object_key(&*pod)));
                }
            }
        });
        let c = self.clone();
        self.templates.on_event(move |event: &Event<ResourceClaimTemplate>| {
            if let Event::Added(template) = event {
                let lacking = c.pods.list_namespace(template.ns_str());
                let uses = |pod: &&Arc<Pod>| {
                    let by =
                        |e: &PodResourceClaim| e.resource_claim_template_name.as_deref() == Some(template.name_str());
                    listed(pod).iter().any(|entry| by(entry) && plan::named(pod, entry) == Named::Unknown)
                };
                lacking.iter().filter(uses).for_each(|pod| c.queue.add(Item::Pod(object_key(&**pod))));
            }
        });
    }

    fn on_pod(&self, event: &Event<Pod>) {
        let pod = event.object();
        // The scheduler's claims for extended resources belong to pods that list none.
        let generated = self.claims.by_index(BY_OWNER, pod.uid_str());
        if listed(pod).is_empty() && generated.is_empty() {
            return;
        }
        let gone = matches!(event, Event::Deleted(_)) || plan::is_done(pod);
        if gone {
            claims_of(pod).for_each(|key| self.queue.add(Item::Claim(key)));
            generated.iter().for_each(|claim| self.queue.add(Item::Claim(object_key(&**claim))));
            self.made.lock().retain(|(uid, _), _| uid != pod.uid_str());
        } else {
            self.queue.add(Item::Pod(object_key(&**pod)));
        }
    }

    async fn sync_pod(&self, key: &str) -> Result<(), SyncError> {
        let (namespace, name) = split_key(key);
        let Some(pod) = self.pods.get(namespace, name) else { return Ok(()) };
        if pod.is_deleting() || plan::is_done(&pod) {
            return Ok(());
        }
        let mut statuses = Vec::new();
        for entry in listed(&pod) {
            match self.ensure(&pod, entry).await {
                Ok(made) => statuses.extend(made.map(|claim| json!({"name": entry.name, "resourceClaimName": claim}))),
                Err(error) => {
                    let text = format!("PodResourceClaim {}: {error}", entry.name);
                    self.events.warning(&reference(&*pod), "FailedResourceClaimCreation", text);
                    return Err(error);
                }
            }
        }
        if !statuses.is_empty() {
            let patch = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": namespace},
                "status": {"resourceClaimStatuses": statuses}});
            let api: Api<Pod> = Api::namespaced(self.client.clone(), namespace);
            let written = api.patch_status(name, &PatchParams::apply(MANAGER).force(), &Patch::Apply(patch)).await;
            // An apply would make a pod that is gone: the server refuses that, since it has no spec.
            apierr::ignore_not_found(written)?;
        }
        match pods::node_name(&pod).is_empty() {
            true => Ok(()),
            false => self.reserve(&pod).await,
        }
    }

    /// Makes the claim of an entry if there is none; answers its name if the pod does not tell it yet.
    async fn ensure(&self, pod: &Pod, entry: &PodResourceClaim) -> Result<Option<String>, SyncError> {
        match plan::named(pod, entry) {
            Named::Given(_) | Named::Nothing => return Ok(None),
            Named::Generated(name) => {
                let claim = self.claims.get(pod.ns_str(), &name);
                if claim.is_some_and(|claim| plan::check_owner(pod, &claim).is_ok()) {
                    return Ok(None);
                }
            }
            Named::Unknown => {}
        }
        let Some(template) = &entry.resource_claim_template_name else { return Ok(None) };
        let id = (pod.uid_str().to_owned(), entry.name.clone());
        let known = self.claims.by_index(BY_OWNER, pod.uid_str());
        let found = known.iter().find(|claim| claim.annotation(POD_CLAIM_NAME) == Some(&entry.name));
        if let Some(claim) = found {
            self.made.lock().remove(&id);
            return Ok(Some(claim.name_str().to_owned()));
        }
        if let Some(name) = self.made.lock().get(&id) {
            return Ok(Some(name.clone()));
        }
        let Some(template) = self.templates.get(pod.ns_str(), template) else {
            let text = format!("resourceclaimtemplate.resource.k8s.io {template:?} not found");
            return Err(SyncError::Refused(format!("resource claim template {template:?}: {text}")));
        };
        let api: Api<ResourceClaim> = Api::namespaced(self.client.clone(), pod.ns_str());
        let created = api.create(&PostParams::default(), &plan::generate(pod, entry, &template)).await;
        count(created.is_ok());
        let name = created?.name_str().to_owned();
        self.made.lock().insert(id, name.clone());
        Ok(Some(name))
    }

    async fn reserve(&self, pod: &Pod) -> Result<(), SyncError> {
        for entry in listed(pod) {
            let (name, ours) = match plan::named(pod, entry) {
                Named::Given(name) => (name, false),
                Named::Generated(name) => (name, true),
                Named::Nothing | Named::Unknown => continue,
            };
            let Some(claim) = self.claims.get(pod.ns_str(), &name) else { return Ok(()) };
            if ours {
                plan::check_owner(pod, &claim).map_err(SyncError::Refused)?;
            }
            if plan::wants_reservation(pod, &claim) {
                let mut wanted = (*claim).clone();
                let status = wanted.status.get_or_insert_default();
                status.reserved_for.get_or_insert_default().push(plan::consumer(pod));
                self.claim_api(&wanted).replace_status(&name, &PostParams::default(), &wanted).await?;
            }
        }
        Ok(())
    }

    fn claim_api(&self, claim: &ResourceClaim) -> Api<ResourceClaim> {
        Api::namespaced(self.client.clone(), claim.ns_str())
    }

    /// Whether a consumer is gone for good. The cache may be late: the server is asked.
    async fn is_gone(&self, namespace: &str, consumer: &ResourceClaimConsumerReference) -> Result<bool, kube::Error> {
        if !plan::is_pod(consumer) {
            return Ok(false);
        }
        if let Some(pod) = self.pods.get(namespace, &consumer.name) {
            return Ok(pod.uid_str() != consumer.uid || plan::is_done(&pod));
        }
        let api: Api<Pod> = Api::namespaced(self.client.clone(), namespace);
        let live = api.get_metadata_opt(&consumer.name).await?;
        Ok(live.is_none_or(|pod| pod.metadata.uid.as_deref() != Some(&consumer.uid)))
    }

    async fn sync_claim(&self, key: &str) -> Result<(), SyncError> {
        let (namespace, name) = split_key(key);
        let Some(cached) = self.claims.get(namespace, name) else { return Ok(()) };
        let mut claim = (*cached).clone();
        let mut gone = Vec::new();
        for consumer in cached.status.iter().flat_map(|status| status.reserved_for.iter().flatten()) {
            if self.is_gone(namespace, consumer).await? {
                gone.push(consumer.uid.clone());
            }
        }
        let api = self.claim_api(&claim);
        if let Some(wanted) = plan::released(&claim, |consumer| gone.contains(&consumer.uid)) {
            claim = api.replace_status(name, &PostParams::default(), &wanted).await?;
        }
        if plan::is_unbound(&claim) {
            claim.metadata.finalizers.iter_mut().for_each(|list| list.retain(|finalizer| finalizer != FINALIZER));
            claim = api.replace(name, &PostParams::default(), &claim).await?;
        }
        self.drop_generated(&api, &claim).await
    }

    /// A generated claim goes when its pod has ended, not only when it is deleted.
    async fn drop_generated(&self, api: &Api<ResourceClaim>, claim: &ResourceClaim) -> Result<(), SyncError> {
        let owner = controller_of(&claim.metadata).filter(|owner| owner.kind == "Pod" && owner.api_version == "v1");
        let Some(owner) = owner.filter(|_| plan::is_free(claim) && !claim.is_deleting()) else { return Ok(()) };
        // Without a pod the garbage collector does it.
        let Some(pod) = self.pods.get(claim.ns_str(), &owner.name) else { return Ok(()) };
        if pod.uid_str() != owner.uid || plan::is_done(&pod) {
            let params = uid_precondition(DeleteParams::default(), claim.uid_str());
            apierr::ignore_not_found(api.delete(claim.name_str(), &params).await)?;
        }
        Ok(())
    }
}

/// Counts a created claim, or one that was refused.
fn count(created: bool) {
    static COUNTER: OnceLock<Option<IntCounterVec>> = OnceLock::new();
    let make = || {
        let help = "Number of ResourceClaims creation requests, categorized by creation status and admin access";
        let opts = Opts::new("resourceclaim_controller_creates_total", help);
        IntCounterVec::new(opts, &["status", "admin_access"]).ok().map(common::telemetry::register)
    };
    let status = if created { "success" } else { "failure" };
    COUNTER.get_or_init(make).iter().for_each(|counter| counter.with_label_values(&[status, "false"]).inc());
}
