//! The extension points, one trait each, and the one trait that says which of them a plugin has.
//!
//! Per-cycle state belongs to the plugin: what its PreFilter (PreScore) returns is handed to its Filter (Score) again. Filters
//! answer node by node; scores fill an array for all feasible nodes at once.

use std::any::Any;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use super::diagnosis::Diagnosis;
use super::events::{ClusterEvent, Hint, Interest};
use super::pod::PodInfo;
use super::profile::{PreFilterResult, Profile};
use super::status::{Status, Verdict};
use crate::cache::snapshot::{NodeView, Snapshot};
use crate::queue::QueuedPod;
use crate::queue::nominator::Nominator;

/// The highest score a plugin may give after normalisation.
pub const MAX_SCORE: i64 = 100;

/// A plugin's own memory within one cycle. Cloned when pods are added or removed on trial.
pub trait StateData: Any + Send + Sync {
    /// A copy for a trial.
    fn clone_box(&self) -> State;
    /// For downcasts.
    fn as_any(&self) -> &dyn Any;
    /// For downcasts.
    fn as_any_mut(&mut self) -> &mut dyn Any;
}

impl<T: Any + Send + Sync + Clone> StateData for T {
    fn clone_box(&self) -> State {
        Box::new(self.clone())
    }
    fn as_any(&self) -> &dyn Any {
        self
    }
    fn as_any_mut(&mut self) -> &mut dyn Any {
        self
    }
}

/// Boxed state.
pub type State = Box<dyn StateData>;

/// Reads back a plugin's own state.
pub fn state_of<T: 'static>(state: Option<&dyn StateData>) -> Option<&T> {
    state.and_then(|state| state.as_any().downcast_ref())
}

/// What every call within a cycle may look at.
#[derive(Clone, Copy)]
pub struct CycleContext<'a> {
    /// The pod being placed.
    pub pod: &'a PodInfo,
    /// The cluster.
    pub snapshot: &'a Snapshot,
}

/// A plugin: its name, and itself as each extension point that it implements.
pub trait Plugin: Send + Sync {
    /// Upstream's name.
    fn name(&self) -> &'static str;
    /// PreEnqueue.
    fn as_pre_enqueue(&self) -> Option<&dyn PreEnqueue> {
        None
    }
    /// QueueSort.
    fn as_queue_sort(&self) -> Option<&dyn QueueSort> {
        None
    }
    /// PreFilter.
    fn as_pre_filter(&self) -> Option<&dyn PreFilter> {
        None
    }
    /// Filter.
    fn as_filter(&self) -> Option<&dyn Filter> {
        None
    }
    /// PostFilter.
    fn as_post_filter(&self) -> Option<&dyn PostFilter> {
        None
    }
    /// PreScore.
    fn as_pre_score(&self) -> Option<&dyn PreScore> {
        None
    }
    /// Score.
    fn as_score(&self) -> Option<&dyn Score> {
        None
    }
    /// Reserve.
    fn as_reserve(&self) -> Option<&dyn Reserve> {
        None
    }
    /// Permit.
    fn as_permit(&self) -> Option<&dyn Permit> {
        None
    }
    /// PreBind.
    fn as_pre_bind(&self) -> Option<&dyn PreBind> {
        None
    }
    /// Bind.
    fn as_bind(&self) -> Option<&dyn Bind> {
        None
    }
    /// PostBind.
    fn as_post_bind(&self) -> Option<&dyn PostBind> {
        None
    }
    /// EnqueueExtensions.
    fn as_enqueue(&self) -> Option<&dyn EnqueueExtensions> {
        None
    }
}

/// Decides whether a pod may enter the active queue.
pub trait PreEnqueue: Plugin {
    /// `Err` gates the pod.
    fn pre_enqueue(&self, pod: &PodInfo) -> Verdict;
}

/// A place in the active queue; smaller is sooner.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rank {
    /// Descending priority, as `-(priority)`.
    pub priority: i64,
    /// When the pod was (re)queued, in nanoseconds.
    pub since: u128,
}

