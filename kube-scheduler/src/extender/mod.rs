//! HTTP extenders: other programs that filter, score, choose victims or bind, asked one after the other once the plugins
//! have had their say.

use std::sync::Arc;

use common::informer::Informer;
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};
use tokio::runtime::Handle;

use crate::cache::snapshot::Snapshot;
use crate::config::types::ExtenderConfig;
use crate::framework::diagnosis::Diagnosis;
use crate::framework::plugin::{CycleContext, MAX_SCORE};
use crate::framework::pod::PodInfo;
use crate::framework::status::Status;
use crate::preemption::Candidate;

pub mod http;
pub mod wire;

#[cfg(test)]
mod tests;

use self::http::Extender;

/// Stands for the extenders among the plugins that rejected a pod: any event may change their minds.
pub const NAME: &str = "Extender";
/// The highest score that an extender gives.
const MAX_PRIORITY: i64 = 10;

/// All extenders; those whose failure may be ignored come last.
#[derive(Default)]
pub struct Extenders {
    list: Vec<Extender>,
    pods: Option<Arc<Informer<Pod>>>,
    runtime: Option<Handle>,
}

impl Extenders {
    /// From their configuration; the informer has pods as they were sent. Must be called within a runtime.
    pub fn new(configs: &[ExtenderConfig], pods: Arc<Informer<Pod>>) -> Result<Self, String> {
        let mut list: Vec<_> = configs.iter().map(Extender::new).collect::<Result<_, _>>()?;
        list.sort_by_key(|extender| extender.config.ignorable);
        Ok(Self { list, pods: Some(pods), runtime: Handle::try_current().ok() })
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Whether any of them filters.
    pub fn filters(&self) -> bool {
        self.list.iter().any(|extender| !extender.config.filter_verb.is_empty())
    }

    /// Whether any of them scores.
    pub fn scores(&self) -> bool {
        self.list.iter().any(|extender| !extender.config.prioritize_verb.is_empty())
    }

    fn pod(&self, pod: &PodInfo) -> Value {
        let found = self.pods.as_ref().and_then(|pods| pods.get(pod.namespace(), &pod.name));
        found.and_then(|pod| serde_json::to_value(&*pod).ok()).unwrap_or(Value::Null)
    }

    /// Waits for an answer on the scheduling thread.
    fn ask<T>(&self, question: impl Future<Output = Result<T, String>>) -> Result<T, String> {
        let runtime = self.runtime.as_ref().ok_or("no runtime to ask extenders on")?;
        runtime.block_on(question)
    }

    fn about(&self, extender: &Extender, cx: &CycleContext<'_>, nodes: &[u32]) -> Value {
        let slots = nodes.iter().map(|slot| *slot as usize);
        let pod = self.pod(cx.pod);
        if extender.config.node_cache_capable {
            let names: Vec<&str> = slots.map(|slot| &*cx.snapshot.names[slot]).collect();
            return json!({"Pod": pod, "Nodes": null, "NodeNames": names});
        }
        let nodes: Vec<_> = slots.filter_map(|slot| cx.snapshot.nodes[slot].as_deref()).collect();
        json!({"Pod": pod, "Nodes": {"metadata": {}, "items": nodes}, "NodeNames": null})
    }

    /// Leaves those of the nodes that every extender agrees to; notes the others' reasons.
    pub fn filter(
        &self,
        cx: &CycleContext<'_>,
        mut nodes: Vec<u32>,
        diagnosis: &mut Diagnosis,
    ) -> Result<Vec<u32>, Arc<Status>> {
        let before = nodes.len();
        for extender in self.list.iter().filter(|extender| extender.interested(cx.pod)) {
            if nodes.is_empty() {
                break;
            }
            if extender.config.filter_verb.is_empty() {
                continue;
            }
            match self.filter_by(extender, cx, &nodes, diagnosis) {
                Ok(left) => nodes = left,
                Err(error) if extender.config.ignorable => ignored(extender, &error),
                Err(error) => return Err(Status::error("", error)),
            }
        }
        if nodes.len() != before {
            diagnosis.unschedulable.insert(NAME);
        }
        Ok(nodes)
    }

    fn filter_by(
        &self,
        extender: &Extender,
        cx: &CycleContext<'_>,
        nodes: &[u32],
        diagnosis: &mut Diagnosis,
    ) -> Result<Vec<u32>, String> {
        let answer = self.ask(extender.filter(&self.about(extender, cx, nodes)))?;
        let names: Vec<String> = match (answer.nodenames, answer.nodes) {
            (Some(names), _) if extender.config.node_cache_capable => names,
            (_, Some(list)) => list.items.unwrap_or_default().into_iter().map(|node| node.metadata.name).collect(),
            _ => Vec::new(),
        };
        let slot = |name: &String| cx.snapshot.by_name.get(name.as_str()).copied().filter(|slot| nodes.contains(slot));
        let left: Result<Vec<u32>, String> = names
            .iter()
            .map(|name| {
                let url = &extender.config.url_prefix;
                slot(name).ok_or_else(|| {
                    format!(
                        "extender {url:?} claims a filtered node {name:?} which is not found in the input node list"
                    )
                })
            })
            .collect();
        let left = left?;
        let hopeless = answer.failedandunresolvablenodes.unwrap_or_default();
        let failed = answer.failednodes.unwrap_or_default();
        let failed = failed.iter().filter(|(name, _)| !hopeless.contains_key(*name));
        let all = hopeless.iter().map(|(name, reason)| (name, Status::unresolvable("", reason.clone())));
        let all = all.chain(failed.map(|(name, reason)| (name, Status::unschedulable("", reason.clone()))));
        diagnosis.failures.extend(all.filter_map(|(name, status)| Some((slot(name)?, status))));
        Ok(left)
    }

    /// Adds what the extenders think of the nodes to their scores. Failures count for nothing.
    pub fn score(&self, cx: &CycleContext<'_>, nodes: &[u32], scores: &mut [i64]) {
        for extender in self.list.iter().filter(|extender| extender.interested(cx.pod)) {
            if extender.config.prioritize_verb.is_empty() {
                continue;
            }
            let answer = self.ask(extender.prioritize(&self.about(extender, cx, nodes)));
            let list = match answer {
                Ok(list) => list,
                Err(error) => {
                    tracing::debug!(extender = extender.config.url_prefix, error, "no scores by this extender");
                    continue;
                }
            };
            for (slot, score) in nodes.iter().zip(&mut *scores) {
                let name = &*cx.snapshot.names[*slot as usize];
                let given = list.iter().filter(|host| host.host == name).map(|host| host.score);
                let factor = extender.config.weight.saturating_mul(MAX_SCORE / MAX_PRIORITY);
                *score = given.fold(*score, |sum, one| sum.saturating_add(one.saturating_mul(factor)));
            }
        }
    }

    /// Has an extender bind, if one does; `None` leaves it to the plugins.
    pub async fn bind(&self, pod: &PodInfo, node: &str) -> Option<Result<(), Arc<Status>>> {
        let binder = |extender: &&Extender| !extender.config.bind_verb.is_empty() && extender.interested(pod);
        for extender in self.list.iter().filter(binder) {
            match extender.bind(pod, node).await {
                Err(error) if extender.config.ignorable => ignored(extender, &error),
                result => return Some(result.map_err(|error| Status::error("", error))),
            }
        }
        None
    }

    /// Lets extenders choose among candidates for preemption.
    pub fn preempt(&self, cx: &CycleContext<'_>, mut candidates: Vec<Candidate>) -> Result<Vec<Candidate>, String> {
        for extender in self.list.iter().filter(|extender| extender.interested(cx.pod)) {
            if extender.config.preempt_verb.is_empty() || candidates.is_empty() {
                continue;
            }
            match self.preempt_by(extender, cx, &candidates) {
                Ok(left) => candidates = left,
                Err(error) if extender.config.ignorable => ignored(extender, &error),
                Err(error) => return Err(error),
            }
        }
        Ok(candidates)
    }

    fn preempt_by(
        &self,
        extender: &Extender,
        cx: &CycleContext<'_>,
        candidates: &[Candidate],
    ) -> Result<Vec<Candidate>, String> {
        let by_uid = extender.config.node_cache_capable;
        let victims = |candidate: &Candidate| -> (String, Value) {
            let one = |pod: &Arc<PodInfo>| if by_uid { json!({"UID": *pod.uid}) } else { self.pod(pod) };
            let pods: Vec<Value> = candidate.victims.iter().map(one).collect();
            let name = cx.snapshot.names[candidate.slot as usize].to_string();
            (name, json!({"Pods": pods, "NumPDBViolations": candidate.violations}))
        };
        let all: serde_json::Map<String, Value> = candidates.iter().map(victims).collect();
        let (whole, meta) = if by_uid { (Value::Null, all.into()) } else { (all.into(), Value::Null) };
        let args = json!({"Pod": self.pod(cx.pod), "NodeNameToVictims": whole, "NodeNameToMetaVictims": meta});
        let answer = self.ask(extender.preempt(&args))?;
        let mut left = Vec::new();
        for (name, victims) in answer {
            let victims = victims.unwrap_or_default();
            let pods = victims.pods.unwrap_or_default();
            if pods.is_empty() {
                if extender.config.ignorable {
                    continue;
                }
                return Err(format!("expected at least one victim pod on node {name:?}"));
            }
            let slot = *cx
                .snapshot
                .by_name
                .get(name.as_str())
                .ok_or_else(|| format!("nodeinfo not found for node name {name:?}"))?;
            let found = pods.iter().map(|pod| find(extender, cx.snapshot, slot, &pod.uid));
            let violations = usize::try_from(victims.numpdbviolations).unwrap_or(0);
            left.push(Candidate { slot, victims: found.collect::<Result<_, _>>()?, violations });
        }
        Ok(left)
    }
}

fn find(extender: &Extender, snapshot: &Snapshot, slot: u32, uid: &str) -> Result<Arc<PodInfo>, String> {
    let (url, node) = (&extender.config.url_prefix, &snapshot.names[slot as usize]);
    snapshot.pods[slot as usize].iter().find(|pod| *pod.uid == *uid).cloned().ok_or_else(|| {
        format!(
            "extender: {url} claims to preempt pod (UID: {uid}) on node: {node}, but the pod is not found on that node"
        )
    })
}

fn ignored(extender: &Extender, error: &str) {
    let extender = &extender.config.url_prefix;
    tracing::info!(extender, error, "skipping extender as it returned error and has ignorable flag set");
}
