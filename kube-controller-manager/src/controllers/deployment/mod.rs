//! `deployment-controller`: rolls ReplicaSets from one template to the next.

mod facts;
mod plan;
mod rollout;
mod status;
mod write;

use std::sync::Arc;
use std::time::Duration;

use common::informer::{Event, Informer, WorkQueue, object_key, run_workers, split_key};
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::{Api, Client};

use self::facts::DeploymentExt;
use crate::context::{Context, Task};
use crate::events::Events;
use crate::shared::meta::MetaExt;
use crate::shared::owned::{BY_CONTROLLER, index_by_controller};
use crate::shared::owner::{Claim, adopt_patch, claim, controller_of, controller_ref, release_patch};
use crate::shared::{apierr, selector};

/// Sets up the controller.
pub(crate) fn start(ctx: &Context) -> anyhow::Result<Task> {
    let client = ctx.client("deployment-controller");
    let pods = ctx.factory.informer::<Pod>();
    index_by_controller(&pods);
    let controller = Arc::new(Controller {
        events: ctx.events(&client, "deployment-controller"),
        client,
        deployments: ctx.factory.informer(),
        sets: ctx.factory.informer(),
        pods: pods.clone(),
        queue: WorkQueue::new("deployment"),
    });
    let c = controller.clone();
    controller.deployments.on_event(move |event: &Event<Deployment>| c.queue.add(object_key(&**event.object())));
    let c = controller.clone();
    controller.sets.on_event(move |event| c.on_set(event));
    let c = controller.clone();
    pods.on_event(move |event| c.on_pod(event));
    let (shutdown, workers) = (ctx.shutdown.clone(), ctx.options.concurrent_deployment_syncs);
    Ok(Box::pin(async move {
        let queue = controller.queue.clone();
        run_workers("deployment", queue, workers, shutdown, move |key: String| {
            let controller = controller.clone();
            async move {
                match controller.sync(&key).await {
                    // Nothing can be made in a namespace that goes away; not worth a retry.
                    Err(error) if apierr::is_namespace_terminating(&error) => Ok(()),
                    other => other,
                }
            }
        })
        .await;
    }))
}

struct Controller {
    client: Client,
    events: Events,
    deployments: Arc<Informer<Deployment>>,
    sets: Arc<Informer<ReplicaSet>>,
    pods: Arc<Informer<Pod>>,
    queue: Arc<WorkQueue<String>>,
}

impl Controller {
    fn on_set(&self, event: &Event<ReplicaSet>) {
        let (old, new) = match event {
            Event::Added(rs) | Event::Deleted(rs) => (None, rs),
            Event::Updated { old, new } => (Some(old), new),
        };
        let is = controller_of(&new.metadata);
        if let Some(old) = old {
            let was = controller_of(&old.metadata);
            if was != is {
                self.enqueue_owner(old.ns_str(), was);
            }
            if is.is_none() && was.is_none() && old.metadata.labels == new.metadata.labels {
                return;
            }
        }
        match is {
            Some(_) => self.enqueue_owner(new.ns_str(), is),
            None if matches!(event, Event::Deleted(_)) || new.is_deleting() => {}
            None => self.enqueue_selecting(new),
        }
    }

    fn enqueue_owner(&self, namespace: &str, reference: Option<&OwnerReference>) {
        if let Some(d) = reference.and_then(|r| self.resolve(namespace, r)) {
            self.queue.add(object_key(&*d));
        }
    }

    fn resolve(&self, namespace: &str, reference: &OwnerReference) -> Option<Arc<Deployment>> {
        if reference.kind != "Deployment" {
            return None;
        }
        self.deployments.get(namespace, &reference.name).filter(|d| d.uid_str() == reference.uid)
    }

    /// Deployments that might adopt this orphan.
    fn enqueue_selecting(&self, rs: &ReplicaSet) {
        for d in self.deployments.list_namespace(rs.ns_str()) {
            let selector = d.spec.as_ref().and_then(|s| selector::compile(&s.selector).ok());
            if selector.is_some_and(|s| !s.selects_all() && selector::selects(&s, &rs.metadata)) {
                self.queue.add(object_key(&*d));
            }
        }
    }

