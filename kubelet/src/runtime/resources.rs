//! Requests and limits as the kernel takes them: shares, quota, bytes, OOM scores, and the QoS class. Pure.

use k8s_cri::v1::LinuxContainerResources;
use k8s_openapi::api::core::v1::{Container, Pod, PodSpec, ResourceRequirements};

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
    linux
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
