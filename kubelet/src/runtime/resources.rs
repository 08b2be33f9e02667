//! Requests and limits as the kernel takes them: shares, quota, bytes, OOM scores, and the QoS class. Pure.

use k8s_cri::v1::{HugepageLimit, LinuxContainerResources};
use k8s_openapi::api::core::v1::{Container, Pod, PodSpec, ResourceRequirements};

use crate::cgroups;
use crate::node::machine;
use crate::quantity;

const MIN_SHARES: i64 = 2;
const MAX_SHARES: i64 = 262_144;
const MIN_QUOTA: i64 = 1000;
const SYSTEM_CRITICAL_PRIORITY: i32 = 2_000_000_000;

/// Quality of service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Qos {
    /// Requests equal limits everywhere.
    Guaranteed,
    /// Something is asked for.
    Burstable,
    /// Nothing is asked for.
    BestEffort,
}

impl Qos {
    /// As in `status.qosClass`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Guaranteed => "Guaranteed",
            Self::Burstable => "Burstable",
            Self::BestEffort => "BestEffort",
        }
    }
}

/// QoS class of a pod.
pub(crate) fn qos(spec: &PodSpec) -> Qos {
    let mut asked = false;
    let mut guaranteed = true;
    let of_pod = spec.resources.as_ref().filter(|r| r.requests.is_some() || r.limits.is_some());
    let of_containers = spec.init_containers.iter().flatten().chain(&spec.containers).map(|c| c.resources.as_ref());
    let parts: Vec<Option<&ResourceRequirements>> =
        if of_pod.is_some() { vec![of_pod] } else { of_containers.collect() };
    for part in parts {
        let requests = part.and_then(|r| r.requests.as_ref());
        let limits = part.and_then(|r| r.limits.as_ref());
        for name in ["cpu", "memory"] {
            let limit = quantity::milli_of(limits, name);
            let request = requests.and_then(|r| r.get(name)).map_or(limit, quantity::milli);
            asked |= limit > 0 || request > 0;
            guaranteed &= limit > 0 && request == limit;
        }
    }
    match (asked, guaranteed) {
        (false, _) => Qos::BestEffort,
        (true, true) => Qos::Guaranteed,
        (true, false) => Qos::Burstable,
    }
}

/// CPU shares for thousandths of a CPU.
pub(crate) fn shares(milli_cpu: i64) -> i64 {
    (milli_cpu.saturating_mul(1024) / 1000).clamp(MIN_SHARES, MAX_SHARES)
}

/// CFS quota for thousandths of a CPU; 0 = no limit.
pub(crate) fn quota(milli_cpu: i64, period_us: i64) -> i64 {
    if milli_cpu <= 0 { 0 } else { (milli_cpu.saturating_mul(period_us) / 1000).max(MIN_QUOTA) }
}

/// Whether the node cannot do without the pod.
pub(crate) fn is_critical(pod: &Pod) -> bool {
    let annotations = pod.metadata.annotations.as_ref();
    let source = annotations.and_then(|annotations| annotations.get("kubernetes.io/config.source"));
    source.is_some_and(|source| source != "api")
        || annotations.is_some_and(|annotations| annotations.contains_key("kubernetes.io/config.mirror"))
        || pod.spec.as_ref().and_then(|spec| spec.priority).is_some_and(|priority| priority >= SYSTEM_CRITICAL_PRIORITY)
}

/// `oom_score_adj` of a container: the less of its memory was asked for, the sooner it goes.
pub(crate) fn oom_score_adj(pod: &Pod, container: &Container, memory_capacity: i64) -> i64 {
    let Some(spec) = &pod.spec else { return 1000 };
    if is_critical(pod) {
        return -997;
    }
    match qos(spec) {
        Qos::Guaranteed => -997,
        Qos::BestEffort => 1000,
        Qos::Burstable => {
            let requests = container.resources.as_ref().and_then(|r| r.requests.as_ref());
            let limits = container.resources.as_ref().and_then(|r| r.limits.as_ref());
            let request = match quantity::of(requests, "memory") {
                0 => quantity::of(limits, "memory"),
                request => request,
            };
            let part = 1000i128 * i128::from(request) / i128::from(memory_capacity.max(1));
            (1000 - i64::try_from(part).unwrap_or(1000)).clamp(3, 999)
        }
    }
}

