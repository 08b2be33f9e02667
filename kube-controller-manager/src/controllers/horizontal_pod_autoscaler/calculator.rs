//! From metrics to a number of replicas: the ratio of what is used to what is wanted, careful about pods that say nothing. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use common::meta::Quantity;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Container, Pod};

use crate::shared::meta::MetaExt;
use crate::shared::pods;

const NO_PODS: &str = "no pods returned by selector while calculating replica count";
const NO_METRICS: &str = "did not receive metrics for targeted pods (pods might be unready)";

/// What one pod reported, in thousandths.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Sample {
    pub(super) at: Timestamp,
    /// Over which time it was measured.
    pub(super) window: SignedDuration,
    pub(super) value: i64,
}

/// By pod name.
pub(super) type Samples = BTreeMap<String, Sample>;

/// Within these the ratio counts as one.
#[derive(Debug, Clone, Copy)]
pub(super) struct Tolerances {
    pub(super) down: f64,
    pub(super) up: f64,
}

impl Tolerances {
    fn contain(self, ratio: f64) -> bool {
        1.0 - self.down <= ratio && ratio <= 1.0 + self.up
    }
}

/// What the calculations are about.
pub(super) struct Calculator<'a> {
    /// The pods of the target.
    pub(super) pods: &'a [Arc<Pod>],
    pub(super) current: i32,
    pub(super) tolerances: Tolerances,
    /// After its start a pod's CPU usage counts only from when it was ready.
    pub(super) cpu_initialization: SignedDuration,
    /// A pod that was never ready since then has never been.
    pub(super) initial_readiness: SignedDuration,
    pub(super) now: Timestamp,
}

/// A number of replicas, and what is used: the average, and for utilization the percentage.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Proposal {
    pub(super) replicas: i32,
    pub(super) usage: i64,
    pub(super) utilization: Option<i32>,
}

#[derive(Default)]
struct Groups {
    ready: usize,
    unready: BTreeSet<String>,
    missing: BTreeSet<String>,
    ignored: BTreeSet<String>,
}

fn ceil(number: f64) -> i32 {
    // Saturates, and makes zero of what is no number.
    number.ceil() as i32
}

