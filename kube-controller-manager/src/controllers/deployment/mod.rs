//! `deployment-controller`: rolls ReplicaSets from one template to the next.

mod facts;
mod plan;
mod rollout;
mod status;
mod write;

use std::sync::Arc;
use std::time::Duration;

use common::informer::{Event, Informer, object_key, run_workers, split_key};
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::Pod;
use kube::Client;
use kube::core::Selector;

use self::facts::DeploymentExt;
use crate::context::{Context, Task};
use crate::events::Events;
use crate::shared::meta::MetaExt;
use crate::shared::owned::{self, BY_CONTROLLER, Owner, Owners, index_by_controller};
use crate::shared::owner::controller_of;
use crate::shared::{apierr, selector};

impl Owner for Deployment {
    const KIND: &'static str = "Deployment";
    const API_VERSION: &'static str = "apps/v1";

    fn selector(&self) -> Result<Selector, String> {
        selector::compile(&self.spec.as_ref().ok_or("no spec")?.selector)
    }
}

/// Sets up the controller.
pub(crate) fn start(ctx: &Context) -> anyhow::Result<Task> {
    let client = ctx.client("deployment-controller");
    let pods = ctx.factory.informer::<Pod>();
    index_by_controller(&pods);
    let controller = Arc::new(Controller {
        events: ctx.events(&client, "deployment-controller"),
        client,
        owners: Owners::new(ctx.factory.informer(), "deployment"),
        sets: ctx.factory.informer(),
        pods: pods.clone(),
    });
    index_by_controller(&controller.sets);
    let c = controller.clone();
    controller.owners.cache.on_event(move |event| c.owners.on_owner(event));
    let c = controller.clone();
    controller.sets.on_event(move |event| c.on_set(event));
    let c = controller.clone();
    pods.on_event(move |event| c.on_pod(event));
    let (shutdown, workers) = (ctx.shutdown.clone(), ctx.options.concurrent_deployment_syncs);
    Ok(Box::pin(async move {
        let queue = controller.owners.queue.clone();
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
    owners: Owners<Deployment>,
    sets: Arc<Informer<ReplicaSet>>,
    pods: Arc<Informer<Pod>>,
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
                self.owners.enqueue_owner(&old.metadata);
            }
            if is.is_none() && was.is_none() && old.metadata.labels == new.metadata.labels {
                return;
            }
        }
        match is {
            Some(_) => self.owners.enqueue_owner(&new.metadata),
            None if matches!(event, Event::Deleted(_)) || new.is_deleting() => {}
            None => self.owners.enqueue_selecting(&new.metadata),
        }
    }

    /// Recreate waits for the last old pod to be gone.
    fn on_pod(&self, event: &Event<Pod>) {
        let Event::Deleted(pod) = event else { return };
        let Some(reference) = controller_of(&pod.metadata).filter(|r| r.kind == "ReplicaSet") else { return };
        let Some(rs) = self.sets.get(pod.ns_str(), &reference.name).filter(|rs| rs.uid_str() == reference.uid) else {
            return;
        };
        if let Some(d) = self.owners.owner_of(&rs.metadata).filter(|d| !d.is_rolling()) {
            self.owners.queue.add(object_key(&*d));
        }
    }

    async fn sync(&self, key: &str) -> Result<(), kube::Error> {
        let (namespace, name) = split_key(key);
        let Some(cached) = self.owners.cache.get(namespace, name) else { return Ok(()) };
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

    /// The sets that are the Deployment's after adopting and releasing, by name.
    async fn claim(&self, d: &Deployment) -> Result<Vec<ReplicaSet>, kube::Error> {
        let Ok(selector) = d.selector() else { return Ok(Vec::new()) };
        let candidates = Owners::candidates(d, &self.sets);
        let matches = |rs: &ReplicaSet| selector::selects(&selector, &rs.metadata);
        let mine = owned::claim(&self.client, d, candidates, matches, None).await?;
        let mut mine: Vec<ReplicaSet> = mine.into_iter().map(|rs| (*rs).clone()).collect();
        mine.sort_by(|a, b| a.name_str().cmp(b.name_str()));
        Ok(mine)
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
            self.owners.queue.add_after(object_key(d), Duration::try_from(wait).unwrap_or(Duration::from_secs(1)));
        }
    }
}
