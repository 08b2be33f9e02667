//! `ephemeral-volume-controller`: makes the claims of pods' ephemeral volumes; they go with the pod, which owns them.

use std::sync::{Arc, OnceLock};

use common::informer::{Event, Informer, WorkQueue, object_key, run_workers, split_key};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, Volume};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::PostParams;
use kube::{Api, Client};
use prometheus::IntCounter;

use crate::context::{Context, Task};
use crate::events::{Events, reference};
use crate::shared::apierr;
use crate::shared::meta::MetaExt;
use crate::shared::owner::{controller_of, controller_ref};
use crate::shared::pods;
use crate::shared::volumes::{index_pods, pods_of};

/// Sets up the controller.
pub(crate) fn start(ctx: &Context) -> anyhow::Result<Task> {
    let client = ctx.client("ephemeral-volume-controller");
    let pods = ctx.factory.informer::<Pod>();
    index_pods(&pods);
    let controller = Arc::new(Controller {
        events: ctx.events(&client, "ephemeral_volume"),
        client,
        pods: pods.clone(),
        claims: ctx.factory.informer(),
    });
    let queue = WorkQueue::new("ephemeral_volume");
    let q = queue.clone();
    pods.on_event(move |event: &Event<Pod>| {
        let pod = event.object();
        if !matches!(event, Event::Deleted(_)) && !is_done(pod) && volumes(pod).next().is_some() {
            q.add(object_key(&**pod));
        }
    });
    let q = queue.clone();
    controller.claims.on_event(move |event: &Event<PersistentVolumeClaim>| {
        if let Event::Deleted(claim) = event {
            let users = pods_of(&pods, &object_key(&**claim));
            users.iter().filter(|pod| volumes(pod).next().is_some()).for_each(|pod| q.add(object_key(&**pod)));
        }
    });
    let (shutdown, workers) = (ctx.shutdown.clone(), ctx.options.volumes.concurrent_ephemeralvolume_syncs);
    Ok(Box::pin(async move {
        run_workers("ephemeral_volume", queue, workers, shutdown, move |key: String| {
            let controller = controller.clone();
            async move { controller.sync(&key).await }
        })
        .await;
    }))
}

fn volumes(pod: &Pod) -> impl Iterator<Item = &Volume> {
    pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten()).filter(|volume| volume.ephemeral.is_some())
}

fn is_done(pod: &Pod) -> bool {
    pod.is_deleting() || pods::is_terminal(pod)
}

/// The claim of an ephemeral volume.
fn claim_for(pod: &Pod, volume: &Volume) -> Option<PersistentVolumeClaim> {
    let template = volume.ephemeral.as_ref()?.volume_claim_template.as_ref()?;
    let given = template.metadata.clone().unwrap_or_default();
    Some(PersistentVolumeClaim {
        metadata: ObjectMeta {
            name: Some(format!("{}-{}", pod.name_str(), volume.name)),
            namespace: pod.metadata.namespace.clone(),
            labels: given.labels,
            annotations: given.annotations,
            owner_references: Some(vec![controller_ref(pod, "v1", "Pod")]),
            ..ObjectMeta::default()
        },
        spec: Some(template.spec.clone()),
        ..PersistentVolumeClaim::default()
    })
}

/// A claim of that name which somebody else made must not be given to the pod.
fn check_owner(pod: &Pod, claim: &PersistentVolumeClaim) -> Result<(), String> {
    match controller_of(&claim.metadata).is_some_and(|owner| owner.uid == pod.uid_str()) {
        true => Ok(()),
        false => Err(format!(
            "PVC {}/{} was not created for pod {}/{} (pod is not owner)",
            claim.ns_str(),
            claim.name_str(),
            pod.ns_str(),
            pod.name_str()
        )),
    }
}

struct Controller {
    client: Client,
    events: Events,
    pods: Arc<Informer<Pod>>,
    claims: Arc<Informer<PersistentVolumeClaim>>,
}

impl Controller {
    async fn sync(&self, key: &str) -> Result<(), String> {
        let (namespace, name) = split_key(key);
        let Some(pod) = self.pods.get(namespace, name).filter(|pod| !is_done(pod)) else { return Ok(()) };
        for volume in volumes(&pod) {
            if let Err(error) = self.ensure(&pod, volume).await {
                let message = format!("ephemeral volume {}: {error}", volume.name);
                self.events.warning(&reference(&*pod), "FailedBinding", message.clone());
                return Err(message);
            }
        }
        Ok(())
    }

    async fn ensure(&self, pod: &Pod, volume: &Volume) -> Result<(), String> {
        let Some(wanted) = claim_for(pod, volume) else { return Ok(()) };
        let name = wanted.name_str();
        if let Some(claim) = self.claims.get(pod.ns_str(), name) {
            return check_owner(pod, &claim);
        }
        let counters = counters();
        counters.iter().for_each(|(attempts, _)| attempts.inc());
        let api: Api<PersistentVolumeClaim> = Api::namespaced(self.client.clone(), pod.ns_str());
        match api.create(&PostParams::default(), &wanted).await {
            Ok(_) => Ok(()),
            Err(error) if apierr::is_namespace_terminating(&error) => Ok(()),
            Err(error) => {
                counters.iter().for_each(|(_, failures)| failures.inc());
                Err(format!("create PVC {name}: {}", apierr::message(&error)))
            }
        }
    }
}

/// Attempts and failures of creating claims.
fn counters() -> Option<&'static (IntCounter, IntCounter)> {
    static COUNTERS: OnceLock<Option<(IntCounter, IntCounter)>> = OnceLock::new();
    let counter = |name: &str, help: &str| {
        IntCounter::new(format!("ephemeral_volume_controller_{name}"), help).ok().map(common::telemetry::register)
    };
    let make = || {
        Some((
            counter("create_total", "Number of PersistenVolumeClaims creation requests")?,
            counter("create_failures_total", "Number of PersistenVolumeClaims creation requests")?,
        ))
    };
    COUNTERS.get_or_init(make).as_ref()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn claims_belong_to_their_pod() {
        let template = json!({"metadata": {"labels": {"a": "b"}}, "spec": {"accessModes": ["ReadWriteOnce"],
            "resources": {"requests": {"storage": "1Gi"}}}});
        let pod: Pod = serde_json::from_value(json!({"metadata": {"namespace": "n", "name": "p", "uid": "u"},
            "spec": {"containers": [], "volumes": [{"name": "plain", "emptyDir": {}},
                {"name": "v", "ephemeral": {"volumeClaimTemplate": template}}]}}))
        .unwrap();
        let all: Vec<_> = volumes(&pod).filter_map(|volume| claim_for(&pod, volume)).collect();
        let [claim] = all.as_slice() else { panic!("{all:?}") };
        assert_eq!((claim.name_str(), claim.label("a")), ("p-v", Some("b")));
        check_owner(&pod, claim).unwrap();
        let mut other = claim.clone();
        other.metadata.owner_references = None;
        let error = check_owner(&pod, &other).unwrap_err();
        assert_eq!(error, "PVC n/p-v was not created for pod n/p (pod is not owner)");
    }
}
