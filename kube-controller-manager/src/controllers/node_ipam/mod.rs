//! `node-ipam-controller`: gives every node its piece of the cluster CIDR (`--allocate-node-cidrs`).

mod cidr_set;

use std::sync::Arc;

use anyhow::Context as _;
use common::informer::{Event, Informer, WorkQueue, object_key, run_workers};
use ipnet::IpNet;
use k8s_openapi::api::core::v1::Node;
use kube::Client;
use kube::api::{Api, Patch, PatchParams};
use parking_lot::Mutex;
use serde_json::json;

use self::cidr_set::CidrSet;
use crate::context::{Context, Task};
use crate::controllers::node_lifecycle::{node_reference, status_event};
use crate::events::Events;
use crate::options::Options;
use crate::shared::apierr;
use crate::shared::meta::MetaExt;

#[derive(Debug, thiserror::Error)]
enum SyncError {
    #[error("no CIDR is left for node {0}")]
    Full(String),
    #[error(transparent)]
    Api(#[from] kube::Error),
}

/// Why the controller has nothing to do under these flags.
pub(crate) fn idle(options: &Options) -> Option<&'static str> {
    (!options.generic.allocate_node_cidrs).then_some("--allocate-node-cidrs is not set")
}

/// Sets up the controller.
pub(crate) fn start(ctx: &Context) -> anyhow::Result<Task> {
    let client = ctx.client("node-controller");
    let allocator = Arc::new(Allocator {
        events: ctx.events(&client, "cidrAllocator"),
        client,
        nodes: ctx.factory.informer(),
        sets: Mutex::new(cidr_sets(&ctx.options)?),
        queue: WorkQueue::new("cidrallocator_node"),
    });
    let a = allocator.clone();
    allocator.nodes.on_event(move |event: &Event<Node>| match event {
        // Occupied at once, so that every existing piece is known before the first allocation.
        Event::Added(node) | Event::Updated { new: node, .. } => {
            if !a.occupy(node) {
                a.queue.add(object_key(&**node));
            }
        }
        Event::Deleted(node) => a.release(&pod_cidrs(node)),
    });
    let shutdown = ctx.shutdown.clone();
    Ok(Box::pin(async move {
        let queue = allocator.queue.clone();
        // One worker: allocations of one set happen one after the other anyway.
        run_workers("cidrallocator_node", queue, 1, shutdown, move |key: String| {
            let allocator = allocator.clone();
            async move { allocator.sync(&key).await }
        })
        .await;
    }))
}

fn parse_list(flag: &str, text: &str) -> anyhow::Result<Vec<IpNet>> {
    let items = text.split(',').map(str::trim).filter(|t| !t.is_empty());
    items.map(|t| t.parse().with_context(|| format!("{flag}: {t:?} is not a CIDR"))).collect()
}

/// The cluster CIDRs, with the Service ranges taken out.
fn cidr_sets(options: &Options) -> anyhow::Result<Vec<CidrSet>> {
    let clusters = parse_list("--cluster-cidr", &options.cluster_cidr)?;
    anyhow::ensure!(clusters.len() <= 2, "length of clusterCIDRs is:{} more than max allowed of 2", clusters.len());
    let is_v6 = |net: &IpNet| matches!(net, IpNet::V6(_));
    if let [one, other] = clusters.as_slice() {
        let dual = is_v6(one) != is_v6(other);
        anyhow::ensure!(
            dual,
            "len of ClusterCIDRs==2 and they are not configured as dual stack (at least one from each IPFamily)"
        );
        let ambiguous = options.node_cidr_mask_size != 0;
        anyhow::ensure!(!ambiguous, "usage of --node-cidr-mask-size is not allowed with dual-stack clusters");
    }
    let services = parse_list("--service-cluster-ip-range", &options.service_cluster_ip_range)?;
    let mut sets = Vec::new();
    for cluster in clusters {
        let v6 = is_v6(&cluster);
        let own = if v6 { options.node_cidr_mask_size_ipv6 } else { options.node_cidr_mask_size_ipv4 };
        let mask = [own, options.node_cidr_mask_size].into_iter().find(|m| *m != 0);
        let mask = mask.unwrap_or(if v6 { 64 } else { 24 });
        let mut set = CidrSet::new(cluster, mask).with_context(|| format!("--cluster-cidr {cluster}"))?;
        for service in &services {
            set.occupy(service);
        }
        sets.push(set);
    }
    Ok(sets)
}