    /// Recreate waits for the last old pod to be gone.
    fn on_pod(&self, event: &Event<Pod>) {
        let Event::Deleted(pod) = event else { return };
        let Some(reference) = controller_of(&pod.metadata).filter(|r| r.kind == "ReplicaSet") else { return };
        let Some(rs) = self.sets.get(pod.ns_str(), &reference.name).filter(|rs| rs.uid_str() == reference.uid) else {
            return;
        };
        let owner = controller_of(&rs.metadata).and_then(|r| self.resolve(pod.ns_str(), r));
        if let Some(d) = owner.filter(|d| !d.is_rolling()) {
            self.queue.add(object_key(&*d));
        }
    }

    async fn sync(&self, key: &str) -> Result<(), kube::Error> {
        let (namespace, name) = split_key(key);
        let Some(cached) = self.deployments.get(namespace, name) else { return Ok(()) };
        let mut d = (*cached).clone();
        let Some(spec) = &d.spec else { return Ok(()) };
        let selects_all = spec.selector.match_labels.as_ref().is_none_or(|m| m.is_empty())
            && spec.selector.match_expressions.as_ref().is_none_or(|m| m.is_empty());
        if selects_all {
            return self.refuse_empty_selector(&mut d).await;
        }
        let sets = self.claim(&d).await?;
        let pause_changed = !d.is_deleting() && self.note_pause(&mut d).await?;
        if pause_changed {
            // The status update brings it back here with the new resourceVersion in the cache.
            return Ok(());
        }
        self.reconcile(d, sets).await
    }

    async fn refuse_empty_selector(&self, d: &mut Deployment) -> Result<(), kube::Error> {
        let message = "This deployment is selecting all pods. A non-empty selector is required.";
        self.events.warning(&crate::events::reference(d), "SelectingAll", message.into());
        let mut status = d.status.clone().unwrap_or_default();
        if status.observed_generation.unwrap_or(0) < d.generation() {
            status.observed_generation = Some(d.generation());
            self.write_status(d, status).await?;
        }
        Ok(())
    }

    /// The sets that are the Deployment's after adopting and releasing.
    async fn claim(&self, d: &Deployment) -> Result<Vec<ReplicaSet>, kube::Error> {
        let selector = match d.spec.as_ref().map(|s| selector::compile(&s.selector)) {
            Some(Ok(selector)) => selector,
            _ => return Ok(Vec::new()),
        };
        let api: Api<ReplicaSet> = Api::namespaced(self.client.clone(), d.ns_str());
        let mut mine = Vec::new();
        let mut may_adopt = None;
        for rs in self.sets.list_namespace(d.ns_str()) {
            let matches = selector::selects(&selector, &rs.metadata);
            match claim(&d.metadata, &rs.metadata, matches) {
                Claim::Keep => mine.push((*rs).clone()),
                Claim::Ignore => {}
                Claim::Release => {
                    write::patch_set(&api, &rs, release_patch(&rs.metadata, d.uid_str())).await.map(|_| ())?
                }
                Claim::Adopt => {
                    if may_adopt.is_none() {
                        may_adopt = Some(self.lives(d).await?);
                    }
                    let patch = adopt_patch(&rs.metadata, &controller_ref(d, "apps/v1", "Deployment"));
                    if may_adopt == Some(true)
                        && let Some(adopted) = write::patch_set(&api, &rs, patch).await?
                    {
                        mine.push(adopted);
                    }
                }
            }
        }
        Ok(mine)
    }

    async fn lives(&self, d: &Deployment) -> Result<bool, kube::Error> {
        let api: Api<Deployment> = Api::namespaced(self.client.clone(), d.ns_str());
        let fresh = api.get_opt(d.name_str()).await?;
        Ok(fresh.is_some_and(|f| f.uid_str() == d.uid_str() && !f.is_deleting()))
    }

    /// Do pods of other revisions still run? `new` is the UID of the current set.
    fn old_pods_running(&self, sets: &[ReplicaSet], new: Option<&str>) -> bool {
        use crate::shared::pods::is_terminal;
        sets.iter()
            .filter(|rs| Some(rs.uid_str()) != new)
            .any(|rs| self.pods.by_index(BY_CONTROLLER, rs.uid_str()).iter().any(|p| !is_terminal(p)))
    }

    /// A rollout may time out without any event: come back for that.
    fn revisit(&self, d: &Deployment, status: &k8s_openapi::api::apps::v1::DeploymentStatus) {
        if let Some(wait) = status::next_check(d, status, jiff::Timestamp::now()) {
            self.queue.add_after(object_key(d), Duration::try_from(wait).unwrap_or(Duration::from_secs(1)));
        }
    }
}
