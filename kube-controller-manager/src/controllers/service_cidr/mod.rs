//! `service-cidr-controller`: says that a ServiceCIDR is ready, and lets it go only when no Service address would be left without
//! a range.

mod ranges;

use std::sync::Arc;
use std::time::Duration;

use common::informer::{Event, Informer, WorkQueue, object_key, run_workers};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::networking::v1::{IPAddress, ServiceCIDR};
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use serde_json::json;

use crate::context::{Context, Task};
use crate::events::{Events, reference};
use crate::shared::apierr;
use crate::shared::meta::{MetaExt, now_time};

const NAME: &str = "service-cidr-controller";
const FINALIZER: &str = "networking.k8s.io/service-cidr-finalizer";
/// The apiservers may not all know yet that the range is going; until they do, they may allocate from it.
const GRACE: SignedDuration = SignedDuration::from_secs(10);
const WORKERS: usize = 5;

/// Sets up the controller.
pub(crate) fn start(ctx: &Context) -> anyhow::Result<Task> {
    let client = ctx.client("service-cidrs-controller");
    let controller = Arc::new(Controller {
        events: ctx.events(&client, NAME),
        client,
        cidrs: ctx.factory.informer(),
        addresses: ctx.factory.informer(),
        queue: WorkQueue::new("ipaddresses"),
    });
    let c = controller.clone();
    controller.cidrs.on_event(move |event: &Event<ServiceCIDR>| {
        let cidr = event.object();
        c.queue.add(object_key(&**cidr));
        // One that comes or goes matters to those that it contains or is contained in.
        if !matches!(event, Event::Updated { .. }) {
            c.add_all(|other| other.is_deleting() && ranges::overlap(cidr, other));
        }
    });
    let c = controller.clone();
    controller.addresses.on_event(move |event: &Event<IPAddress>| {
        let address = event.object();
        if !matches!(event, Event::Updated { .. }) && ranges::is_of_services(address) {
            c.add_all(|cidr| cidr.is_deleting() && ranges::contains(cidr, address));
        }
    });
    let shutdown = ctx.shutdown.clone();
    Ok(Box::pin(async move {
        let queue = controller.queue.clone();
        run_workers(NAME, queue, WORKERS, shutdown, move |name: String| {
            let controller = controller.clone();
            async move { controller.sync(&name).await }
        })
        .await;
    }))
}

struct Controller {
    client: Client,
    events: Events,
    cidrs: Arc<Informer<ServiceCIDR>>,
    addresses: Arc<Informer<IPAddress>>,
    queue: Arc<WorkQueue<String>>,
}

impl Controller {
    fn add_all(&self, wanted: impl Fn(&ServiceCIDR) -> bool) {
        self.cidrs.list().iter().filter(|cidr| wanted(cidr)).for_each(|cidr| self.queue.add(object_key(&**cidr)));
    }

    async fn sync(&self, name: &str) -> Result<(), kube::Error> {
        let Some(cidr) = self.cidrs.get("", name) else { return Ok(()) };
        if !cidr.is_deleting() {
            self.set_finalizer(&cidr, true).await?;
            let ready = self.set_ready(&cidr, "True", "", "Kubernetes Service CIDR is ready").await;
            if ready.is_err() {
                let message = "The ServiceCIDR Status can not be set to Ready=True";
                self.events.warning(&reference(&*cidr), "KubernetesServiceCIDRError", message.into());
            }
            return ready;
        }
        if !ranges::may_go(&cidr, &self.cidrs.list(), &self.addresses.list()) {
            let message = "There are still IPAddresses referencing the ServiceCIDR, please remove them or create a new ServiceCIDR";
            return self.set_ready(&cidr, "False", "Terminating", message).await;
        }
        let since = cidr.metadata.deletion_timestamp.as_ref().map_or(Timestamp::MIN, |time| time.0);
        let left = GRACE - Timestamp::now().duration_since(since);
        if left.is_positive() {
            self.queue.add_after(name.to_owned(), Duration::try_from(left).unwrap_or_default());
            return Ok(());
        }
        self.set_finalizer(&cidr, false).await
    }

    async fn set_finalizer(&self, cidr: &ServiceCIDR, wanted: bool) -> Result<(), kube::Error> {
        if cidr.metadata.finalizers.iter().flatten().any(|finalizer| finalizer == FINALIZER) == wanted {
            return Ok(());
        }
        let field = if wanted { "finalizers" } else { "$deleteFromPrimitiveList/finalizers" };
        let patch = json!({"metadata": {field: [FINALIZER]}});
        let api: Api<ServiceCIDR> = Api::all(self.client.clone());
        let patched = api.patch(cidr.name_str(), &PatchParams::default(), &Patch::Strategic(patch)).await;
        apierr::ignore_not_found(patched)
    }

    async fn set_ready(
        &self,
        cidr: &ServiceCIDR,
        status: &str,
        reason: &str,
        message: &str,
    ) -> Result<(), kube::Error> {
        let known = cidr.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
        if known.iter().any(|c| c.type_ == "Ready" && c.status == status && c.reason == reason && c.message == message)
        {
            return Ok(());
        }
        let condition = json!({"type": "Ready", "status": status, "reason": reason, "message": message,
            "lastTransitionTime": now_time()});
        let patch = json!({"apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR",
            "metadata": {"name": cidr.name_str()}, "status": {"conditions": [condition]}});
        let api: Api<ServiceCIDR> = Api::all(self.client.clone());
        let params = PatchParams::apply(NAME).force();
        api.patch_status(cidr.name_str(), &params, &Patch::Apply(patch)).await.map(|_| ())
    }
}
