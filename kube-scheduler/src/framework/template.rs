//! Interned pod templates: everything about a pod that a plugin reads, parsed once.

use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use common::meta::nodeselector::{Term, WeightedTerm};
use common::meta::selector::LabelSelector;
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::apimachinery::pkg::apis::meta::v1 as meta;
use parking_lot::Mutex;
use serde::Serialize;

use super::requests::Requests;
use super::volumes::Volumes;

/// A host port wanted or used.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HostPort {
    /// Address; `0.0.0.0` means all.
    pub ip: Arc<str>,
    /// TCP, UDP or SCTP.
    pub protocol: Arc<str>,
    /// The port, never zero.
    pub port: i32,
}

impl HostPort {
    /// Whether two pods with these ports cannot share a node.
    pub fn conflicts(&self, other: &HostPort) -> bool {
        const ANY: &str = "0.0.0.0";
        self.port == other.port
            && self.protocol == other.protocol
            && (self.ip == other.ip || &*self.ip == ANY || &*other.ip == ANY)
    }
}

/// One inter-pod affinity or anti-affinity term.
#[derive(Clone, Debug)]
pub struct AffinityTerm {
    /// Which pods.
    pub selector: LabelSelector,
    /// In which namespaces (the pod's own when neither list nor selector is given).
    pub namespaces: Vec<String>,
    /// And in namespaces with these labels.
    pub namespace_selector: Option<LabelSelector>,
    /// Over which topology.
    pub topology_key: String,
    /// For preferred terms; zero for required ones.
    pub weight: i64,
}

/// The four lists of inter-pod terms.
#[derive(Clone, Debug, Default)]
pub struct PodAffinity {
    /// Required affinity.
    pub required: Vec<AffinityTerm>,
    /// Required anti-affinity.
    pub required_anti: Vec<AffinityTerm>,
    /// Preferred affinity.
    pub preferred: Vec<AffinityTerm>,
    /// Preferred anti-affinity.
    pub preferred_anti: Vec<AffinityTerm>,
}

impl PodAffinity {
    /// Whether there is no term at all.
    pub fn is_empty(&self) -> bool {
        self.required.is_empty()
            && self.required_anti.is_empty()
            && self.preferred.is_empty()
            && self.preferred_anti.is_empty()
    }
}

/// One topology spread constraint.
#[derive(Clone, Debug)]
pub struct SpreadConstraint {
    /// Allowed skew.
    pub max_skew: i64,
    /// The topology.
    pub topology_key: String,
    /// DoNotSchedule (true) or ScheduleAnyway.
    pub hard: bool,
    /// Which pods count; matchLabelKeys are merged in.
    pub selector: LabelSelector,
    /// Fewer domains than this count as an empty one.
    pub min_domains: i64,
    /// Whether nodes outside of the pod's node affinity are left out.
    pub honor_affinity: bool,
    /// Whether nodes with untolerated taints are left out.
    pub honor_taints: bool,
}

/// The parsed template.
#[derive(Debug)]
pub struct Template {
    /// Unique in this process; never reused.
    pub id: u64,
    /// metadata.namespace
    pub namespace: Arc<str>,
    /// metadata.labels
    pub labels: BTreeMap<String, String>,
    /// spec.schedulerName
    pub scheduler_name: Arc<str>,
    /// spec.priority
    pub priority: i32,
    /// spec.preemptionPolicy == Never
    pub never_preempts: bool,
    /// What it asks of a node.
    pub requests: Requests,
    /// Host ports.
    pub ports: Vec<HostPort>,
    /// spec.tolerations
    pub tolerations: Vec<core::Toleration>,
    /// spec.nodeSelector
    pub node_selector: BTreeMap<String, String>,
    /// Required node affinity; `None` when not given.
    pub node_affinity: Option<Vec<Term>>,
    /// Preferred node affinity.
    pub preferred_nodes: Vec<WeightedTerm>,
    /// Inter-pod terms.
    pub affinity: PodAffinity,
    /// Spread constraints.
    pub spread: Vec<SpreadConstraint>,
    /// Normalised image names of init containers, containers and image volumes (with repetitions).
    pub images: Vec<String>,
    /// Number of init and main containers.
    pub containers: usize,
    /// spec.schedulingGates
    pub gates: Vec<String>,
    /// Controller reference (kind, name) for default spreading.
    pub controller: Option<(String, String)>,
    /// Its volumes.
    pub volumes: Volumes,
    /// Features that its node must declare.
    pub features: Vec<&'static str>,
    /// spec.schedulingGroup.podGroupName
    pub group: Option<Arc<str>>,
    /// spec.resourceClaims
    pub resource_claims: Vec<PodClaim>,
    /// All its containers, init containers first, if any asks for a resource that devices could stand behind.
    pub extended: Vec<ExtendedContainer>,
}

