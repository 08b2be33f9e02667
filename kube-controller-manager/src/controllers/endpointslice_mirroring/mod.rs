//! `endpointslice-mirroring-controller`: EndpointSlices for Endpoints that somebody else than the control plane writes.

mod plan;

use std::sync::Arc;
use std::time::Duration;

use common::informer::{Event, Informer, WorkQueue, object_key, run_workers, split_key};
use k8s_openapi::api::core::v1::{Endpoints, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{DeleteParams, PostParams};
use kube::{Api, Client};

use self::plan::{CONTROLLER, Changes};
use crate::context::{Context, Task};
use crate::controllers::endpointslice::{MANAGED_BY, SERVICE_NAME};
use crate::events::{Events, reference};
use crate::shared::freshness::Freshness;
use crate::shared::meta::MetaExt;
use crate::shared::{apierr, pod_control};

const BY_ENDPOINTS: &str = "mirrored-endpoints";
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(100));

/// Why a run has to be repeated.
#[derive(Debug, thiserror::Error)]
enum SyncError {
    #[error("the cache does not show our last writes yet")]
    Stale,
    #[error(transparent)]
    Api(#[from] kube::Error),
}

/// Sets up the controller.
pub(crate) fn start(ctx: &Context) -> anyhow::Result<Task> {
    let client = ctx.client("endpointslicemirroring-controller");
    let flags = &ctx.options.mirroring;
    let controller = Arc::new(Controller {
        events: ctx.events(&client, "endpoint-slice-mirroring-controller"),
        client,
        endpoints: ctx.factory.informer(),
        services: ctx.factory.informer(),
        slices: ctx.factory.informer(),
        queue: WorkQueue::with_backoff("endpoint_slice_mirroring", RETRY.0, RETRY.1),
        freshness: Freshness::default(),
        max_endpoints: flags.mirroring_max_endpoints_per_subset,
        batch: flags.mirroring_endpointslice_updates_batch_period,
    });
    controller.register();
    let (shutdown, workers) = (ctx.shutdown.clone(), flags.mirroring_concurrent_service_endpoint_syncs);
    Ok(Box::pin(async move {
        let queue = controller.queue.clone();
        run_workers("endpoint_slice_mirroring", queue, workers, shutdown, move |key: String| {
            let controller = controller.clone();
            async move { controller.sync(&key).await }
        })
        .await;
    }))
}

struct Controller {
    client: Client,
    events: Events,
    endpoints: Arc<Informer<Endpoints>>,
    services: Arc<Informer<Service>>,
    slices: Arc<Informer<EndpointSlice>>,
    queue: Arc<WorkQueue<String>>,
    freshness: Freshness,
    max_endpoints: usize,
    batch: Duration,
}

/// The key of the Endpoints that the slice mirrors.
fn mirrored_key(slice: &EndpointSlice) -> Option<String> {
    let ours = slice.label(MANAGED_BY) == Some(CONTROLLER);
    let name = slice.label(SERVICE_NAME).filter(|name| ours && !name.is_empty())?;
    Some(format!("{}/{name}", slice.ns_str()))
}

fn has_selector(service: &Service) -> bool {
    service.spec.as_ref().is_some_and(|spec| spec.selector.is_some())
}

impl Controller {
    fn register(self: &Arc<Self>) {
        self.slices.add_index(BY_ENDPOINTS, |slice| mirrored_key(slice).into_iter().collect());
        let c = self.clone();
        self.endpoints.on_event(move |event: &Event<Endpoints>| {
            let before = match event {
                Event::Updated { old, .. } => plan::is_mirrored(old),
                _ => false,
            };
            if before || plan::is_mirrored(event.object()) {
                c.queue.add(object_key(&**event.object()));
            }
        });
        let c = self.clone();
        self.services.on_event(move |event: &Event<Service>| {
            let concerned = match event {
                Event::Updated { old, new } => has_selector(old) != has_selector(new),
                _ => !has_selector(event.object()),
            };
            if concerned {
                c.queue.add(object_key(&**event.object()));
            }
        });
        let c = self.clone();
        self.slices.on_event(move |event| c.on_slice(event));
    }

    /// Somebody else changed or deleted a slice of ours.
    fn on_slice(&self, event: &Event<EndpointSlice>) {
        let slice = event.object();
        let key = mirrored_key(slice);
        if let Event::Updated { old, .. } = event {
            let before = mirrored_key(old);
            if before != key {
                before.into_iter().chain(key).for_each(|key| self.queue.add_after(key, self.batch));
                return;
            }
        }
        let Some(key) = key else { return };
        let news = match event {
            Event::Deleted(_) => self.freshness.gone(&key, &slice.metadata),
            _ => self.freshness.is_news(&key, &slice.metadata),
        };
        if news {
            self.queue.add_after(key, self.batch);
        }
    }

    async fn sync(&self, key: &str) -> Result<(), SyncError> {
        let (namespace, name) = split_key(key);
        let existing = self.slices.by_index(BY_ENDPOINTS, key);
        let source = self.endpoints.get(namespace, name).filter(|endpoints| plan::is_mirrored(endpoints));
        let wanted = self.services.get(namespace, name).is_some_and(|service| !has_selector(&service));
        let Some(endpoints) = source.filter(|_| wanted) else {
            let delete = existing.iter().map(|slice| (**slice).clone()).collect();
            self.write(key, Changes { delete, ..Changes::default() }, true).await?;
            self.freshness.forget(key);
            return Ok(());
        };
        if self.freshness.is_stale(key, existing.iter().map(|slice| &slice.metadata)) {
            return Err(SyncError::Stale);
        }
        let (changes, skipped) = plan::reconcile(&endpoints, &existing, self.max_endpoints);
        let about = reference(&*endpoints);
        if skipped.invalid > 0 {
            let message = format!("Skipped {} invalid IP addresses when mirroring to EndpointSlices", skipped.invalid);
            self.events.warning(&about, "InvalidIPAddress", message);
        }
        if skipped.total > skipped.invalid {
            let message = format!(
                "A max of {} addresses can be mirrored to EndpointSlices per Endpoints subset. {} addresses were skipped",
                self.max_endpoints, skipped.total
            );
            self.events.warning(&about, "TooManyAddressesToMirror", message);
        }
        match self.write(key, changes, endpoints.is_deleting()).await {
            Err(error) if apierr::is_namespace_terminating(&error) => Ok(()),
            result => Ok(result?),
        }
    }

    async fn write(&self, key: &str, changes: Changes, no_more: bool) -> Result<(), kube::Error> {
        let api: Api<EndpointSlice> = Api::namespaced(self.client.clone(), split_key(key).0);
        for slice in changes.create.iter().filter(|_| !no_more) {
            let created = api.create(&PostParams::default(), slice).await?;
            self.freshness.wrote(key, &created.metadata);
        }
        for slice in &changes.update {
            let updated = api.replace(slice.name_str(), &PostParams::default(), slice).await?;
            self.freshness.wrote(key, &updated.metadata);
        }
        for slice in &changes.delete {
            let params = pod_control::uid_precondition(DeleteParams::default(), slice.uid_str());
            apierr::ignore_not_found(api.delete(slice.name_str(), &params).await)?;
            self.freshness.deleted(key, &slice.metadata);
        }
        Ok(())
    }
}