impl Calculator<'_> {
    /// By the average percentage of what the pods request.
    ///
    /// # Errors
    /// Upstream's texts: no pods, no metrics, no requests.
    pub(super) fn by_utilization(
        &self,
        samples: Samples,
        target: i32,
        resource: &str,
        container: &str,
    ) -> Result<Proposal, String> {
        let fallback = i64::from(target.max(100));
        let mut requests = BTreeMap::new();
        let (samples, groups) = self.sort_out(samples, resource)?;
        for pod in self.pods {
            requests.insert(pod.name_str().to_owned(), request(pod, container, resource)?);
        }
        let ratio = |samples: &Samples| utilization(samples, &requests, target);
        let (first, percent, average) = ratio(&samples)?;
        let missing = |name: &str| requests.get(name).copied().unwrap_or(0) * fallback / 100;
        let replicas = self.replicas(samples, &groups, first, missing, |s| ratio(s).map(|r| r.0))?;
        Ok(Proposal { replicas, usage: average, utilization: Some(percent) })
    }

    /// By the average value per pod.
    ///
    /// # Errors
    /// Upstream's texts: no pods, no metrics.
    pub(super) fn by_value(&self, samples: Samples, target: i64, resource: &str) -> Result<Proposal, String> {
        let (samples, groups) = self.sort_out(samples, resource)?;
        let average = |samples: &Samples| {
            let total: i64 = samples.values().map(|s| s.value).fold(0, i64::saturating_add);
            total / i64::try_from(samples.len()).unwrap_or(1).max(1)
        };
        let ratio = |samples: &Samples| Ok(average(samples) as f64 / target as f64);
        let usage = average(&samples);
        let first = usage as f64 / target as f64;
        let replicas = self.replicas(samples, &groups, first, |_| target, ratio)?;
        Ok(Proposal { replicas, usage, utilization: None })
    }

    /// By one value for the whole target.
    ///
    /// # Errors
    /// No pods.
    pub(super) fn by_total(&self, usage: i64, target: i64) -> Result<Proposal, String> {
        let ratio = usage as f64 / target as f64;
        let replicas = if self.current == 0 {
            ceil(ratio)
        } else if self.tolerances.contain(ratio) {
            self.current
        } else {
            if self.pods.is_empty() {
                return Err(format!("unable to calculate ready pods: {NO_PODS}"));
            }
            let ready = self.pods.iter().filter(|p| pods::phase(p) == "Running" && pods::is_ready(p)).count();
            ceil(ratio * ready as f64)
        };
        Ok(Proposal { replicas, usage, utilization: None })
    }

    /// By one value that the pods share; `there` is how many there are.
    pub(super) fn by_share(&self, usage: i64, target: i64, there: i32) -> Proposal {
        let ratio = usage as f64 / (target as f64 * f64::from(there));
        let replicas = if self.tolerances.contain(ratio) { there } else { ceil(usage as f64 / target as f64) };
        let usage = if usage == i64::MAX { usage } else { (usage as f64 / f64::from(there)).ceil() as i64 };
        Proposal { replicas, usage, utilization: None }
    }

    fn sort_out(&self, mut samples: Samples, resource: &str) -> Result<(Samples, Groups), String> {
        if self.pods.is_empty() {
            return Err(NO_PODS.into());
        }
        let mut groups = Groups::default();
        for pod in self.pods {
            let name = pod.name_str();
            let group = if pod.is_deleting() || pods::phase(pod) == "Failed" {
                &mut groups.ignored
            } else if pods::phase(pod) == "Pending" {
                &mut groups.unready
            } else {
                match samples.get(name) {
                    None => &mut groups.missing,
                    Some(sample) if resource == "cpu" && self.is_warming_up(pod, sample) => &mut groups.unready,
                    Some(_) => {
                        groups.ready += 1;
                        continue;
                    }
                }
            };
            group.insert(name.to_owned());
        }
        samples.retain(|name, _| !groups.ignored.contains(name) && !groups.unready.contains(name));
        if samples.is_empty() { Err(NO_METRICS.into()) } else { Ok((samples, groups)) }
    }

    /// CPU usage while a pod starts says nothing about its load.
    fn is_warming_up(&self, pod: &Pod, sample: &Sample) -> bool {
        let started = pod.status.as_ref().and_then(|s| s.start_time.as_ref()).map(|t| t.0);
        let (Some(ready), Some(started)) = (pods::condition(pod, "Ready"), started) else { return true };
        let changed = ready.last_transition_time.as_ref().map_or(Timestamp::UNIX_EPOCH, |t| t.0);
        if started + self.cpu_initialization > self.now {
            ready.status == "False" || sample.at < changed + sample.window
        } else {
            ready.status == "False" && started + self.initial_readiness > changed
        }
    }

    /// Pods without metrics are taken to use what makes the least of a change; if that turns the direction, nothing changes.
    fn replicas(
        &self,
        mut samples: Samples,
        groups: &Groups,
        first: f64,
        fallback: impl Fn(&str) -> i64,
        ratio: impl Fn(&Samples) -> Result<f64, String>,
    ) -> Result<i32, String> {
        let with_unready = !groups.unready.is_empty() && first > 1.0;
        if !with_unready && groups.missing.is_empty() {
            let same = self.tolerances.contain(first);
            return Ok(if same { self.current } else { ceil(first * groups.ready as f64) });
        }
        let assumed = |value| Sample { at: self.now, window: SignedDuration::ZERO, value };
        for name in &groups.missing {
            if first < 1.0 {
                samples.insert(name.clone(), assumed(fallback(name)));
            } else if first > 1.0 {
                samples.insert(name.clone(), assumed(0));
            }
        }
        if with_unready {
            samples.extend(groups.unready.iter().map(|name| (name.clone(), assumed(0))));
        }
        let second = ratio(&samples)?;
        if self.tolerances.contain(second) || (first < 1.0 && second > 1.0) || (first > 1.0 && second < 1.0) {
            return Ok(self.current);
        }
        let new = ceil(second * samples.len() as f64);
        let turned = (second < 1.0 && new > self.current) || (second > 1.0 && new < self.current);
        Ok(if turned { self.current } else { new })
    }
}

fn utilization(samples: &Samples, requests: &BTreeMap<String, i64>, target: i32) -> Result<(f64, i32, i64), String> {
    let (mut used, mut requested, mut count) = (0_i64, 0_i64, 0_i64);
    for (name, sample) in samples {
        let Some(request) = requests.get(name) else { continue };
        used = used.saturating_add(sample.value);
        requested = requested.saturating_add(*request);
        count += 1;
    }
    if requested == 0 {
        return Err("no metrics returned matched known pods".into());
    }
    let percent = i32::try_from(used.saturating_mul(100) / requested).unwrap_or(i32::MAX);
    Ok((f64::from(percent) / f64::from(target), percent, used / count))
}

