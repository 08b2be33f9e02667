//! `endpoints-controller`: the old single-object form of a Service's endpoints, for clients that know no slices.

mod subsets;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use common::informer::{Event, Informer, WorkQueue, object_key, run_workers, split_key};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{EndpointSubset, Endpoints, Pod, Service};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{DeleteParams, PostParams};
use kube::{Api, Client};

use crate::context::{Context, Task};
use crate::events::{Events, reference};
use crate::shared::apierr;
use crate::shared::freshness::Freshness;
use crate::shared::meta::MetaExt;
use crate::shared::services::{self, TriggerTimes};

const MANAGED_BY: &str = "endpoints.kubernetes.io/managed-by";
const CONTROLLER: &str = "endpoint-controller";
const OVER_CAPACITY: &str = "endpoints.kubernetes.io/over-capacity";

#[derive(Debug, thiserror::Error)]
enum SyncError {
    #[error("the cache does not show our last write yet")]
    Stale,
    #[error(transparent)]
    Api(#[from] kube::Error),
}

/// Sets up the controller.
pub(crate) fn start(ctx: &Context) -> anyhow::Result<Task> {
    let client = ctx.client("endpoint-controller");
    let controller = Arc::new(Controller {
        events: ctx.events(&client, "endpoint-controller"),
        client,
        services: ctx.factory.informer(),
        pods: ctx.factory.informer(),
        endpoints: ctx.factory.informer(),
        queue: WorkQueue::new("endpoint"),
        freshness: Freshness::default(),
        triggers: TriggerTimes::default(),
        batch: ctx.options.endpoint_updates_batch_period,
    });
    controller.register();
    let (shutdown, workers) = (ctx.shutdown.clone(), ctx.options.concurrent_endpoint_syncs);
    Ok(Box::pin(async move {
        // Objects whose Service went away while nobody watched.
        for endpoints in controller.endpoints.list() {
            if endpoints.label(MANAGED_BY) == Some(CONTROLLER) {
                controller.queue.add(object_key(&*endpoints));
            }
        }
        let queue = controller.queue.clone();
        run_workers("endpoint", queue, workers, shutdown, move |key: String| {
            let controller = controller.clone();
            async move { controller.sync(&key).await }
        })
        .await;
    }))
}

struct Controller {
    client: Client,
    events: Events,
    services: Arc<Informer<Service>>,
    pods: Arc<Informer<Pod>>,
    endpoints: Arc<Informer<Endpoints>>,
    queue: Arc<WorkQueue<String>>,
    freshness: Freshness,
    triggers: TriggerTimes,
    batch: Duration,
}

impl Controller {
    fn register(self: &Arc<Self>) {
        services::enqueue_changed(&self.services, &self.pods, &self.queue, self.batch);
        let c = self.clone();
        self.endpoints.on_event(move |event: &Event<Endpoints>| {
            if let Event::Deleted(endpoints) = event {
                let key = object_key(&**endpoints);
                c.freshness.gone(&key, &endpoints.metadata);
                c.queue.add(key);
            }
        });
    }

    async fn sync(&self, key: &str) -> Result<(), SyncError> {
        let (namespace, name) = split_key(key);
        let api: Api<Endpoints> = Api::namespaced(self.client.clone(), namespace);
        let existing = self.endpoints.get(namespace, name);
        let Some(service) = self.services.get(namespace, name) else {
            self.freshness.forget(key);
            self.triggers.forget(key);
            if existing.is_some() {
                apierr::ignore_not_found(api.delete(name, &DeleteParams::default()).await)?;
            }
            return Ok(());
        };
        if services::selector_of(&service).is_none() {
            return Ok(());
        }
        if self.freshness.is_stale(key, existing.iter().map(|e| &e.metadata)) {
            return Err(SyncError::Stale);
        }
        let pods = services::pods_of(&service, &self.pods);
        let trigger = self.triggers.next(key, &service, &pods);
        let subsets = subsets::of_service(&service, &pods);
        let Some(wanted) = desired(&service, existing.as_deref(), subsets, trigger) else { return Ok(()) };
        let result = match &existing {
            Some(_) => api.replace(name, &PostParams::default(), &wanted).await,
            None => api.create(&PostParams::default(), &wanted).await,
        };
        match result {
            Ok(written) => {
                self.freshness.wrote(key, &written.metadata);
                Ok(())
            }
            Err(error) if apierr::is_namespace_terminating(&error) => Ok(()),
            Err(error) => {
                self.tell(&service, &wanted, existing.is_none(), &error);
                Err(error.into())
            }
        }
    }