/// Settings of the node that bear on limits.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LimitSettings {
    pub(crate) cfs_quota: bool,
    pub(crate) period_us: i64,
    pub(crate) memory_capacity: i64,
    pub(crate) cgroup_v2: bool,
    pub(crate) single_process_oom_kill: bool,
    pub(crate) swap: SwapSettings,
}

/// What pods may swap.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct SwapSettings {
    /// The kernel counts it per cgroup.
    pub(crate) counted: bool,
    /// In proportion to memory requests, instead of none.
    pub(crate) limited: bool,
    /// Bytes of the node.
    pub(crate) capacity: i64,
}

/// Bytes that a container may swap: its share of the node's swap is its share of the memory (KEP-2400).
#[allow(clippy::cast_possible_truncation, clippy::cast_precision_loss, reason = "a byte more or less")]
fn swap_limit(pod: &Pod, container: &Container, settings: LimitSettings) -> i64 {
    let requests = container.resources.as_ref().and_then(|r| r.requests.as_ref());
    let limits = container.resources.as_ref().and_then(|r| r.limits.as_ref());
    let request = quantity::of(requests, "memory");
    let burstable = pod.spec.as_ref().is_some_and(|spec| qos(spec) == Qos::Burstable);
    let eligible = settings.swap.limited && burstable && !is_critical(pod);
    if !eligible || request == quantity::of(limits, "memory") || request > settings.memory_capacity {
        return 0;
    }
    (request as f64 / settings.memory_capacity.max(1) as f64 * settings.swap.capacity as f64) as i64
}

/// A container's limits for the CRI.
pub(crate) fn container(pod: &Pod, container: &Container, settings: LimitSettings) -> LinuxContainerResources {
    let requests = container.resources.as_ref().and_then(|r| r.requests.as_ref());
    let limits = container.resources.as_ref().and_then(|r| r.limits.as_ref());
    let cpu_limit = quantity::milli_of(limits, "cpu");
    let cpu_request = match requests.and_then(|requests| requests.get("cpu")) {
        Some(request) => quantity::milli(request),
        None => cpu_limit,
    };
    let mut linux = LinuxContainerResources {
        cpu_shares: shares(cpu_request),
        memory_limit_in_bytes: quantity::of(limits, "memory"),
        oom_score_adj: oom_score_adj(pod, container, settings.memory_capacity),
        ..Default::default()
    };
    if settings.cfs_quota {
        linux.cpu_period = settings.period_us;
        linux.cpu_quota = quota(cpu_limit, settings.period_us);
    }
    if settings.cgroup_v2 && !settings.single_process_oom_kill {
        linux.unified.insert("memory.oom.group".into(), "1".into());
    }
    match (settings.swap.counted, settings.cgroup_v2) {
        (true, true) => {
            let limit = swap_limit(pod, container, settings);
            linux.unified.insert("memory.swap.max".into(), limit.to_string());
        }
        // Memory and swap together: no more than memory.
        (true, false) => linux.memory_swap_limit_in_bytes = linux.memory_limit_in_bytes,
        (false, _) => {}
    }
    linux
}

/// What the CRI is told of an amount of CPU and memory: shares of the request, quota and bytes of the limits.
fn bounds(cpu_request: i64, cpu_limit: i64, memory_limit: i64, settings: LimitSettings) -> LinuxContainerResources {
    let asked = if cpu_request == 0 { cpu_limit } else { cpu_request };
    let mut linux = LinuxContainerResources {
        cpu_shares: shares(asked),
        memory_limit_in_bytes: memory_limit.max(0),
        ..Default::default()
    };
    if settings.cfs_quota {
        linux.cpu_period = settings.period_us;
        linux.cpu_quota = quota(cpu_limit, settings.period_us);
    }
    linux
}