/// What the pod, or one container of it, requests of a resource; in thousandths.
fn request(pod: &Pod, container: &str, resource: &str) -> Result<i64, String> {
    let name = pod.name_str();
    let milli = |list: Option<&BTreeMap<String, k8s_openapi::apimachinery::pkg::api::resource::Quantity>>| {
        let quantity = list?.get(resource)?;
        Quantity::try_from(quantity).ok().map(|q| q.milli_value())
    };
    let Some(spec) = &pod.spec else { return Ok(0) };
    let of_pod = spec.resources.as_ref().and_then(|r| r.requests.as_ref()).filter(|r| !r.is_empty());
    if container.is_empty() && of_pod.is_some() {
        // What the pod does not say, its containers do.
        let sum =
            || spec.containers.iter().map(|c| milli(c.resources.as_ref()?.requests.as_ref())).sum::<Option<i64>>();
        return milli(of_pod)
            .or_else(sum)
            .ok_or_else(|| format!("missing pod-level request for {resource} in Pod {name}"));
    }
    let is_sidecar = |c: &&Container| c.restart_policy.as_deref() == Some("Always");
    let all = spec.containers.iter().chain(spec.init_containers.iter().flatten().filter(is_sidecar));
    let mut chosen = all.filter(|c| container.is_empty() || c.name == container).peekable();
    if chosen.peek().is_none() && !container.is_empty() {
        return Err(format!("container {container} not found in Pod {name}"));
    }
    let missing = |c: &Container| format!("missing request for {resource} in container {} of Pod {name}", c.name);
    let of = |c: &Container| milli(c.resources.as_ref().and_then(|r| r.requests.as_ref())).ok_or_else(|| missing(c));
    chosen.map(of).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(name: &str, phase: &str) -> Arc<Pod> {
        Arc::new(
            serde_json::from_value(json!({"metadata": {"name": name}, "spec": {"containers": [
                {"name": "c", "resources": {"requests": {"cpu": "1"}}}]},
            "status": {"phase": phase, "startTime": "2026-01-01T00:00:00Z",
                "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:01Z"}]}}))
            .unwrap(),
        )
    }

    fn calculator(pods: &[Arc<Pod>], current: i32) -> Calculator<'_> {
        Calculator {
            pods,
            current,
            tolerances: Tolerances { down: 0.1, up: 0.1 },
            cpu_initialization: SignedDuration::from_mins(5),
            initial_readiness: SignedDuration::from_secs(30),
            now: "2026-01-01T01:00:00Z".parse().unwrap(),
        }
    }

    fn samples(values: &[(&str, i64)]) -> Samples {
        let at = "2026-01-01T00:59:30Z".parse().unwrap();
        values
            .iter()
            .map(|(n, value)| ((*n).to_owned(), Sample { at, window: SignedDuration::from_secs(30), value: *value }))
            .collect()
    }

    #[test]
    fn utilizations() {
        let three = [pod("a", "Running"), pod("b", "Running"), pod("c", "Running")];
        let by = |pods: &[Arc<Pod>], values: &[(&str, i64)], target| {
            let current = i32::try_from(pods.len()).unwrap();
            calculator(pods, current)
                .by_utilization(samples(values), target, "cpu", "")
                .map(|p| (p.replicas, p.utilization.unwrap()))
        };
        assert_eq!(by(&three, &[("a", 300), ("b", 500), ("c", 700)], 30), Ok((5, 50)));
        assert_eq!(by(&three, &[("a", 500), ("b", 500), ("c", 500)], 49), Ok((3, 50)));
        assert_eq!(by(&three, &[("a", 100), ("b", 100), ("c", 100)], 50), Ok((1, 10)));
        // One says nothing: it may be idle when the others ask for more, and busy when they ask for less.
        assert_eq!(by(&three, &[("a", 900), ("b", 900)], 50), Ok((4, 90)));
        assert_eq!(by(&three, &[("a", 100), ("b", 100)], 50), Ok((3, 10)));
        let starting = [pod("a", "Running"), pod("b", "Running"), pod("c", "Pending")];
        assert_eq!(by(&starting, &[("a", 900), ("b", 900)], 50), Ok((4, 90)));
        assert_eq!(by(&starting, &[("a", 100), ("b", 100)], 50), Ok((1, 10)));
        assert_eq!(by(&[], &[], 50), Err(NO_PODS.into()));
        assert_eq!(by(&three, &[], 50), Err(NO_METRICS.into()));
        assert_eq!(
            calculator(&three, 3).by_utilization(samples(&[("a", 1)]), 50, "memory", ""),
            Err("missing request for memory in container c of Pod a".into())
        );
        assert_eq!(
            calculator(&three, 3).by_utilization(samples(&[("a", 1)]), 50, "cpu", "x"),
            Err("container x not found in Pod a".into())
        );
    }

    #[test]
    fn values() {
        let three = [pod("a", "Running"), pod("b", "Running"), pod("c", "Failed")];
        let c = calculator(&three, 3);
        let proposal = c.by_value(samples(&[("a", 2000), ("b", 4000), ("c", 9000)]), 1000, "").unwrap();
        assert_eq!((proposal.replicas, proposal.usage), (6, 3000));
        assert_eq!(c.by_total(20_000, 10_000).unwrap().replicas, 4);
        assert_eq!(c.by_total(10_500, 10_000).unwrap().replicas, 3);
        assert_eq!(calculator(&[], 0).by_total(25_000, 10_000).unwrap().replicas, 3);
        assert!(calculator(&[], 2).by_total(25_000, 10_000).is_err());
        assert_eq!(c.by_share(8600, 2000, 4), Proposal { replicas: 4, usage: 2150, utilization: None });
        assert_eq!(c.by_share(8600, 1000, 4), Proposal { replicas: 9, usage: 2150, utilization: None });
    }
}