    fn tell(&self, service: &Service, endpoints: &Endpoints, creating: bool, error: &kube::Error) {
        let (namespace, name, text) = (service.ns_str(), service.name_str(), apierr::message(error));
        let (reason, message) = match creating {
            true => {
                ("FailedToCreateEndpoint", format!("Failed to create endpoint for service {namespace}/{name}: {text}"))
            }
            false => ("FailedToUpdateEndpoint", format!("Failed to update endpoint {namespace}/{name}: {text}")),
        };
        self.events.warning(&reference(endpoints), reason, message);
    }
}

/// The object to write, or None when the existing one is right.
fn desired(
    service: &Service,
    existing: Option<&Endpoints>,
    mut subsets: Vec<EndpointSubset>,
    trigger: Option<Timestamp>,
) -> Option<Endpoints> {
    let truncated = subsets::truncate(&mut subsets);
    let labels = labels(service);
    if let Some(existing) = existing {
        let current = subsets::canonical(existing.subsets.as_deref().unwrap_or(&[]));
        let marked = existing.annotation(OVER_CAPACITY) == Some("truncated");
        // A cut list keeps the addresses it has as long as nothing else changed.
        if current == subsets && existing.metadata.labels.as_ref() == Some(&labels) && marked == truncated {
            return None;
        }
    }
    let mut object = existing.cloned().unwrap_or_else(|| Endpoints {
        metadata: ObjectMeta {
            name: service.metadata.name.clone(),
            namespace: service.metadata.namespace.clone(),
            ..ObjectMeta::default()
        },
        subsets: None,
    });
    object.subsets = (!subsets.is_empty()).then_some(subsets);
    object.metadata.labels = Some(labels);
    let annotations = object.metadata.annotations.get_or_insert_default();
    match trigger {
        Some(at) => annotations.insert(services::TRIGGER_TIME.into(), at.to_string()),
        None => annotations.remove(services::TRIGGER_TIME),
    };
    match truncated {
        true => annotations.insert(OVER_CAPACITY.into(), "truncated".into()),
        false => annotations.remove(OVER_CAPACITY),
    };
    Some(object)
}

fn labels(service: &Service) -> BTreeMap<String, String> {
    let mut labels = service.metadata.labels.clone().unwrap_or_default();
    match services::has_cluster_ip(service) {
        true => labels.remove(services::HEADLESS),
        false => labels.insert(services::HEADLESS.into(), String::new()),
    };
    labels.insert(MANAGED_BY.into(), CONTROLLER.into());
    labels
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn writes_only_differences() {
        let service: Service =
            serde_json::from_value(json!({"metadata": {"name": "web", "namespace": "ns", "labels": {"a": "b"}},
            "spec": {"clusterIP": "None", "ports": [{"port": 1}]}}))
            .unwrap();
        let made = desired(&service, None, Vec::new(), None).unwrap();
        assert_eq!(
            serde_json::to_value(&made.metadata.labels).unwrap(),
            json!({"a": "b", MANAGED_BY: CONTROLLER, services::HEADLESS: ""})
        );
        assert_eq!(desired(&service, Some(&made), Vec::new(), None), None);
        let subset: EndpointSubset = serde_json::from_value(
            json!({"addresses": [{"ip": "10.0.0.1"}], "ports": [{"port": 1, "protocol": "TCP"}]}),
        )
        .unwrap();
        let at: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let next = desired(&service, Some(&made), vec![subset.clone()], Some(at)).unwrap();
        assert_eq!(next.annotation(services::TRIGGER_TIME), Some("2026-01-01T00:00:00Z"));
        assert_eq!(desired(&service, Some(&next), vec![subset], None), None);
    }
}