/// What runtimes that start a machine for a pod want to know beforehand: its overhead, and what its containers need together.
pub(crate) fn sandbox(spec: &PodSpec, settings: LimitSettings) -> (LinuxContainerResources, LinuxContainerResources) {
    let (cpu, memory) =
        (quantity::milli_of(spec.overhead.as_ref(), "cpu"), quantity::of(spec.overhead.as_ref(), "memory"));
    let overhead = match &spec.overhead {
        Some(_) => bounds(cpu, cpu, memory, settings),
        None => LinuxContainerResources::default(),
    };
    let without = PodSpec { overhead: None, ..spec.clone() };
    let total = |name, limits| pod_total(&without, name, limits);
    (overhead, bounds(total("cpu", false), total("cpu", true), total("memory", true), settings))
}

/// Huge pages that a container may use, of every size that the node has; of those that it does not ask for none.
pub(crate) fn huge_pages(container: &Container, sizes: &[(i64, i64)]) -> Vec<HugepageLimit> {
    let limits = container.resources.as_ref().and_then(|r| r.limits.as_ref());
    let of = |(size, _): &(i64, i64)| HugepageLimit {
        page_size: cgroups::page_size(*size),
        limit: u64::try_from(quantity::of(limits, &machine::huge_page_resource(*size))).unwrap_or(0),
    };
    sizes.iter().map(of).collect()
}

