//! Limits of a pod's cgroup from its spec. Pure.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::PodSpec;

use crate::node::machine;
use crate::quantity;
use crate::runtime::resources::{Qos, pod_total, quota, shares};

/// Limits of one cgroup; `None` leaves the kernel's value.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Limits {
    pub(crate) cpu_shares: Option<i64>,
    /// (quota, period) in microseconds.
    pub(crate) cpu_quota: Option<(i64, i64)>,
    pub(crate) memory: Option<i64>,
    pub(crate) pids: Option<i64>,
    /// Bytes by page size; `None` = unbounded.
    pub(crate) huge_pages: BTreeMap<i64, Option<i64>>,
}

impl Limits {
    /// Of each bound the wider one; a bound that only one of them has is left as the kernel has it.
    pub(crate) fn or_wider(self, other: &Self) -> Self {
        let wider = |one: Option<i64>, other: Option<i64>| one.zip(other).map(|(one, other)| one.max(other));
        Self {
            cpu_shares: wider(self.cpu_shares, other.cpu_shares),
            cpu_quota: self.cpu_quota.zip(other.cpu_quota).map(|(one, other)| one.max(other)),
            memory: wider(self.memory, other.memory),
            ..self
        }
    }
}

/// What a pod's cgroup is limited to. A quota or memory limit holds only when every container has one; huge pages that were not
/// asked for may not be used at all.
pub(crate) fn pod(spec: &PodSpec, qos: Qos, period_us: i64, cfs_quota: bool, page_sizes: &[i64]) -> Limits {
    let asked = |size: &i64| pod_total(spec, &machine::huge_page_resource(*size), false);
    let huge_pages = page_sizes.iter().map(|size| (*size, Some(asked(size)))).collect();
    if qos == Qos::BestEffort {
        return Limits { cpu_shares: Some(2), huge_pages, ..Limits::default() };
    }
    let of_pod = |name: &str| {
        spec.resources
            .as_ref()
            .and_then(|r| r.limits.as_ref())
            .is_some_and(|list| quantity::milli_of(Some(list), name) > 0)
    };
    let all_limited = |name: &str| {
        of_pod(name)
            || spec.init_containers.iter().flatten().chain(&spec.containers).all(|container| {
                let limits = container.resources.as_ref().and_then(|r| r.limits.as_ref());
                quantity::milli_of(limits, name) > 0
            })
    };
    let cpu_limit = pod_total(spec, "cpu", true);
    Limits {
        cpu_shares: Some(shares(pod_total(spec, "cpu", false).max(request_by_limit(spec)))),
        cpu_quota: (cfs_quota && all_limited("cpu")).then(|| (quota(cpu_limit, period_us), period_us)),
        memory: all_limited("memory").then(|| pod_total(spec, "memory", true)),
        pids: None,
        huge_pages,
    }
}

/// A guaranteed pod that was never defaulted asks for its limit.
fn request_by_limit(spec: &PodSpec) -> i64 {
    if pod_total(spec, "cpu", false) == 0 { pod_total(spec, "cpu", true) } else { 0 }
}
