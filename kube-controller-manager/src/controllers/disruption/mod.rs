//! `disruption-controller`: keeps the status of PodDisruptionBudgets, from which the eviction API decides.

mod scale;
mod status;

use std::sync::Arc;
use std::time::Duration;

use common::informer::{Event, Informer, WorkQueue, object_key, run_workers, split_key};
use futures::join;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetStatus};
use kube::Client;
use kube::api::{Api, Patch, PatchParams, PostParams};
use kube::core::Selector;
use serde_json::json;

use self::scale::{Expectation, Scales};
use crate::context::{Context, Task};
use crate::events::{Events, reference};
use crate::shared::meta::{MetaExt, now};
use crate::shared::scale::Scaler;
use crate::shared::{apierr, selector};

/// Sets up the controller.
pub(crate) fn start(ctx: &Context) -> anyhow::Result<Task> {
    let client = ctx.client("disruption-controller");
    let pods = ctx.factory.informer::<Pod>();
    let controller = Arc::new(Controller {
        events: ctx.events(&client, "controllermanager"),
        scales: Scales {
            scaler: Scaler::new(client.clone()),
            deployments: ctx.factory.informer(),
            sets: ctx.factory.informer(),
            stateful: ctx.factory.informer(),
            replication: ctx.factory.informer(),
        },
        client,
        budgets: ctx.factory.informer(),
        pods: pods.clone(),
        queue: WorkQueue::new("disruption"),
        stale: WorkQueue::new("stale_pod_disruption"),
    });
    let c = controller.clone();
    controller.budgets.on_event(move |event: &Event<PodDisruptionBudget>| c.queue.add(object_key(&**event.object())));
    let c = controller.clone();
    pods.on_event(move |event| c.on_pod(event));
    let shutdown = ctx.shutdown.clone();
    Ok(Box::pin(async move {
        let (queue, stale) = (controller.queue.clone(), controller.stale.clone());
        let for_stale = controller.clone();
        let syncs = run_workers("disruption", queue, 1, shutdown.clone(), move |key: String| {
            let controller = controller.clone();
            async move { controller.sync(&key).await }
        });
        let cleared = run_workers("stale_pod_disruption", stale, 1, shutdown, move |key: String| {
            let controller = for_stale.clone();
            async move { controller.clear_stale(&key).await }
        });
        join!(syncs, cleared);
    }))
}

struct Controller {
    client: Client,
    events: Events,
    scales: Scales,
    budgets: Arc<Informer<PodDisruptionBudget>>,
    pods: Arc<Informer<Pod>>,
    queue: Arc<WorkQueue<String>>,
    stale: Arc<WorkQueue<String>>,
}

/// A selector that selects nothing when absent, everything when empty.
fn selector_of(pdb: &PodDisruptionBudget) -> Option<Result<Selector, String>> {
    Some(selector::compile(pdb.spec.as_ref()?.selector.as_ref()?))
}

impl Controller {
    fn on_pod(&self, event: &Event<Pod>) {
        let pod = event.object();
        // As upstream: of several budgets for a pod the first is woken; evictions are refused for such pods anyway.
        let matches = |pdb: &Arc<PodDisruptionBudget>| {
            let compiled = selector_of(pdb).and_then(Result::ok);
            compiled.is_some_and(|s| selector::selects(&s, &pod.metadata))
        };
        let budgets: Vec<_> = self.budgets.list_namespace(pod.ns_str()).into_iter().filter(matches).collect();
        if let [first, _, ..] = &budgets[..] {
            let (namespace, name, chosen) = (pod.ns_str(), pod.name_str(), first.name_str());
            let message = format!(
                "Pod {namespace:?}/{name:?} matches multiple PodDisruptionBudgets.  Chose {chosen:?} arbitrarily."
            );
            self.events.warning(&reference(&**pod), "MultiplePodDisruptionBudgets", message);
        }
        if let Some(first) = budgets.first() {
            self.queue.add(object_key(&**first));
        }
        if !matches!(event, Event::Deleted(_))
            && let Some(wait) = status::stale_in(pod, now())
        {
            self.stale.add_after(object_key(&**pod), wait);
        }
    }

    async fn sync(&self, key: &str) -> Result<(), kube::Error> {
        let (namespace, name) = split_key(key);
        let Some(pdb) = self.budgets.get(namespace, name) else { return Ok(()) };
        let failure = match self.try_sync(key, &pdb).await {
            Ok(None) => return Ok(()),
            Ok(Some(failure)) => failure,
            Err(error) if apierr::is_conflict(&error) => return Err(error),
            Err(error) => apierr::message(&error),
        };
        tracing::error!(key, error = failure, "failed to sync PDB");
        self.write(&pdb, status::failed(&pdb, failure, now())).await
    }