/// An entry of spec.resourceClaims.
#[derive(Clone, Debug)]
pub struct PodClaim {
    /// Its name.
    pub name: String,
    /// The claim.
    pub claim: Option<String>,
    /// Or what it is made from.
    pub template: Option<String>,
}

/// What a container asks for, for claims that the scheduler makes.
#[derive(Clone, Debug)]
pub struct ExtendedContainer {
    /// Its name.
    pub name: String,
    /// Whether it ends before the main containers start.
    pub passing: bool,
    /// All requests, by name; amounts in whole units.
    pub requests: Vec<(String, i64)>,
}

/// What a template is distinguished by; anything else about a pod does not matter to decisions.
#[derive(Serialize)]
struct Identity<'a> {
    namespace: &'a Option<String>,
    labels: &'a Option<BTreeMap<String, String>>,
    owners: Vec<(&'a str, &'a str)>,
    scheduler: &'a Option<String>,
    priority: Option<i32>,
    preemption: &'a Option<String>,
    node_selector: &'a Option<BTreeMap<String, String>>,
    affinity: &'a Option<core::Affinity>,
    tolerations: &'a Option<Vec<core::Toleration>>,
    spread: &'a Option<Vec<core::TopologySpreadConstraint>>,
    overhead: &'a Option<BTreeMap<String, k8s_openapi::apimachinery::pkg::api::resource::Quantity>>,
    resources: &'a Option<core::ResourceRequirements>,
    volumes: Volumes,
    images: Vec<String>,
    gates: &'a Option<Vec<core::PodSchedulingGate>>,
    host_network: Option<bool>,
    host_users: Option<bool>,
    resource_claims: &'a Option<Vec<core::PodResourceClaim>>,
    group: &'a Option<core::PodSchedulingGroup>,
    containers: Vec<ContainerIdentity<'a>>,
    init: Vec<ContainerIdentity<'a>>,
    statuses: Vec<StatusIdentity<'a>>,
    infeasible: bool,
}

#[derive(Serialize)]
struct ContainerIdentity<'a>(
    &'a str,
    &'a Option<String>,
    &'a Option<core::ResourceRequirements>,
    &'a Option<Vec<core::ContainerPort>>,
    &'a Option<String>,
    bool,
);

impl<'a> ContainerIdentity<'a> {
    fn of(container: &'a core::Container) -> Self {
        let core::Container { name, image, resources, ports, restart_policy, .. } = container;
        Self(name, image, resources, ports, restart_policy, restarts_all(container))
    }
}

#[derive(Serialize)]
struct StatusIdentity<'a>(
    &'a str,
    &'a Option<BTreeMap<String, k8s_openapi::apimachinery::pkg::api::resource::Quantity>>,
    &'a Option<core::ResourceRequirements>,
);

/// Whether the end of a container can restart the whole pod.
fn restarts_all(container: &core::Container) -> bool {
    container.restart_policy_rules.iter().flatten().any(|rule| rule.action == "RestartAllContainers")
}

/// Features that not every kubelet has.
fn features(spec: &core::PodSpec) -> Vec<&'static str> {
    let mut features = Vec::new();
    if spec.containers.iter().chain(spec.init_containers.iter().flatten()).any(restarts_all) {
        features.push("RestartAllContainersOnContainerExits");
    }
    if spec.host_network == Some(true) && spec.host_users == Some(false) {
        features.push("UserNamespacesHostNetworkSupport");
    }
    features
}

/// Shares templates between pods.
#[derive(Default)]
pub struct Interner {
    seeds: (RandomState, RandomState),
    next: AtomicU64,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    by_digest: HashMap<u128, Weak<Template>>,
    purge_at: usize,
}

impl Interner {
    /// The template of a pod; the same `Arc` for pods that only differ in what decisions never read.
    pub fn template(&self, pod: &core::Pod) -> Arc<Template> {
        let digest = self.digest(pod);
        let mut known = self.known.lock();
        if let Some(found) = known.by_digest.get(&digest).and_then(Weak::upgrade) {
            return found;
        }
        let template = Arc::new(parse(pod, self.next.fetch_add(1, Ordering::Relaxed) + 1));
        if known.by_digest.len() >= known.purge_at.max(256) {
            known.by_digest.retain(|_, weak| weak.strong_count() > 0);
            known.purge_at = known.by_digest.len() * 2;
        }
        known.by_digest.insert(digest, Arc::downgrade(&template));
        template
    }

