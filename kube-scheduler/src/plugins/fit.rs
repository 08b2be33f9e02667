//! NodeResourcesFit: whether a node has room for what the pod requests, and how well it would be filled.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Node;
use k8s_openapi::api::resource::v1::DeviceClass;
use parking_lot::Mutex;

use super::dynamic_resources::cluster::Devices;
use super::resource_scoring::{Strategy, columns};
use crate::cache::resources::{CPU, EPHEMERAL, MEMORY};
use crate::cache::snapshot::{NodeView, Snapshot};
use crate::config::args::{FitArgs, ResourceSpec};
use crate::framework::events::{ClusterEvent, Hint, Interest, Resource, action};
use crate::framework::plugin::{
    CycleContext, EnqueueExtensions, Filter, Plugin, PreFilter, PreFiltered, Scope, Score, StateData, state_of,
};
use crate::framework::pod::PodInfo;
use crate::framework::requests::{Requests, column_value, is_extended_resource};
use crate::framework::status::{Code, Status, Verdict};

/// The plugin.
pub struct Fit {
    ignored: Vec<String>,
    ignored_groups: Vec<String>,
    resources: Vec<ResourceSpec>,
    strategy: Strategy,
    /// Resources that a node has none of may be devices: DynamicResources decides then.
    devices: Option<Arc<Devices>>,
}

/// Upstream's name.
pub const NAME: &str = "NodeResourcesFit";

/// One requested resource, resolved to its column; `None` when no node has ever had it.
#[derive(Clone)]
struct Want {
    column: Option<usize>,
    amount: i64,
    reason: Cow<'static, str>,
    /// Whether devices stand behind it where a node has none.
    backed: bool,
}

/// Statuses by what is missing.
type Statuses = HashMap<(u64, bool), Arc<Status>>;

/// The pod's wants and the statuses already made for them: nodes fail in few distinct ways.
#[derive(Clone)]
struct Wants {
    wants: Arc<[Want]>,
    statuses: Arc<Mutex<Statuses>>,
}

const TOO_MANY_PODS: u64 = 1 << 63;

impl Fit {
    /// With the profile's arguments (already validated).
    pub fn new(args: &FitArgs) -> Self {
        Self {
            ignored: args.ignored_resources.clone(),
            ignored_groups: args.ignored_resource_groups.clone(),
            resources: args.scoring_strategy.resources.clone(),
            strategy: Strategy::new(&args.scoring_strategy),
            devices: None,
        }
    }

    /// Leaves to devices what they stand behind.
    #[must_use]
    pub fn beside(self, devices: Arc<Devices>) -> Self {
        Self { devices: Some(devices), ..self }
    }

    fn backed(&self, name: &str) -> bool {
        self.devices.as_ref().is_some_and(|devices| devices.backs(name))
    }

    fn ignores(&self, name: &str) -> bool {
        let group = name.split('/').next().unwrap_or_default();
        is_extended_resource(name)
            && (self.ignored.iter().any(|ignored| ignored == name)
                || self.ignored_groups.iter().any(|ignored| ignored == group))
    }

    fn wants(&self, requests: &Requests, snapshot: &Snapshot) -> Wants {
        let native = [
            (CPU, requests.cpu, "Insufficient cpu"),
            (MEMORY, requests.memory, "Insufficient memory"),
            (EPHEMERAL, requests.ephemeral, "Insufficient ephemeral-storage"),
        ];
        let native = native.into_iter().map(|(column, amount, reason)| Want {
            column: Some(column),
            amount,
            reason: reason.into(),
            backed: false,
        });
        let scalars = requests.scalars.iter().filter(|(name, _)| !self.ignores(name)).map(|(name, amount)| Want {
            column: snapshot.resources.column(name),
            amount: *amount,
            reason: format!("Insufficient {name}").into(),
            backed: self.backed(name),
        });
        let wants = native.chain(scalars).filter(|want| want.amount > 0).take(62).collect();
        Wants { wants, statuses: Arc::default() }
    }
}

impl Wants {
    /// Which wants a node cannot satisfy, as bits, and whether even an empty node could not.
    fn missing(&self, node: &NodeView<'_>) -> (u64, bool) {
        let mut bits = 0;
        let mut hopeless = false;
        if node.pods().len() as i64 + 1 > node.snapshot.allowed_pods[node.slot as usize] {
            bits |= TOO_MANY_PODS;
        }
        for (bit, want) in self.wants.iter().enumerate() {
            let (allocatable, requested) =
                want.column.map_or((0, 0), |column| (node.allocatable(column), node.requested(column)));
            if want.backed && allocatable == 0 {
                continue;
            }
            if want.amount > allocatable - requested {
                bits |= 1 << bit;
                hopeless |= want.amount > allocatable;
            }
        }
        (bits, hopeless)
    }

