//! Which pods would have to go to make room, and on which node that costs least. Pure; [`executor`] carries it out.
//!
//! On a copy of the node all less important pods are removed; if the pod fits then, as many as possible are put back, the
//! most important and those protected by a disruption budget first. What could not be put back are the victims.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::sync::{Arc, LazyLock};

use jiff::Timestamp;

use crate::cache::resources::ResourceIndex;
use crate::cache::snapshot::NodeView;
use crate::cache::usage::Usage;
use crate::framework::listers::{Budget, Listers};
use crate::framework::plugin::PostFilterContext;
use crate::framework::pod::PodInfo;
use crate::framework::profile::PreFilterResult;
use crate::framework::status::{Code, Status};

pub mod executor;

#[cfg(test)]
mod tests;

static NO_VICTIMS: LazyLock<Arc<Status>> =
    LazyLock::new(|| Status::unresolvable("DefaultPreemption", "No preemption victims found for incoming pod"));

/// A node and the pods that would have to leave it, the most important first.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// The node.
    pub slot: u32,
    /// The pods.
    pub victims: Vec<Arc<PodInfo>>,
    /// How many of them break a disruption budget.
    pub violations: usize,
}

/// Candidates, and why other nodes are none.
pub type Outcome = (Vec<Candidate>, Vec<(u32, Arc<Status>)>);

/// Importance: smaller sorts first. Pods that have not started count as starting now.
fn importance(pod: &PodInfo) -> (Reverse<i32>, Timestamp) {
    (Reverse(pod.template.priority), pod.start_time.unwrap_or(Timestamp::MAX))
}

/// The cheapest candidate: fewest broken budgets, lowest highest priority, smallest sum of priorities, fewest victims,
/// latest start of the most important victims.
pub fn pick(candidates: Vec<Candidate>) -> Option<Candidate> {
    let cost = |candidate: &Candidate| {
        let priorities = || candidate.victims.iter().map(|pod| pod.template.priority);
        let highest = priorities().max().unwrap_or(i32::MIN);
        let sum: i64 = priorities().map(|priority| i64::from(priority) + i64::from(i32::MAX) + 1).sum();
        let top = candidate.victims.iter().filter(|pod| pod.template.priority == highest);
        let earliest = top.map(|pod| pod.start_time.unwrap_or(Timestamp::MAX)).min();
        (candidate.violations, highest, sum, candidate.victims.len(), Reverse(earliest))
    };
    candidates.into_iter().min_by_key(cost)
}

/// The disruption budgets of all namespaces asked for so far.
struct Budgets<'a> {
    listers: &'a dyn Listers,
    known: HashMap<Arc<str>, Vec<Budget>>,
}

impl Budgets<'_> {
    /// Splits pods into those whose removal breaks a budget and the others, keeping their order.
    fn split(&mut self, pods: Vec<Arc<PodInfo>>) -> (Vec<Arc<PodInfo>>, Vec<Arc<PodInfo>>) {
        let mut spent: HashMap<(Arc<str>, usize), i32> = HashMap::new();
        pods.into_iter().partition(|pod| {
            let namespace = &pod.template.namespace;
            let listers = self.listers;
            let budgets = self.known.entry(namespace.clone()).or_insert_with(|| listers.budgets(namespace));
            let mut broken = false;
            for (number, budget) in budgets.iter().enumerate().filter(|_| !pod.template.labels.is_empty()) {
                let applies = !budget.selector.is_everything() && budget.selector.matches(&pod.template.labels);
                if applies && !budget.disrupted.iter().any(|name| **name == *pod.name) {
                    let spent = spent.entry((namespace.clone(), number)).or_default();
                    *spent += 1;
                    broken |= *spent > budget.allowed;
                }
            }
            broken
        })
    }
}

/// A search for candidates.
pub struct DryRun<'a> {
    cx: &'a PostFilterContext<'a>,
    budgets: Budgets<'a>,
}