    /// A 128-bit keyed digest of the identity: wide and secret enough never to collide.
    fn digest(&self, pod: &core::Pod) -> u128 {
        let mut writer = HashWriter(self.seeds.0.build_hasher(), self.seeds.1.build_hasher());
        if let Some(identity) = identity(pod) {
            let _ = serde_json::to_writer(&mut writer, &identity);
        }
        (u128::from(writer.0.finish()) << 64) | u128::from(writer.1.finish())
    }
}

struct HashWriter<H: Hasher>(H, H);

impl<H: Hasher> std::io::Write for HashWriter<H> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.write(bytes);
        self.1.write(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn identity(pod: &core::Pod) -> Option<Identity<'_>> {
    let spec = pod.spec.as_ref()?;
    let status = pod.status.as_ref();
    let statuses = status.into_iter().flat_map(|status| {
        status.container_statuses.iter().flatten().chain(status.init_container_statuses.iter().flatten())
    });
    Some(Identity {
        namespace: &pod.metadata.namespace,
        labels: &pod.metadata.labels,
        owners: controller(pod).into_iter().collect(),
        scheduler: &spec.scheduler_name,
        priority: spec.priority,
        preemption: &spec.preemption_policy,
        node_selector: &spec.node_selector,
        affinity: &spec.affinity,
        tolerations: &spec.tolerations,
        spread: &spec.topology_spread_constraints,
        overhead: &spec.overhead,
        resources: &spec.resources,
        // Not as they stand in the spec: every pod's token has a name of its own.
        volumes: Volumes::of(spec),
        images: images(spec),
        gates: &spec.scheduling_gates,
        host_network: spec.host_network,
        host_users: spec.host_users,
        resource_claims: &spec.resource_claims,
        group: &spec.scheduling_group,
        containers: spec.containers.iter().map(ContainerIdentity::of).collect(),
        init: spec.init_containers.iter().flatten().map(ContainerIdentity::of).collect(),
        statuses: statuses.map(|s| StatusIdentity(&s.name, &s.allocated_resources, &s.resources)).collect(),
        infeasible: status.and_then(|s| s.conditions.as_ref()).into_iter().flatten().any(|condition| {
            condition.type_ == "PodResizePending" && condition.reason.as_deref() == Some("Infeasible")
        }),
    })
}

fn controller(pod: &core::Pod) -> Option<(&str, &str)> {
    let owner = pod.metadata.owner_references.iter().flatten().find(|owner| owner.controller == Some(true))?;
    Some((owner.kind.as_str(), owner.name.as_str()))
}

fn parse(pod: &core::Pod, id: u64) -> Template {
    let empty = core::PodSpec::default();
    let spec = pod.spec.as_ref().unwrap_or(&empty);
    let namespace: Arc<str> = Arc::from(pod.metadata.namespace.as_deref().unwrap_or_default());
    let labels = pod.metadata.labels.clone().unwrap_or_default();
    let node_affinity = spec.affinity.as_ref().and_then(|affinity| affinity.node_affinity.as_ref());
    Template {
        id,
        affinity: spec.affinity.as_ref().map(|affinity| parse_affinity(affinity, &namespace)).unwrap_or_default(),
        spread: spec.topology_spread_constraints.iter().flatten().map(|c| parse_constraint(c, &labels)).collect(),
        namespace,
        labels,
        scheduler_name: Arc::from(spec.scheduler_name.as_deref().unwrap_or("default-scheduler")),
        priority: spec.priority.unwrap_or(0),
        never_preempts: spec.preemption_policy.as_deref() == Some("Never"),
        requests: Requests::of(pod),
        ports: host_ports(spec),
        tolerations: spec.tolerations.clone().unwrap_or_default(),
        node_selector: spec.node_selector.clone().unwrap_or_default(),
        node_affinity: node_affinity
            .and_then(|affinity| affinity.required_during_scheduling_ignored_during_execution.as_ref())
            .map(Term::parse_all),
        preferred_nodes: node_affinity
            .and_then(|affinity| affinity.preferred_during_scheduling_ignored_during_execution.as_deref())
            .map(WeightedTerm::parse_all)
            .unwrap_or_default(),
        images: images(spec),
        containers: spec.containers.len() + spec.init_containers.as_ref().map_or(0, Vec::len),
        gates: spec.scheduling_gates.iter().flatten().map(|gate| gate.name.clone()).collect(),
        controller: controller(pod).map(|(kind, name)| (kind.to_owned(), name.to_owned())),
        volumes: Volumes::of(spec),
        features: features(spec),
        resource_claims: spec.resource_claims.iter().flatten().map(pod_claim).collect(),
        extended: extended_containers(spec),
        group: spec.scheduling_group.as_ref().and_then(|group| group.pod_group_name.as_deref()).map(Arc::from),
    }
}