/// Orders the active queue.
pub trait QueueSort: Plugin {
    /// The pod's rank.
    fn rank(&self, pod: &QueuedPod) -> Rank;
}

/// What PreFilter answers.
pub enum PreFiltered {
    /// The plugin's Filter has nothing to say about this pod.
    Skip,
    /// Go on with this state, on these slots only if given.
    Continue {
        /// Handed to Filter.
        state: Option<State>,
        /// The only slots worth looking at.
        nodes: Option<Vec<u32>>,
    },
}

impl PreFiltered {
    /// Go on, on all nodes.
    pub fn with(state: impl StateData) -> Self {
        Self::Continue { state: Some(Box::new(state)), nodes: None }
    }
}

/// Looks at a pod once before its nodes are filtered.
pub trait PreFilter: Plugin {
    /// `Err` rejects the pod everywhere.
    fn pre_filter(&self, cx: &CycleContext<'_>) -> Result<PreFiltered, Arc<Status>>;
    /// A pod was added to a node on trial.
    fn add_pod(&self, _cx: &CycleContext<'_>, _state: &mut dyn StateData, _added: &PodInfo, _node: &NodeView<'_>) {}
    /// A pod was removed from a node on trial.
    fn remove_pod(&self, _cx: &CycleContext<'_>, _state: &mut dyn StateData, _gone: &PodInfo, _node: &NodeView<'_>) {}
}

/// What a filter's verdict or a plugin's score depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Only on the pod's template, the node object and the pods on that node: remembered per template until either changes.
    Node,
    /// Also on other nodes, pods or objects.
    Cluster,
}

/// Slots that were refused, and why.
pub type Rejected = Vec<(u32, Arc<Status>)>;

/// Says whether a pod may run on a node.
pub trait Filter: Plugin {
    /// What the verdict depends on.
    fn scope(&self) -> Scope {
        Scope::Cluster
    }
    /// The verdict for one node.
    fn filter(&self, cx: &CycleContext<'_>, state: Option<&dyn StateData>, node: &NodeView<'_>) -> Verdict;
    /// The verdicts for many nodes as they are: keeps those that pass, in their order. Worth writing anew where
    /// something is the same for all of them.
    fn sieve(
        &self,
        cx: &CycleContext<'_>,
        state: Option<&dyn StateData>,
        slots: &mut Vec<u32>,
        rejected: &mut Rejected,
    ) {
        slots.retain(|slot| match self.filter(cx, state, &cx.snapshot.node(*slot)) {
            Ok(()) => true,
            Err(status) => {
                rejected.push((*slot, status));
                false
            }
        });
    }
}

/// What a PostFilter works with.
pub struct PostFilterContext<'a> {
    /// Pod and snapshot.
    pub cycle: CycleContext<'a>,
    /// The profile, to run filters on trial.
    pub profile: &'a Profile,
    /// What the PreFilters left.
    pub before: &'a PreFilterResult,
    /// Why every node was rejected.
    pub diagnosis: &'a Diagnosis,
    /// Pods nominated to nodes.
    pub nominator: &'a Nominator,
    /// A random number of this cycle.
    pub dice: u64,
}

/// What PostFilter answers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PostFiltered {
    /// Appended to the failure message.
    pub message: String,
    /// A node to nominate (`Some(None)` clears the nomination; `None` leaves it).
    pub nominate: Option<Option<Arc<str>>>,
    /// Whether this plugin made the pod schedulable (later plugins are not asked).
    pub success: bool,
}