/// A node on which pods are removed and added on trial.
struct Trial<'a> {
    cx: &'a PostFilterContext<'a>,
    slot: u32,
    usage: Usage,
    before: PreFilterResult,
    index: ResourceIndex,
}

impl Trial<'_> {
    fn change(&mut self, pod: &Arc<PodInfo>, add: bool) {
        if add {
            self.usage.add(pod.clone(), &mut self.index);
        } else {
            self.usage.remove(&pod.uid, &mut self.index);
        }
        let node = NodeView { snapshot: self.cx.cycle.snapshot, slot: self.slot, usage: Some(&self.usage) };
        self.cx.profile.trial(&self.cx.cycle, &mut self.before, pod, &node, add);
    }

    fn fits(&self) -> Result<(), Arc<Status>> {
        let node = NodeView { snapshot: self.cx.cycle.snapshot, slot: self.slot, usage: Some(&self.usage) };
        self.cx.profile.run_filters_with_nominated(&self.cx.cycle, &self.before, &node, self.cx.nominator)
    }

    /// Puts a pod back if the preemptor still fits then.
    fn reprieve(&mut self, pod: &Arc<PodInfo>) -> bool {
        self.change(pod, true);
        let fits = self.fits().is_ok();
        if !fits {
            self.change(pod, false);
        }
        fits
    }
}

impl<'a> DryRun<'a> {
    /// For the pod of a cycle.
    pub fn new(cx: &'a PostFilterContext<'a>, listers: &'a dyn Listers) -> Self {
        Self { cx, budgets: Budgets { listers, known: HashMap::new() } }
    }

    /// Tries nodes from `offset` on until enough candidates are found, at least one of them breaking no budget.
    pub fn run(&mut self, potential: &[u32], offset: usize, wanted: usize) -> Result<Outcome, Arc<Status>> {
        let (mut candidates, mut failures) = (Vec::new(), Vec::new());
        let mut harmless = 0;
        for at in 0..potential.len() {
            let slot = potential[(offset + at) % potential.len()];
            match self.victims(slot) {
                Ok(candidate) => {
                    harmless += usize::from(candidate.violations == 0);
                    candidates.push(candidate);
                    if harmless > 0 && candidates.len() >= wanted {
                        break;
                    }
                }
                Err(status) if status.code == Code::Error && candidates.is_empty() => return Err(status),
                Err(status) => failures.push((slot, status)),
            }
        }
        Ok((candidates, failures))
    }

    fn victims(&mut self, slot: u32) -> Result<Candidate, Arc<Status>> {
        let snapshot = self.cx.cycle.snapshot;
        let priority = self.cx.cycle.pod.template.priority;
        let less_important = |pod: &&Arc<PodInfo>| pod.template.priority < priority;
        let mut potential: Vec<_> = snapshot.pods[slot as usize].iter().filter(less_important).cloned().collect();
        if potential.is_empty() {
            return Err(NO_VICTIMS.clone());
        }
        let mut trial = Trial {
            cx: self.cx,
            slot,
            usage: snapshot.usage(slot),
            before: self.cx.before.on_trial(),
            index: snapshot.resources.clone(),
        };
        potential.iter().for_each(|pod| trial.change(pod, false));
        trial.fits()?;
        potential.sort_by_key(|pod| importance(pod));
        let (protected, others) = self.budgets.split(potential);
        let mut victims = Vec::new();
        let mut violations = 0;
        for (pods, breaks) in [(protected, true), (others, false)] {
            for pod in pods {
                if !trial.reprieve(&pod) {
                    violations += usize::from(breaks);
                    victims.push(pod);
                }
            }
        }
        if victims.is_empty() {
            let name = &snapshot.names[slot as usize];
            let reason = format!("expected at least one victim pod on node {name:?}");
            return Err(Status::error("DefaultPreemption", reason));
        }
        victims.sort_by_key(|pod| importance(pod));
        Ok(Candidate { slot, victims, violations })
    }
}
