//! The loop: something changed -> compute the desired state -> apply the difference -> tell the health servers.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use common::informer::{Factory, Informer, InformerOptions};
use ipnet::IpNet;
use k8s_openapi::api::{
    core::v1::{Node, Service},
    discovery::v1::EndpointSlice,
};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::{
    conntrack,
    health::HealthState,
    metrics::Metrics,
    model::{Desired, Here, desired},
    nftables::{Family, Nft, render},
    options::Config,
};

const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// What the loop watches.
pub(crate) struct Sources {
    services: Arc<Informer<Service>>,
    slices: Arc<Informer<EndpointSlice>>,
    node: Arc<Informer<Node>>,
    changed: Arc<Notify>,
}

impl Sources {
    /// Registers the informers; every event wakes the loop.
    pub(crate) fn new(factory: &Factory, node: &str) -> Self {
        let services = factory.informer_with(ours());
        let slices = factory.informer_with(ours());
        let node = factory.informer_with_field_selector::<Node>(&format!("metadata.name={node}"));
        let changed = Arc::new(Notify::new());
        fn wake<K: common::informer::Object>(informer: &Informer<K>, changed: &Arc<Notify>) {
            let changed = changed.clone();
            informer.on_event(move |_| changed.notify_one());
        }
        wake(&services, &changed);
        wake(&slices, &changed);
        wake(&node, &changed);
        Self { services, slices, node, changed }
    }

    fn node(&self) -> Option<Arc<Node>> {
        self.node.list().into_iter().next()
    }

    /// The desired state of both families.
    fn desired(&self, name: &str) -> (Desired, Desired) {
        let zone =
            self.node().and_then(|node| node.metadata.labels.as_ref()?.get("topology.kubernetes.io/zone").cloned());
        let here = Here { node: name.to_owned(), zone };
        let services = self.services.list();
        let slices = self.slices.list();
        let mut by_service: BTreeMap<(String, String), Vec<&EndpointSlice>> = BTreeMap::new();
        for slice in &slices {
            let service = slice.metadata.labels.as_ref().and_then(|labels| labels.get(SERVICE_NAME));
            if let Some(service) = service {
                let namespace = slice.metadata.namespace.clone().unwrap_or_default();
                by_service.entry((namespace, service.clone())).or_default().push(slice);
            }
        }
        let services: Vec<&Service> = services.iter().map(Arc::as_ref).collect();
        (desired(&services, &by_service, &here, false), desired(&services, &by_service, &here, true))
    }
}

/// Without objects that another proxy, or nobody, serves.
fn ours<K: common::informer::Object>() -> InformerOptions<K> {
    InformerOptions {
        label_selector: Some("!service.kubernetes.io/headless,!service.kubernetes.io/service-proxy-name".into()),

        ..Default::default()
    }
}

/// The node's own addresses, for node ports that answer only there.
fn primary(node: Option<&Node>) -> Vec<IpNet> {
    let addresses = node.and_then(|node| node.status.as_ref()?.addresses.as_ref());
    let internal = addresses.into_iter().flatten().filter(|address| address.type_ == "InternalIP");
    internal.filter_map(|address| address.address.parse::<IpAddr>().ok()).map(IpNet::from).collect()
}

/// Owns what was programmed last.
pub(crate) struct Proxier {
    config: Config,
    sources: Sources,
    health: Arc<HealthState>,
    metrics: Metrics,
    tables: Vec<(Family, Nft)>,
    last: BTreeMap<bool, Desired>,
}

impl Proxier {
    pub(crate) fn new(config: Config, sources: Sources, health: Arc<HealthState>, metrics: Metrics) -> Self {
        let mut families = vec![Family::V4];
        // A kernel without IPv6 refuses ip6 hooks' traffic but not the table; skip it only where IPv6 is compiled out.
        if std::path::Path::new("/proc/sys/net/ipv6").exists() {
            families.push(Family::V6);
        }
        let tables = families.into_iter().map(|family| (family, Nft::new(family))).collect();
        Self { config, sources, health, metrics, tables, last: BTreeMap::new() }
    }

    /// Runs until cancelled; the rules stay, so that traffic flows on while we are away.
    pub(crate) async fn run(mut self, shutdown: CancellationToken) {
        let changed = self.sources.changed.clone();
        let mut retry = Duration::from_millis(200);
        let mut full = tokio::time::interval(self.config.full_sync_period);
        full.tick().await;
        loop {
            let started = Instant::now();
            let wait = match self.sync().await {
                Ok(()) => {
                    retry = Duration::from_millis(200);
                    None
                }
                Err(error) => {
                    tracing::error!(error = format!("{error:#}"), "cannot apply the rules; retrying");
                    retry = (retry * 2).min(Duration::from_secs(30));
                    Some(retry)
                }
            };
            let pause = self.config.min_sync_period.saturating_sub(started.elapsed()).max(wait.unwrap_or_default());
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
            }
            if wait.is_some() {
                continue;
            }
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = changed.notified() => {}
                _ = full.tick() => self.verify().await,
            }
        }
    }

    /// Makes everything anew next time if somebody else removed our tables.
    async fn verify(&mut self) {
        for (_, table) in &mut self.tables {
            if !table.exists().await {
                tracing::warn!("the kube-proxy table is gone; making it anew");
                table.forget();
            }
        }
    }

    async fn sync(&mut self) -> anyhow::Result<()> {
        let started = Instant::now();
        self.health.changed();
        let node = self.sources.node();
        self.health.set_node_eligible(node.as_ref().is_none_or(|node| eligible(node)));
        let mut settings = self.config.settings.clone();
        if self.config.primary_node_ports {
            settings.node_port_addresses = primary(node.as_deref());
        }
        let (v4, v6) = self.sources.desired(&self.config.node);
        self.health.set_services(&v4);
        let mut lines = 0;
        for (family, table) in &mut self.tables {
            let wanted = if family.is_v6() { &v6 } else { &v4 };
            lines += table.apply(render(wanted, &settings, *family)).await?;
        }
        for (is_v6, new) in [(false, v4), (true, v6)] {
            let old = self.last.remove(&is_v6).unwrap_or_default();
            conntrack::forget(&conntrack::stale(&old, &new)).await;
            self.last.insert(is_v6, new);
        }
        self.health.applied();
        self.metrics.synced(started.elapsed());
        if lines > 0 {
            tracing::debug!(lines, elapsed = ?started.elapsed(), "rules applied");
        }
        Ok(())
    }
}

/// A load balancer must not pick a node that is going away (KEP-3836).
fn eligible(node: &Node) -> bool {
    let tainted = node.spec.as_ref().and_then(|spec| spec.taints.as_ref());
    let leaving =
        tainted.is_some_and(|taints| taints.iter().any(|taint| taint.key == "ToBeDeletedByClusterAutoscaler"));
    node.metadata.deletion_timestamp.is_none() && !leaving
}
