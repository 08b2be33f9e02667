//! `statefulset-controller`: pods with a name and storage of their own, one per ordinal, made and replaced in order.

mod facts;
mod plan;
#[cfg(test)]
mod plan_tests;
mod retention;
mod revisions;
mod write;

use std::sync::Arc;
use std::time::Duration;

use common::informer::{Informer, run_workers, split_key};
use k8s_openapi::api::apps::v1::{ControllerRevision, StatefulSet, StatefulSetStatus};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use kube::api::{Api, PostParams};
use kube::core::Selector;

use self::facts::{StatefulSetExt, parse_name};
use self::plan::View;
use self::write::Job;
use crate::context::{Context, Task};
use crate::shared::batch::slow_start_over;
use crate::shared::consistency::{Consistency, LOOK_AGAIN};
use crate::shared::meta::{MetaExt, now};
use crate::shared::owned::{self, Owner, Owners, index_by_controller};
use crate::shared::pod_control::PodControl;
use crate::shared::{apierr, pods, selector};

/// Why a run did not get to its end.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("{0}")]
    Api(#[from] kube::Error),
    #[error("{0}")]
    Other(String),
}

impl Owner for StatefulSet {
    const KIND: &'static str = "StatefulSet";
    const API_VERSION: &'static str = "apps/v1";

    fn selector(&self) -> Result<Selector, String> {
        selector::compile(&self.spec.as_ref().ok_or("no spec")?.selector)
    }
    fn min_ready_seconds(&self) -> i32 {
        self.spec.as_ref().and_then(|s| s.min_ready_seconds).unwrap_or(0)
    }
}

/// Sets up the controller.
pub(crate) fn start(ctx: &Context) -> anyhow::Result<Task> {
    let client = ctx.client("statefulset-controller");
    let pods = ctx.factory.informer::<Pod>();
    index_by_controller(&pods);
    let revisions = ctx.factory.informer::<ControllerRevision>();
    index_by_controller(&revisions);
    let controller = Arc::new(Controller {
        control: PodControl { client: client.clone(), events: ctx.events(&client, "statefulset-controller") },
        owners: Owners::new(ctx.factory.informer(), "statefulset"),
        pods: pods.clone(),
        claims: ctx.factory.informer(),
        revisions,
        consistency: Consistency::new("statefulset_controller"),
    });
    let c = controller.clone();
    controller.owners.cache.on_event(move |event| c.owners.on_owner(event));
    let c = controller.clone();
    pods.on_event(move |event| c.owners.on_pod(event));
    let (shutdown, workers) = (ctx.shutdown.clone(), ctx.options.concurrent_statefulset_syncs);
    Ok(Box::pin(async move {
        let queue = controller.owners.queue.clone();
        run_workers("statefulset", queue, workers, shutdown, move |key: String| {
            let controller = controller.clone();
            async move { controller.sync(&key).await }
        })
        .await;
    }))
}

struct Controller {
    control: PodControl,
    owners: Owners<StatefulSet>,
    pods: Arc<Informer<Pod>>,
    claims: Arc<Informer<PersistentVolumeClaim>>,
    revisions: Arc<Informer<ControllerRevision>>,
    consistency: Consistency,
}

impl Controller {
    async fn sync(&self, key: &str) -> Result<(), Error> {
        let caught_up = self.consistency.seen(key, &self.owners.cache)
            && self.consistency.seen(key, &self.pods)
            && self.consistency.seen(key, &self.claims)
            && self.consistency.seen(key, &self.revisions);
        if !caught_up {
            self.owners.queue.add_after(key.to_owned(), LOOK_AGAIN);
            return Ok(());
        }
        let (namespace, name) = split_key(key);
        let Some(set) = self.owners.cache.get(namespace, name) else {
            self.consistency.forget(key);
            return Ok(());
        };
        let selector = match set.selector() {
            Ok(selector) => selector,
            Err(error) => {
                tracing::error!(key, %error, "invalid selector");
                return Ok(());
            }
        };
        let revisions = self.revisions(key, &set, &selector).await?;
        let matches = |pod: &Pod| {
            let member = parse_name(pod.name_str()).is_some_and(|(parent, _)| parent == set.name_str());
            member && selector::selects(&selector, &pod.metadata)
        };
        let candidates = Owners::candidates(&*set, &self.pods);
        let pods = owned::claim(&self.control.client, &*set, candidates, matches, None).await?;
        let claim = |name: &str| self.claims.get(namespace, name);
        let view = View {
            set: &set,
            current: &revisions.current,
            update: &revisions.update,
            pods: &pods,
            claim: &claim,
            now: now(),
        };
        let plan = view.plan();
        let mut status = plan.status;
        status.collision_count = Some(revisions.collisions);
        let result = self.carry_out(key, &set, &plan.phases).await;
        let waiting = status.ready_replicas != status.available_replicas;
        let written = self.write_status(key, &set, status).await;
        result.and(written)?;
        self.clean_up(&set, &revisions, &pods).await?;
        if set.min_ready_seconds() > 0 && waiting {
            self.revisit(key, &set, &pods);
        }
        Ok(())
    }

    async fn carry_out(&self, key: &str, set: &StatefulSet, phases: &[Vec<plan::Step>]) -> Result<(), Error> {
        let job = Job::new(key, set);
        for phase in phases {
            if set.is_ordered() {
                for step in phase {
                    self.step(&job, step).await?;
                }
            } else {
                slow_start_over(phase, |step| self.step(&job, step)).await.1?;
            }
        }
        Ok(())
    }

    async fn write_status(&self, key: &str, set: &StatefulSet, mut status: StatefulSetStatus) -> Result<(), Error> {
        plan::complete_update(set, &mut status);
        if plan::is_current(&set.status.clone().unwrap_or_default(), &status) {
            return Ok(());
        }
        let api: Api<StatefulSet> = Api::namespaced(self.control.client.clone(), set.ns_str());
        let mut object = set.clone();
        object.status = Some(status.clone());
        let mut written = api.replace_status(set.name_str(), &PostParams::default(), &object).await;
        if written.as_ref().is_err_and(apierr::is_conflict) {
            object = api.get(set.name_str()).await?;
            if object.uid_str() != set.uid_str() {
                return Ok(());
            }
            object.status = Some(status);
            written = api.replace_status(set.name_str(), &PostParams::default(), &object).await;
        }
        match written {
            Ok(written) => self.consistency.wrote(key, &written),
            Err(error) if apierr::is_not_found(&error) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    /// Pods that are ready but not long enough turn available by time alone.
    fn revisit(&self, key: &str, set: &StatefulSet, pods: &[Arc<Pod>]) {
        let (now, seconds) = (jiff::Timestamp::now(), set.min_ready_seconds());
        let wait = pods.iter().filter_map(|p| pods::time_to_available(p, seconds, now)).min();
        let wait = wait.and_then(|w| Duration::try_from(w).ok());
        let wait = wait.unwrap_or_else(|| Duration::from_secs(u64::try_from(seconds).unwrap_or(1)));
        self.owners.queue.add_after(key.to_owned(), wait + Duration::from_millis(20));
    }
}
