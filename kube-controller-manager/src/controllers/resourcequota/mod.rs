//! `resourcequota-controller`: `status.hard` of quotas, from which on admission enforces them, and `status.used`.

mod plan;
mod watch;

use std::sync::Arc;
use std::time::{Duration, Instant};

use common::informer::{Event, Informer, WorkQueue, object_key, run_workers, split_key};
use common::quota::amounts::Amounts;
use common::quota::{Evaluator, pods};
use k8s_openapi::api::core::v1::{Pod, ResourceQuota};
use kube::api::{ListParams, PostParams};
use kube::core::DynamicObject;
use kube::{Api, Client};
use serde::Serialize;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::context::{Context, Task};
use crate::shared::apierr;
use crate::shared::discovery::{Served, discover};
use crate::shared::meta::MetaExt;

/// Discovery is trusted for so long.
const DISCOVERY_AGE: Duration = Duration::from_secs(30);
const PAGE: u32 = 500;

/// Sets up the controller.
pub(crate) fn start(ctx: &Context) -> anyhow::Result<Task> {
    let controller = Arc::new(Controller {
        client: ctx.client("resourcequota-controller"),
        quotas: ctx.factory.informer(),
        pods: ctx.factory.informer(),
        queue: WorkQueue::new("resourcequota_primary"),
        served: tokio::sync::Mutex::default(),
        watched: watch::Watched::default(),
        shutdown: ctx.shutdown.clone(),
    });
    let c = controller.clone();
    controller.quotas.on_event(move |event: &Event<ResourceQuota>| match event {
        Event::Updated { old, new } if old.spec == new.spec => {}
        Event::Added(quota) | Event::Updated { new: quota, .. } => c.queue.add(object_key(&**quota)),
        Event::Deleted(_) => {}
    });
    let c = controller.clone();
    controller.pods.on_event(move |event: &Event<Pod>| c.pod_changed(event));
    let (period, workers) = (ctx.options.resource_quota_sync_period, ctx.options.concurrent_resource_quota_syncs);
    Ok(Box::pin(async move {
        let (queue, shutdown, c) = (controller.queue.clone(), controller.shutdown.clone(), controller.clone());
        let run = run_workers("resourcequota", queue, workers, shutdown, move |key: String| {
            let controller = c.clone();
            async move { controller.sync(&key).await }
        });
        tokio::join!(run, controller.resync(period));
    }))
}

struct Controller {
    client: Client,
    quotas: Arc<Informer<ResourceQuota>>,
    pods: Arc<Informer<Pod>>,
    queue: Arc<WorkQueue<String>>,
    /// What the server serves, and since when that is known.
    served: tokio::sync::Mutex<Option<(Instant, Arc<Vec<Served>>)>>,
    watched: watch::Watched,
    shutdown: CancellationToken,
}

fn json<K: Serialize>(object: &K) -> Value {
    serde_json::to_value(object).unwrap_or_default()
}

impl Controller {
    async fn resync(&self, period: Duration) {
        if period.is_zero() {
            return self.shutdown.cancelled().await;
        }
        loop {
            tokio::select! {
                () = self.shutdown.cancelled() => return,
                () = tokio::time::sleep(period) => self.recount_all(),
            }
        }
    }

    fn recount_all(&self) {
        self.quotas.list().iter().for_each(|quota| self.queue.add(object_key(&**quota)));
    }

    /// Queues the quotas of a namespace that count a kind.
    fn recount(&self, evaluator: &Evaluator, namespace: &str) {
        for quota in self.quotas.list_namespace(namespace) {
            let hard = quota.spec.iter().flat_map(|spec| spec.hard.iter().flatten());
            if hard.into_iter().any(|(name, _)| evaluator.counts(name)) {
                self.queue.add_after(object_key(&*quota), watch::SETTLE);
            }
        }
    }

    /// Pods that go, end, change their scope or are resized change what is used; admission charges new ones.
    fn pod_changed(&self, event: &Event<Pod>) {
        let namespace = event.object().ns_str();
        if matches!(event, Event::Added(_)) || self.quotas.list_namespace(namespace).is_empty() {
            return;
        }
        let evaluator = Evaluator::Pods;
        if let Event::Updated { old, new } = event {
            let (old, new) = (json(&**old), json(&**new));
            if pods::terminating(&old) == pods::terminating(&new) && evaluator.usage(&old) == evaluator.usage(&new) {
                return;
            }
        }
        self.recount(&evaluator, namespace);
    }

    async fn served(&self) -> Result<Arc<Vec<Served>>, kube::Error> {
        let mut known = self.served.lock().await;
        if let Some((_, served)) = known.as_ref().filter(|(since, _)| since.elapsed() < DISCOVERY_AGE) {
            return Ok(served.clone());
        }
        let served = Arc::new(discover(&self.client).await?.resources);
        *known = Some((Instant::now(), served.clone()));
        Ok(served)
    }

    /// False only when discovery says so.
    async fn still_served(&self, resource: &Served) -> bool {
        self.served().await.map_or(true, |served| served.contains(resource))
    }

    async fn sync(self: &Arc<Self>, key: &str) -> Result<(), kube::Error> {
        let (namespace, name) = split_key(key);
        let Some(cached) = self.quotas.get(namespace, name) else { return Ok(()) };
        let quota = json(&*cached);
        let (mut counted, mut failed) = (Amounts::new(), None);
        for resource in plan::tracked(&quota, &self.served().await?) {
            let evaluator = Evaluator::of(&resource.group, &resource.plural);
            if !matches!(evaluator, Evaluator::Pods) {
                watch::ensure(self, &resource);
            }
            match self.objects(&evaluator, &resource, namespace).await {
                Ok(objects) => counted.extend(plan::usage(&quota, &evaluator, &objects)),
                Err(error) => failed = Some(error),
            }
        }
        if let Some(status) = plan::status(&quota, counted) {
            let wanted = ResourceQuota { status: Some(status), ..(*cached).clone() };
            let api: Api<ResourceQuota> = Api::namespaced(self.client.clone(), namespace);
            // A conflict is an error here: the quota is tried again when the cache has the newer one.
            apierr::ignore_not_found(api.replace_status(name, &PostParams::default(), &wanted).await)?;
        }
        failed.map_or(Ok(()), Err)
    }

    /// The objects of a kind: whole where their content counts, else bare.
    async fn objects(&self, evaluator: &Evaluator, of: &Served, namespace: &str) -> Result<Vec<Value>, kube::Error> {
        if matches!(evaluator, Evaluator::Pods) {
            return Ok(self.pods.list_namespace(namespace).iter().map(|pod| json(&**pod)).collect());
        }
        let api: Api<DynamicObject> = Api::namespaced_with(self.client.clone(), namespace, &of.api_resource());
        let mut params = ListParams::default().limit(PAGE);
        let mut all = Vec::new();
        loop {
            let next = if matches!(evaluator, Evaluator::Count(_)) {
                let page = api.list_metadata(&params).await?;
                all.extend(page.items.iter().map(|_| json!({})));
                page.metadata.continue_
            } else {
                let page = api.list(&params).await?;
                all.extend(page.items.iter().map(json));
                page.metadata.continue_
            };
            match next.filter(|token| !token.is_empty()) {
                Some(token) => params = params.continue_token(&token),
                None => return Ok(all),
            }
        }
    }
}
