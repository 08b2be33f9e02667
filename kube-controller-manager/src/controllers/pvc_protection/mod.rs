//! `persistentvolumeclaim-protection-controller`: a claim outlives its deletion until the last scheduled pod that
//! uses it is gone.

mod usage;

use std::sync::Arc;

use common::informer::{Event, Informer, WorkQueue, object_key};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use kube::api::ListParams;
use kube::{Api, Client};

pub(crate) use self::usage::claim_names;
use self::usage::{is_shut_down, uses};
use crate::context::{Context, Task};
use crate::shared::meta::MetaExt;
use crate::shared::protection::{self, Guard};
use crate::shared::volumes::{index_pods, pods_of};

/// Sets up the controller.
pub(crate) fn start(ctx: &Context) -> anyhow::Result<Task> {
    let pods = ctx.factory.informer::<Pod>();
    index_pods(&pods);
    let queue = WorkQueue::new(Claims::QUEUE);
    let q = queue.clone();
    pods.on_event(move |event| {
        if let Some(pod) = gone(event)
            && claim_names(pod).next().is_some()
        {
            q.add(pod.ns_str().to_owned());
        }
    });
    Ok(protection::start(ctx, queue, Claims { pods }))
}

/// The pod that lets go of its claims with this event.
fn gone(event: &Event<Pod>) -> Option<&Pod> {
    match event {
        Event::Deleted(pod) => Some(pod),
        // A new pod of the same name hides that the old one went.
        Event::Updated { old, new } if old.uid_str() != new.uid_str() => Some(old),
        Event::Added(pod) | Event::Updated { new: pod, .. } => Some(&**pod).filter(|pod| is_shut_down(pod)),
    }
}

struct Claims {
    pods: Arc<Informer<Pod>>,
}

impl Guard for Claims {
    type Kind = PersistentVolumeClaim;
    const FINALIZER: &'static str = "kubernetes.io/pvc-protection";
    const IDENTITY: &'static str = "pvc-protection-controller";
    const QUEUE: &'static str = "pvcprotection";

    fn api(client: Client, namespace: &str) -> Api<PersistentVolumeClaim> {
        Api::namespaced(client, namespace)
    }

    fn in_use(&self, claim: &PersistentVolumeClaim) -> bool {
        pods_of(&self.pods, &object_key(claim)).iter().any(|pod| uses(pod, claim))
    }

    /// The cache may not show a pod yet that runs already: the server is asked before data may be lost.
    async fn confirm(
        &self,
        client: &Client,
        namespace: &str,
        mut unused: Vec<Arc<PersistentVolumeClaim>>,
    ) -> Result<Vec<Arc<PersistentVolumeClaim>>, kube::Error> {
        let pods = Api::<Pod>::namespaced(client.clone(), namespace).list(&ListParams::default()).await?.items;
        unused.retain(|claim| !pods.iter().any(|pod| uses(pod, claim)));
        Ok(unused)
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use common::informer::InformerOptions;
    use http::{Request, Response};
    use kube::client::Body;
    use serde_json::{Value, json};

    use super::*;

    fn pod(name: &str, uid: &str, claim: &str) -> Value {
        json!({"metadata": {"namespace": "ns", "name": name, "uid": uid}, "spec": {"nodeName": "n", "containers": [],
            "volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": claim}}]}})
    }

    #[tokio::test]
    async fn the_server_knows_pods_that_the_cache_does_not_show() {
        let service = tower::service_fn(|request: Request<Body>| async move {
            assert_eq!(request.uri().path(), "/api/v1/namespaces/ns/pods");
            let list = json!({"metadata": {}, "items": [pod("late", "1", "used")]});
            Ok::<_, Infallible>(Response::new(Body::from(list.to_string().into_bytes())))
        });
        let client = Client::new(service, "default");
        let guard = Claims { pods: Informer::new(InformerOptions::default()) };
        let claims = ["used", "free"].map(|name| {
            let claim = json!({"metadata": {"namespace": "ns", "name": name}});
            Arc::new(serde_json::from_value::<PersistentVolumeClaim>(claim).unwrap())
        });
        assert!(claims.iter().all(|claim| !guard.in_use(claim)));
        let unused = guard.confirm(&client, "ns", claims.to_vec()).await.unwrap();
        assert_eq!(unused.iter().map(|claim| claim.name_str()).collect::<Vec<_>>(), ["free"]);
    }

    #[test]
    fn pods_that_let_go() {
        let parse = |value: Value| Arc::new(serde_json::from_value::<Pod>(value).unwrap());
        let (one, other) = (parse(pod("p", "1", "a")), parse(pod("p", "2", "b")));
        assert!(gone(&Event::Added(one.clone())).is_none());
        assert!(gone(&Event::Updated { old: one.clone(), new: one.clone() }).is_none());
        let left = |event: &Event<Pod>| gone(event).map(|pod| pod.uid_str().to_owned());
        assert_eq!(left(&Event::Updated { old: one.clone(), new: other }).as_deref(), Some("1"));
        assert_eq!(left(&Event::Deleted(one)).as_deref(), Some("1"));
    }
}