fn pod_claim(claim: &core::PodResourceClaim) -> PodClaim {
    PodClaim {
        name: claim.name.clone(),
        claim: claim.resource_claim_name.clone(),
        template: claim.resource_claim_template_name.clone(),
    }
}

fn extended_containers(spec: &core::PodSpec) -> Vec<ExtendedContainer> {
    let init = spec.init_containers.as_deref().unwrap_or_default();
    let all = || init.iter().chain(&spec.containers);
    let requests = |container: &core::Container| container.resources.as_ref().and_then(|r| r.requests.clone());
    let any = all().any(|container| requests(container).iter().flatten().any(|(name, _)| name.contains('/')));
    let amounts = |container: &core::Container| {
        requests(container).into_iter().flatten().map(|(name, amount)| {
            let whole = amount.0.parse::<common::meta::Quantity>().ok().and_then(|amount| amount.as_i64());
            (name, whole.unwrap_or(0))
        })
    };
    let container = |(at, container): (usize, &core::Container)| ExtendedContainer {
        name: container.name.clone(),
        passing: at < init.len() && container.restart_policy.as_deref() != Some("Always"),
        requests: amounts(container).collect(),
    };
    if any { all().enumerate().map(container).collect() } else { Vec::new() }
}

fn host_ports(spec: &core::PodSpec) -> Vec<HostPort> {
    let sidecars =
        spec.init_containers.iter().flatten().filter(|container| container.restart_policy.as_deref() == Some("Always"));
    spec.containers
        .iter()
        .chain(sidecars)
        .flat_map(|container| container.ports.iter().flatten())
        .filter_map(|port| {
            let number = port.host_port.filter(|number| *number > 0)?;
            let or = |value: &Option<String>, default: &str| -> Arc<str> {
                Arc::from(value.as_deref().filter(|text| !text.is_empty()).unwrap_or(default))
            };
            Some(HostPort { ip: or(&port.host_ip, "0.0.0.0"), protocol: or(&port.protocol, "TCP"), port: number })
        })
        .collect()
}

/// An image name with `:latest` when it has no tag.
pub fn normalize_image(name: &str) -> String {
    if name.rfind(':') <= name.rfind('/') { format!("{name}:latest") } else { name.to_owned() }
}

fn images(spec: &core::PodSpec) -> Vec<String> {
    let containers = spec.init_containers.iter().flatten().chain(&spec.containers);
    let volumes = spec.volumes.iter().flatten().filter_map(|volume| volume.image.as_ref());
    containers
        .map(|container| container.image.as_deref().unwrap_or_default())
        .chain(volumes.map(|image| image.reference.as_deref().unwrap_or_default()))
        .map(normalize_image)
        .collect()
}

/// Compiles a selector; none, and a malformed one, selects nothing.
fn compile(selector: Option<&meta::LabelSelector>) -> LabelSelector {
    LabelSelector::from_meta(selector).unwrap_or_else(|_| LabelSelector::nothing())
}

fn parse_affinity(affinity: &core::Affinity, namespace: &str) -> PodAffinity {
    let term = |term: &core::PodAffinityTerm, weight: i64| AffinityTerm {
        selector: compile(term.label_selector.as_ref()),
        namespaces: match (&term.namespaces, &term.namespace_selector) {
            (None, None) => vec![namespace.to_owned()],
            (Some(list), None) if list.is_empty() => vec![namespace.to_owned()],
            (list, _) => list.clone().unwrap_or_default(),
        },
        namespace_selector: term.namespace_selector.as_ref().map(|s| compile(Some(s))),
        topology_key: term.topology_key.clone(),
        weight,
    };
    let required =
        |terms: Option<&Vec<core::PodAffinityTerm>>| terms.into_iter().flatten().map(|t| term(t, 0)).collect();
    let preferred = |terms: Option<&Vec<core::WeightedPodAffinityTerm>>| {
        terms.into_iter().flatten().map(|t| term(&t.pod_affinity_term, i64::from(t.weight))).collect()
    };
    let attract = affinity.pod_affinity.as_ref();
    let repel = affinity.pod_anti_affinity.as_ref();
    PodAffinity {
        required: required(attract.and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref())),
        preferred: preferred(attract.and_then(|a| a.preferred_during_scheduling_ignored_during_execution.as_ref())),
        required_anti: required(repel.and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref())),
        preferred_anti: preferred(repel.and_then(|a| a.preferred_during_scheduling_ignored_during_execution.as_ref())),
    }
}