    /// Answers what keeps the status from being computed, if anything does.
    async fn try_sync(&self, key: &str, pdb: &PodDisruptionBudget) -> Result<Option<String>, kube::Error> {
        let about = reference(pdb);
        let mut pods = match selector_of(pdb) {
            None => Vec::new(),
            Some(Ok(selector)) => {
                let mut pods = self.pods.list_namespace(pdb.ns_str());
                pods.retain(|p| selector::selects(&selector, &p.metadata));
                pods
            }
            Some(Err(error)) => {
                self.events.warning(&about, "NoPods", format!("Failed to get pods: {error}"));
                return Ok(Some(error));
            }
        };
        if pods.is_empty() {
            self.events.normal(&about, "NoPods", "No matching pods found".into());
        }
        let expectation = match status::needs_scale(pdb) {
            true => self.scales.expectation(&pods).await,
            false => Ok(Expectation { scale: 0, unmanaged: Vec::new() }),
        };
        let expected = expectation.and_then(|e| Ok((status::expected(pdb, pods.len(), e.scale)?, e.unmanaged)));
        let (expected, unmanaged) = match expected {
            Ok(expected) => expected,
            Err(error) => {
                let message = format!("Failed to calculate the number of expected pods: {error}");
                self.events.warning(&about, "CalculateExpectedPodCountFailed", message);
                return Ok(Some(error));
            }
        };
        if !unmanaged.is_empty() {
            let message = format!(
                "Pods selected by this PodDisruptionBudget (selector: {}) were found to be unmanaged. As a result, the status of \
                 the PDB cannot be calculated correctly, which may result in undefined behavior. To account for these pods please \
                 set \".spec.minAvailable\" field of the PDB to an integer value.",
                selector::printed(pdb.spec.as_ref().and_then(|s| s.selector.as_ref()))
            );
            self.events.warning(&about, "UnmanagedPods", message);
        }
        let now = now();
        let disrupted = status::disrupted(pdb, &pods, now);
        for pod in &disrupted.overdue {
            let message = format!("Pod was expected by PDB {0}/{0} to be deleted but it wasn't", pdb.ns_str());
            self.events.warning(&reference(&**pod), "NotDeleted", message);
        }
        let healthy = status::healthy(&pods, &disrupted.pods);
        pods.clear();
        if let Some(new) = status::calculate(pdb, expected, healthy, disrupted.pods, now) {
            self.write(pdb, new).await?;
        }
        if let Some(wait) = disrupted.recheck {
            self.queue.add_after(key.to_owned(), wait + Duration::from_millis(20));
        }
        Ok(None)
    }

    async fn write(&self, pdb: &PodDisruptionBudget, status: PodDisruptionBudgetStatus) -> Result<(), kube::Error> {
        let api: Api<PodDisruptionBudget> = Api::namespaced(self.client.clone(), pdb.ns_str());
        let mut object = pdb.clone();
        object.status = Some(status);
        // The resourceVersion matters: an eviction that was granted meanwhile must not be forgotten.
        api.replace_status(pdb.name_str(), &PostParams::default(), &object).await.map(|_| ())
    }

    /// Takes back an announcement of disruption that nothing came of.
    async fn clear_stale(&self, key: &str) -> Result<(), kube::Error> {
        let (namespace, name) = split_key(key);
        let Some(pod) = self.pods.get(namespace, name) else { return Ok(()) };
        let now = now();
        match status::stale_in(&pod, now) {
            None => return Ok(()),
            Some(wait) if !wait.is_zero() => {
                self.stale.add_after(key.to_owned(), wait);
                return Ok(());
            }
            Some(_) => {}
        }
        let condition = json!({"type": "DisruptionTarget", "status": "False", "reason": null, "message": null,
            "lastTransitionTime": now.to_string()});
        let meta = json!({"uid": pod.uid_str(), "resourceVersion": pod.version_str()});
        let patch = json!({"metadata": meta, "status": {"conditions": [condition]}});
        let api: Api<Pod> = Api::namespaced(self.client.clone(), namespace);
        apierr::ignore_not_found(api.patch_status(name, &PatchParams::default(), &Patch::Strategic(patch)).await)
    }
}