    fn status(&self, missing: (u64, bool)) -> Arc<Status> {
        let make = || {
            let pods = (missing.0 & TOO_MANY_PODS != 0).then_some(Cow::Borrowed("Too many pods"));
            let wants = self.wants.iter().enumerate().filter(|(bit, _)| missing.0 & (1 << bit) != 0);
            let code = if missing.1 { Code::UnschedulableAndUnresolvable } else { Code::Unschedulable };
            let reasons = pods.into_iter().chain(wants.map(|(_, want)| want.reason.clone())).collect();
            Arc::new(Status { code, plugin: NAME, reasons })
        };
        self.statuses.lock().entry(missing).or_insert_with(make).clone()
    }
}

extension_points!(Fit { as_pre_filter: PreFilter, as_filter: Filter, as_score: Score, as_enqueue: EnqueueExtensions });

impl PreFilter for Fit {
    fn pre_filter(&self, cx: &CycleContext<'_>) -> Result<PreFiltered, Arc<Status>> {
        Ok(PreFiltered::with(self.wants(&cx.pod.template.requests, cx.snapshot)))
    }
}

impl Filter for Fit {
    fn scope(&self) -> Scope {
        Scope::Node
    }

    fn filter(&self, cx: &CycleContext<'_>, state: Option<&dyn StateData>, node: &NodeView<'_>) -> Verdict {
        let made;
        let wants = match state_of::<Wants>(state) {
            Some(wants) => wants,
            None => {
                made = self.wants(&cx.pod.template.requests, cx.snapshot);
                &made
            }
        };
        match wants.missing(node) {
            (0, _) => Ok(()),
            missing => Err(wants.status(missing)),
        }
    }
}

impl Score for Fit {
    fn scope(&self) -> Scope {
        Scope::Node
    }

    fn score(
        &self,
        cx: &CycleContext<'_>,
        _state: Option<&dyn StateData>,
        nodes: &[u32],
        scores: &mut [i64],
    ) -> Result<(), Arc<Status>> {
        let columns = columns(cx.snapshot, &self.resources, &cx.pod.template.requests, true);
        self.strategy.score(cx.snapshot, &columns, nodes, scores);
        Ok(())
    }
}

/// Allocatable amount of a resource on a node object.
fn allocatable(node: &Node, name: &str) -> i64 {
    let listed = node.status.as_ref().and_then(|status| status.allocatable.as_ref());
    listed.and_then(|listed| listed.get(name)).map_or(0, |quantity| column_value(name, quantity))
}

/// Whether a class stands behind a resource that the pod asks for, and did not before.
fn class_helps(wanted: &Requests, old: Option<&DeviceClass>, new: &DeviceClass) -> bool {
    let names = |class: &DeviceClass| class.spec.extended_resource_name.clone();
    let asks = |name: &str| wanted.scalars.iter().any(|(known, _)| **known == *name);
    let implicit = format!("deviceclass.resource.kubernetes.io/{}", new.metadata.name.as_deref().unwrap_or_default());
    match old {
        Some(old) if names(old) == names(new) => false,
        None if asks(&implicit) => true,
        _ => names(new).is_some_and(|name| asks(&name)),
    }
}

/// The names and amounts that a pod asks for.
fn asked(requests: &Requests) -> impl Iterator<Item = (&str, i64)> {
    [("cpu", requests.cpu), ("memory", requests.memory), ("ephemeral-storage", requests.ephemeral)]
        .into_iter()
        .chain(requests.scalars.iter().map(|(name, amount)| (&**name, *amount)))
        .filter(|(_, amount)| *amount > 0)
}

impl EnqueueExtensions for Fit {
    fn interests(&self) -> Vec<Interest> {
        vec![
            Interest { resource: Resource::AssignedPod, action: action::DELETE | action::POD_SCALE_DOWN },
            Interest { resource: Resource::Node, action: action::ADD | action::NODE_ALLOCATABLE },
            Interest { resource: Resource::DeviceClass, action: action::ADD | action::UPDATE },
        ]
    }

    fn hint(&self, pod: &PodInfo, event: &ClusterEvent) -> Hint {
        let wanted = &pod.template.requests;
        if let (old, Some(new)) = event.objects_of::<DeviceClass>() {
            return if class_helps(wanted, old, new) { Hint::Queue } else { Hint::Skip };
        }
        let queue = match (event.pods(), event.nodes()) {
            ((Some(gone), None), _) => gone.node_name.is_some() || gone.nominated.is_some(),
            ((Some(_), Some(new)), _) if new.uid == pod.uid => true,
            ((Some(old), Some(new)), _) => {
                let (before, after) = (&old.template.requests, &new.template.requests);
                new.node_name.is_some() && asked(wanted).any(|(name, _)| before.get(name) > after.get(name))
            }
            (_, (old, Some(new))) => {
                let fits = allocatable(new, "pods") >= 1
                    && asked(wanted).all(|(name, amount)| {
                        let there = allocatable(new, name);
                        self.ignores(name) || amount <= there || (there == 0 && self.backed(name))
                    });
                let grew = |old: &Node| {
                    allocatable(new, "pods") > allocatable(old, "pods")
                        || asked(wanted).any(|(name, _)| {
                            let there = allocatable(new, name);
                            there > allocatable(old, name) || (there == 0 && self.backed(name))
                        })
                };
                fits && old.is_none_or(|old| grew(old))
            }
            _ => true,
        };
        if queue { Hint::Queue } else { Hint::Skip }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Cluster, node, pod, pod_info};
    use serde_json::json;