/// Sum of a pod's containers' requests or limits, init containers and sidecars counted as the scheduler counts them,
/// plus overhead. In thousandths for `cpu`, in units otherwise.
pub(crate) fn pod_total(spec: &PodSpec, name: &str, limits: bool) -> i64 {
    let of = |resources: Option<&ResourceRequirements>| {
        let list = resources.and_then(|r| if limits { r.limits.as_ref() } else { r.requests.as_ref() });
        if name == "cpu" { quantity::milli_of(list, name) } else { quantity::of(list, name) }
    };
    let own = of(spec.resources.as_ref());
    let overhead = match name {
        "cpu" => quantity::milli_of(spec.overhead.as_ref(), name),
        _ => quantity::of(spec.overhead.as_ref(), name),
    };
    if own > 0 {
        return own + overhead;
    }
    let mut total: i64 = spec.containers.iter().map(|container| of(container.resources.as_ref())).sum();
    let (mut sidecars, mut peak) = (0, 0);
    for init in spec.init_containers.iter().flatten() {
        let value = of(init.resources.as_ref());
        if init.restart_policy.as_deref() == Some("Always") {
            sidecars += value;
            peak = peak.max(sidecars);
        } else {
            peak = peak.max(sidecars + value);
        }
    }
    total += sidecars;
    total.max(peak) + if limits && total.max(peak) == 0 { 0 } else { overhead }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(resources: &[(&str, &str, &str)]) -> PodSpec {
        let mut requirements = ResourceRequirements::default();
        for (list, name, value) in resources {
            let target = if *list == "l" { &mut requirements.limits } else { &mut requirements.requests };
            target.get_or_insert_default().insert(
                (*name).to_owned(),
                k8s_openapi::apimachinery::pkg::api::resource::Quantity((*value).to_owned()),
            );
        }
        let container = Container { name: "c".into(), resources: Some(requirements), ..Default::default() };
        PodSpec { containers: vec![container], ..Default::default() }
    }

    #[test]
    fn qos_classes() {
        assert_eq!(qos(&spec(&[])), Qos::BestEffort);
        assert_eq!(qos(&spec(&[("r", "cpu", "1")])), Qos::Burstable);
        assert_eq!(qos(&spec(&[("l", "cpu", "1"), ("l", "memory", "1Gi")])), Qos::Guaranteed);
        assert_eq!(qos(&spec(&[("r", "cpu", "500m"), ("l", "cpu", "1"), ("l", "memory", "1Gi")])), Qos::Burstable);
    }

    #[test]
    fn cpu_numbers() {
        assert_eq!(shares(0), 2);
        assert_eq!(shares(500), 512);
        assert_eq!(quota(0, 100_000), 0);
        assert_eq!(quota(250, 100_000), 25_000);
        assert_eq!(quota(1, 100_000), 1000);
    }

    #[test]
    fn swap_is_shared_by_memory_requests() {
        for (resources, limited, want) in [
            (&[("r", "memory", "1Gi")][..], true, "1073741824"),
            (&[("r", "memory", "1Gi")], false, "0"),
            (&[("r", "cpu", "1")], true, "0"),
            (&[("l", "memory", "1Gi"), ("r", "memory", "1Gi")], true, "0"),
            (&[], true, "0"),
        ] {
            let pod = Pod { spec: Some(spec(resources)), ..Default::default() };
            let swap = SwapSettings { counted: true, limited, capacity: 4 << 30 };
            let settings = LimitSettings {
                cfs_quota: true,
                period_us: 100_000,
                memory_capacity: 4 << 30,
                cgroup_v2: true,
                single_process_oom_kill: false,
                swap,
            };
            let of = |settings| container(&pod, &pod.spec.as_ref().unwrap().containers[0], settings);
            assert_eq!(of(settings).unified["memory.swap.max"], want, "{resources:?} {limited}");
            let old = of(LimitSettings { cgroup_v2: false, ..settings });
            assert_eq!(old.memory_swap_limit_in_bytes, old.memory_limit_in_bytes);
        }
    }

    #[test]
    fn runtimes_know_what_a_pod_needs() {
        let mut spec =
            spec(&[("r", "cpu", "500m"), ("l", "cpu", "1"), ("l", "memory", "1Gi"), ("l", "hugepages-2Mi", "4Mi")]);
        let settings = LimitSettings {
            cfs_quota: true,
            period_us: 100_000,
            memory_capacity: 4 << 30,
            cgroup_v2: true,
            single_process_oom_kill: false,
            swap: SwapSettings::default(),
        };
        assert_eq!(sandbox(&spec, settings).0, LinuxContainerResources::default());
        let amount = |text: &str| k8s_openapi::apimachinery::pkg::api::resource::Quantity(text.to_owned());
        spec.overhead = Some([("cpu".to_owned(), amount("250m")), ("memory".to_owned(), amount("64Mi"))].into());
        let (overhead, containers) = sandbox(&spec, settings);
        let numbers = |linux: LinuxContainerResources| (linux.cpu_shares, linux.cpu_quota, linux.memory_limit_in_bytes);
        assert_eq!(numbers(overhead), (256, 25_000, 64 << 20));
        assert_eq!(numbers(containers), (512, 100_000, 1 << 30));
        let pages = huge_pages(&spec.containers[0], &[(2 << 20, 8), (1 << 30, 0)]);
        let pages: Vec<_> = pages.into_iter().map(|pages| (pages.page_size, pages.limit)).collect();
        assert_eq!(pages, [("2MB".to_owned(), 4 << 20), ("1GB".to_owned(), 0)]);
    }

    #[test]
    fn oom_scores() {
        let adj = |resources: &[(&str, &str, &str)]| {
            let pod = Pod { spec: Some(spec(resources)), ..Default::default() };
            oom_score_adj(&pod, &pod.spec.as_ref().expect("spec").containers[0], 4 << 30)
        };
        assert_eq!(adj(&[]), 1000);
        assert_eq!(adj(&[("l", "cpu", "1"), ("l", "memory", "1Gi")]), -997);
        assert_eq!(adj(&[("r", "memory", "1Gi")]), 750);
        assert_eq!(adj(&[("r", "cpu", "1")]), 999);
        assert_eq!(adj(&[("r", "memory", "4Gi")]), 3);
    }
}