/// Tries to make room for a pod that fits nowhere.
pub trait PostFilter: Plugin {
    /// Looks for a way.
    fn post_filter(&self, cx: &PostFilterContext<'_>) -> Result<PostFiltered, Arc<Status>>;
}

/// What PreScore answers.
pub enum PreScored {
    /// The plugin's Score has nothing to say about this pod.
    Skip,
    /// Go on.
    Continue(Option<State>),
}

/// Looks at a pod and its feasible nodes once before they are scored.
pub trait PreScore: Plugin {
    /// `Err` is an internal error.
    fn pre_score(&self, cx: &CycleContext<'_>, nodes: &[u32]) -> Result<PreScored, Arc<Status>>;
}

/// Scores feasible nodes.
pub trait Score: Plugin {
    /// What the raw scores depend on. [`Scope::Node`] is for those that are 0 to 100 without being normalised, and do
    /// not depend on which other nodes are feasible.
    fn scope(&self) -> Scope {
        Scope::Cluster
    }
    /// Fills `scores[i]` for `nodes[i]`.
    fn score(
        &self,
        cx: &CycleContext<'_>,
        state: Option<&dyn StateData>,
        nodes: &[u32],
        scores: &mut [i64],
    ) -> Result<(), Arc<Status>>;
    /// Brings raw scores to 0..=100.
    fn normalize(&self, _cx: &CycleContext<'_>, _state: Option<&dyn StateData>, _nodes: &[u32], _scores: &mut [i64]) {}
}

/// Holds something for a pod once its node is chosen.
pub trait Reserve: Plugin {
    /// Takes hold. `pod` is the assumed pod; the snapshot is the one decided on.
    fn reserve(&self, cx: &CycleContext<'_>, pod: &PodInfo, node: &NodeView<'_>) -> Verdict;
    /// Lets go; must be idempotent.
    fn unreserve(&self, pod: &PodInfo, node: &str);
}

/// What Permit answers.
pub enum Permitted {
    /// Go on.
    Allow,
    /// Wait for another's word, at most this long.
    Wait(Duration),
}

/// May delay or refuse a binding.
pub trait Permit: Plugin {
    /// `Err` refuses.
    fn permit(&self, pod: &PodInfo, node: &str) -> Result<Permitted, Arc<Status>>;
}

/// Prepares a binding.
#[async_trait]
pub trait PreBind: Plugin {
    /// Runs in the binding cycle.
    async fn pre_bind(&self, pod: &PodInfo, node: &str) -> Verdict;
    /// Takes back what `pre_bind` wrote when the binding failed, before the pod is queued again. Runs after Unreserve.
    async fn undo(&self, _pod: &PodInfo, _node: &str) {}
}

/// Binds.
#[async_trait]
pub trait Bind: Plugin {
    /// `Ok(false)` leaves the pod to the next binder.
    async fn bind(&self, pod: &PodInfo, node: &str) -> Result<bool, Arc<Status>>;
}

/// Told of bindings.
#[async_trait]
pub trait PostBind: Plugin {
    /// Runs after the binding.
    async fn post_bind(&self, pod: &PodInfo, node: &str);
}

/// Which events may make a pod schedulable that this plugin rejected.
pub trait EnqueueExtensions: Plugin {
    /// Kinds of events.
    fn interests(&self) -> Vec<Interest>;
    /// Whether this very event may help this very pod.
    fn hint(&self, _pod: &PodInfo, _event: &ClusterEvent) -> Hint {
        Hint::Queue
    }
}

/// Upstream's default normalisation: scale to 0..=100 by the maximum, reversed when fewer is better.
pub fn normalize_by_max(scores: &mut [i64], reverse: bool) {
    let max = scores.iter().copied().max().unwrap_or(0);
    for score in scores {
        let scaled = if max == 0 { 0 } else { MAX_SCORE * *score / max };
        *score = if reverse { MAX_SCORE - scaled } else { scaled };
    }
}

#[cfg(test)]
mod tests {
    use super::normalize_by_max;

    #[test]
    fn default_normalisation() {
        for (input, reverse, expected) in [
            (vec![1, 2, 3, 4], false, vec![25, 50, 75, 100]),
            (vec![1, 2, 3, 4], true, vec![75, 50, 25, 0]),
            (vec![0, 0], false, vec![0, 0]),
            (vec![0, 0], true, vec![100, 100]),
            (vec![1000, 10, 20, 30], false, vec![100, 1, 2, 3]),
        ] {
            let mut scores = input.clone();
            normalize_by_max(&mut scores, reverse);
            assert_eq!(scores, expected, "{input:?} {reverse}");
        }
    }
}