    fn fit(args: serde_json::Value) -> Fit {
        let mut args: FitArgs = serde_json::from_value(args).unwrap();
        args.set_defaults();
        Fit::new(&args)
    }

    #[test]
    fn filter() {
        let mut cluster = Cluster::new(&[
            node("empty").cpu("4").memory("4Gi"),
            node("busy").cpu("4").memory("4Gi"),
            node("full").cpu("4").memory("4Gi").pods("1"),
            node("tiny").cpu("1").memory("4Gi"),
        ]);
        cluster.place(&pod("a").requests("3", "3Gi"), "busy");
        cluster.place(&pod("b"), "full");
        let plugin = fit(json!({}));
        let pod = pod_info(&pod("p").requests("2", "2Gi"));
        assert_eq!(
            cluster.verdicts(&plugin, &pod),
            ["", "Insufficient cpu, Insufficient memory", "Too many pods", "Insufficient cpu"]
        );
        assert_eq!(cluster.code(&plugin, &pod, "busy"), Some(Code::Unschedulable));
        assert_eq!(cluster.code(&plugin, &pod, "tiny"), Some(Code::UnschedulableAndUnresolvable));
        let nothing = pod_info(&crate::testing::pod("q"));
        assert_eq!(cluster.verdicts(&plugin, &nothing), ["", "", "Too many pods", ""]);
    }

    #[test]
    fn extended_resources() {
        let cluster = Cluster::new(&[node("with").allocatable("example.com/gpu", "2"), node("without")]);
        let pod = pod_info(&pod("p").request("example.com/gpu", "2"));
        assert_eq!(cluster.verdicts(&fit(json!({})), &pod), ["", "Insufficient example.com/gpu"]);
        let ignoring = fit(json!({"ignoredResourceGroups": ["example.com"]}));
        assert_eq!(cluster.verdicts(&ignoring, &pod), ["", ""]);
        let unheard = pod_info(&crate::testing::pod("q").request("example.com/tpu", "1"));
        let refused = "Insufficient example.com/tpu";
        assert_eq!(cluster.verdicts(&fit(json!({})), &unheard), [refused, refused]);
    }

    #[test]
    fn strategies() {
        let mut cluster = Cluster::new(&[node("n1").cpu("4").memory("10000"), node("n2").cpu("6").memory("10000")]);
        cluster.place(&pod("a").requests("1", "1000"), "n1");
        let pod = pod_info(&pod("p").requests("2", "4000"));
        // n1: cpu 3/4, memory 5000/10000; n2: cpu 2/6, memory 4000/10000.
        assert_eq!(cluster.scores(&fit(json!({})), &pod), [(25 + 50) / 2, (66 + 60) / 2]);
        let most = json!({"scoringStrategy": {"type": "MostAllocated"}});
        assert_eq!(cluster.scores(&fit(most), &pod), [(75 + 50) / 2, (33 + 40) / 2]);
        let ratio = json!({"scoringStrategy": {"type": "RequestedToCapacityRatio", "requestedToCapacityRatio": {
            "shape": [{"utilization": 0, "score": 10}, {"utilization": 100, "score": 0}]}}});
        assert_eq!(cluster.scores(&fit(ratio), &pod), [38, 64]);
        let weighted = json!({"scoringStrategy": {"type": "LeastAllocated", "resources": [
            {"name": "cpu", "weight": 3}, {"name": "memory", "weight": 1}]}});
        assert_eq!(cluster.scores(&fit(weighted), &pod), [(25 * 3 + 50) / 4, (66 * 3 + 60) / 4]);
    }

    #[test]
    fn hints() {
        let plugin = fit(json!({}));
        let wants = pod_info(&pod("p").requests("2", "1Gi"));
        let event = |old: Option<&crate::testing::NodeBuilder>, new: &crate::testing::NodeBuilder| ClusterEvent {
            resource: Resource::Node,
            action: action::NODE_ALLOCATABLE,
            label: "",
            objects: crate::framework::events::Objects::Node(old.map(|n| n.build()), Some(new.build())),
        };
        let small = node("n").cpu("1").memory("2Gi");
        let large = node("n").cpu("4").memory("2Gi");
        let wide = node("n").cpu("4").memory("4Gi").allocatable("example.com/gpu", "1");
        assert_eq!(plugin.hint(&wants, &event(None, &small)), Hint::Skip);
        assert_eq!(plugin.hint(&wants, &event(None, &large)), Hint::Queue);
        assert_eq!(plugin.hint(&wants, &event(Some(&small), &large)), Hint::Queue);
        assert_eq!(plugin.hint(&wants, &event(Some(&large), &large)), Hint::Skip);
        assert_eq!(plugin.hint(&wants, &event(Some(&large), &wide)), Hint::Queue);
    }
}