fn pod_cidrs(node: &Node) -> Vec<IpNet> {
    let Some(spec) = &node.spec else { return Vec::new() };
    let list = spec.pod_cidrs.iter().flatten();
    let mut nets: Vec<IpNet> = list.filter_map(|c| c.parse().ok()).collect();
    if nets.is_empty() {
        nets.extend(spec.pod_cidr.as_ref().and_then(|c| c.parse::<IpNet>().ok()));
    }
    nets
}

struct Allocator {
    client: Client,
    events: Events,
    nodes: Arc<Informer<Node>>,
    sets: Mutex<Vec<CidrSet>>,
    queue: Arc<WorkQueue<String>>,
}

impl Allocator {
    /// Notes what a node holds; false when it holds nothing yet.
    fn occupy(&self, node: &Node) -> bool {
        let held = pod_cidrs(node);
        let mut sets = self.sets.lock();
        for net in &held {
            let mut of_family = sets.iter_mut().filter(|s| s.is_v6() == matches!(net, IpNet::V6(_)));
            if !of_family.any(|set| set.occupy(net)) {
                tracing::warn!(node = node.name_str(), cidr = %net, "the node's pod CIDR is not within --cluster-cidr");
            }
        }
        !held.is_empty()
    }

    fn release(&self, nets: &[IpNet]) {
        let mut sets = self.sets.lock();
        for net in nets {
            sets.iter_mut().filter(|s| s.is_v6() == matches!(net, IpNet::V6(_))).for_each(|s| {
                s.release(net);
            });
        }
    }

    /// One piece of every set, or nothing.
    fn allocate(&self) -> Option<Vec<IpNet>> {
        let mut sets = self.sets.lock();
        let mut nets = Vec::new();
        for set in sets.iter_mut() {
            match set.allocate() {
                Some(net) => nets.push(net),
                None => {
                    drop(sets);
                    self.release(&nets);
                    return None;
                }
            }
        }
        Some(nets)
    }

    async fn sync(&self, name: &str) -> Result<(), SyncError> {
        let api: Api<Node> = Api::all(self.client.clone());
        if self.nodes.get("", name).is_none() {
            return Ok(());
        }
        // The server, not the cache: a CIDR cannot be changed once it is set.
        let Some(node) = api.get_opt(name).await? else { return Ok(()) };
        if self.occupy(&node) {
            return Ok(());
        }
        let Some(nets) = self.allocate() else {
            status_event(&self.events, &node, "CIDRNotAvailable");
            return Err(SyncError::Full(name.to_owned()));
        };
        let texts: Vec<String> = nets.iter().map(ToString::to_string).collect();
        let patch = json!({"metadata": {"uid": node.uid_str()}, "spec": {"podCIDR": texts[0], "podCIDRs": texts}});
        match api.patch(name, &PatchParams::default(), &Patch::Strategic(patch)).await {
            Ok(_) => {
                tracing::info!(node = name, cidrs = texts.join(","), "pod CIDR assigned");
                Ok(())
            }
            Err(error) => {
                status_event(&self.events, &node, "CIDRAssignmentFailed");
                // After a time-out it may be set all the same: keep it until the server says otherwise.
                if matches!(error, kube::Error::Api(_)) {
                    self.release(&nets);
                }
                tracing::debug!(node = %node_reference(&node).name.unwrap_or_default(), %error, "assignment failed");
                Ok(apierr::ignore_not_found(Err::<(), _>(error))?)
            }
        }
    }
}