/// Parses a spread constraint; label keys to match take their values from the pod's own labels.
pub fn parse_constraint(
    constraint: &core::TopologySpreadConstraint,
    labels: &BTreeMap<String, String>,
) -> SpreadConstraint {
    let mut selector = constraint.label_selector.clone();
    for key in constraint.match_label_keys.iter().flatten() {
        if let (Some(value), Some(selector)) = (labels.get(key), selector.as_mut()) {
            selector.match_expressions.get_or_insert_default().push(meta::LabelSelectorRequirement {
                key: key.clone(),
                operator: "In".into(),
                values: Some(vec![value.clone()]),
            });
        }
    }
    SpreadConstraint {
        max_skew: i64::from(constraint.max_skew),
        topology_key: constraint.topology_key.clone(),
        hard: constraint.when_unsatisfiable == "DoNotSchedule",
        selector: compile(selector.as_ref()),
        min_domains: i64::from(constraint.min_domains.unwrap_or(1)),
        honor_affinity: constraint.node_affinity_policy.as_deref() != Some("Ignore"),
        honor_taints: constraint.node_taints_policy.as_deref() == Some("Honor"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_name_of_a_token_volume_makes_no_other_template() {
        let pod = |suffix: &str, claim: &str| -> core::Pod {
            let token = json!({"name": format!("kube-api-access-{suffix}"), "projected": {"sources": []}});
            let data = json!({"name": "data", "persistentVolumeClaim": {"claimName": claim}});
            serde_json::from_value(json!({
                "metadata": {"name": suffix, "namespace": "d", "uid": suffix},
                "spec": {"containers": [{"name": "c", "image": "i"}], "volumes": [data, token]},
            }))
            .unwrap()
        };
        let interner = Interner::default();
        let one = interner.template(&pod("abcde", "x"));
        assert!(Arc::ptr_eq(&one, &interner.template(&pod("fghij", "x"))));
        assert!(!Arc::ptr_eq(&one, &interner.template(&pod("abcde", "y"))), "claims matter");
    }

    #[test]
    fn replicas_share_a_template() {
        let pod = |name: &str, cpu: &str| -> core::Pod {
            serde_json::from_value(json!({
                "metadata": {"name": name, "namespace": "d", "uid": name, "labels": {"app": "x"}},
                "spec": {"containers": [{"name": "c", "image": "i", "resources": {"requests": {"cpu": cpu}}}]},
            }))
            .unwrap()
        };
        let interner = Interner::default();
        let first = interner.template(&pod("a", "1"));
        assert!(Arc::ptr_eq(&first, &interner.template(&pod("b", "1"))));
        assert!(!Arc::ptr_eq(&first, &interner.template(&pod("c", "2"))));
        let id = first.id;
        drop(first);
        assert_ne!(interner.template(&pod("a", "1")).id, id, "ids are never reused");
    }

    #[test]
    fn ports_and_images() {
        let spec: core::PodSpec = serde_json::from_value(json!({
            "containers": [{"name": "c", "image": "reg:5000/app", "ports": [
                {"containerPort": 80, "hostPort": 80}, {"containerPort": 81}]}],
            "initContainers": [{"name": "i", "image": "tool:v1", "ports": [{"containerPort": 9, "hostPort": 9}]}],
        }))
        .unwrap();
        let ports = host_ports(&spec);
        assert_eq!(ports.len(), 1);
        assert_eq!((&*ports[0].ip, &*ports[0].protocol, ports[0].port), ("0.0.0.0", "TCP", 80));
        assert_eq!(images(&spec), ["tool:v1", "reg:5000/app:latest"]);
        let other = HostPort { ip: "10.0.0.1".into(), ..ports[0].clone() };
        assert!(ports[0].conflicts(&other));
        assert!(!ports[0].conflicts(&HostPort { protocol: "UDP".into(), ..other }));
    }
}
