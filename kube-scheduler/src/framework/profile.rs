//! A profile: one scheduler name and its plugins at each extension point, in order, with weights; and how each point runs.

use std::sync::Arc;
use std::time::Instant;

use super::diagnosis::Diagnosis;
use super::events::{ClusterEvent, Hint, Interest};
use super::memo::{Scores, Verdicts};
use super::plugin::{
    CycleContext, Filter, Permitted, Plugin, PostFilterContext, PostFiltered, PreFiltered, PreScored, QueueSort,
    Rejected, Scope, State, StateData,
};
use super::pod::PodInfo;
use super::status::{Code, Status, Verdict};
use crate::cache::snapshot::NodeView;
use crate::extender::Extenders;
use crate::metrics;
use crate::queue::nominator::Nominator;

/// A shared plugin.
pub type PluginRef = Arc<dyn Plugin>;

/// The plugins of each extension point, in running order.
#[derive(Default, Clone)]
pub struct Points {
    /// PreEnqueue.
    pub pre_enqueue: Vec<PluginRef>,
    /// QueueSort (exactly one).
    pub queue_sort: Vec<PluginRef>,
    /// PreFilter.
    pub pre_filter: Vec<PluginRef>,
    /// Filter.
    pub filter: Vec<PluginRef>,
    /// PostFilter.
    pub post_filter: Vec<PluginRef>,
    /// PreScore.
    pub pre_score: Vec<PluginRef>,
    /// Score, with weights.
    pub score: Vec<(PluginRef, i64)>,
    /// Reserve.
    pub reserve: Vec<PluginRef>,
    /// Permit.
    pub permit: Vec<PluginRef>,
    /// PreBind.
    pub pre_bind: Vec<PluginRef>,
    /// Bind.
    pub bind: Vec<PluginRef>,
    /// PostBind.
    pub post_bind: Vec<PluginRef>,
}

/// A profile.
pub struct Profile {
    /// spec.schedulerName of its pods.
    pub name: Arc<str>,
    /// Overrides the global percentage.
    pub percentage_of_nodes_to_score: Option<i32>,
    /// The plugins.
    pub points: Points,
    /// All plugins that listen to events, with what they listen to.
    interests: Vec<(PluginRef, Vec<Interest>)>,
    /// For each filter, where its PreFilter is (if it has one).
    filter_states: Vec<Option<usize>>,
    /// Whether there are extenders, whose minds any event may change.
    pub extended: bool,
    /// How many of the first filters depend on nothing but template and node.
    node_filters: usize,
}

/// What PreFilter left behind.
#[derive(Default)]
pub struct PreFilterResult {
    /// State per PreFilter plugin.
    pub states: Vec<Option<State>>,
    /// Which PreFilter plugins have nothing to say.
    pub skip: Vec<bool>,
    /// The only slots worth looking at.
    pub nodes: Option<Vec<u32>>,
    /// Who narrowed them.
    pub narrowed_by: Vec<&'static str>,
}

impl PreFilterResult {
    /// A copy to add and remove pods on.
    pub fn on_trial(&self) -> Self {
        Self {
            states: self.states.iter().map(|state| state.as_ref().map(|state| (**state).clone_box())).collect(),
            skip: self.skip.clone(),
            nodes: self.nodes.clone(),
            narrowed_by: self.narrowed_by.clone(),
        }
    }
}

impl Profile {
    /// Builds a profile; `all` are the plugins in use, which may listen to events.
    pub fn new(name: Arc<str>, percentage: Option<i32>, points: Points, all: &[PluginRef]) -> Self {
        let place = |filter: &PluginRef| points.pre_filter.iter().position(|plugin| plugin.name() == filter.name());
        let filter_states = points.filter.iter().map(place).collect();
        let of_one_node = |plugin: &&PluginRef| plugin.as_filter().is_some_and(|filter| filter.scope() == Scope::Node);
        Self {
            name,
            percentage_of_nodes_to_score: percentage,
            interests: all
                .iter()
                .filter_map(|plugin| plugin.as_enqueue().map(|extension| (plugin.clone(), extension.interests())))
                .collect(),
            filter_states,
            extended: false,
            node_filters: points.filter.iter().take_while(of_one_node).count(),
            points,
        }
    }

    /// Runs PreEnqueue; the plugin that gated the pod last time goes first.
    pub fn run_pre_enqueue(&self, pod: &PodInfo, first: Option<&str>) -> Verdict {
        let (before, after): (Vec<_>, Vec<_>) =
            self.points.pre_enqueue.iter().partition(|plugin| Some(plugin.name()) == first);
        before
            .into_iter()
            .chain(after)
            .filter_map(|plugin| plugin.as_pre_enqueue())
            .try_for_each(|plugin| plugin.pre_enqueue(pod))
    }

    /// The plugin that orders the queue.
    pub fn queue_sort(&self) -> Option<&dyn QueueSort> {
        self.points.queue_sort.first().and_then(|plugin| plugin.as_queue_sort())
    }

    /// Whether any plugin listens to the event.
    pub fn interested(&self, event: &ClusterEvent) -> bool {
        self.extended
            || self.interests.iter().any(|(_, interests)| interests.iter().any(|interest| interest.matches(event)))
    }

    /// What a plugin says to an event; `None` when it does not listen.
    pub fn hint(&self, pod: &PodInfo, plugin: &str, event: &ClusterEvent) -> Option<Hint> {
        if plugin == crate::extender::NAME {
            return Some(Hint::Queue);
        }
        let (plugin, interests) = self.interests.iter().find(|(known, _)| known.name() == plugin)?;
        if !interests.iter().any(|interest| interest.matches(event)) {
            return None;
        }
        let extension = plugin.as_enqueue()?;
        let started = Instant::now();
        let hint = extension.hint(pod, event);
        let label = if hint == Hint::Queue { "Queue" } else { "QueueSkip" };
        let labels = [plugin.name(), event.label, label];
        metrics::HINT_DURATION.with_label_values(&labels).observe(started.elapsed().as_secs_f64());
        Some(hint)
    }

    /// Runs PreFilter. `Err` rejects the pod on all nodes.
    pub fn run_pre_filter(&self, cx: &CycleContext<'_>) -> Result<PreFilterResult, Arc<Status>> {
        let started = Instant::now();
        let result = self.pre_filter(cx);
        let status = result.as_ref().err().map_or("Success", |status| status.code.as_str());
        metrics::extension_point("PreFilter", status, &self.name, started.elapsed());
        result
    }

    fn pre_filter(&self, cx: &CycleContext<'_>) -> Result<PreFilterResult, Arc<Status>> {
        let mut result = PreFilterResult::default();
        for plugin in &self.points.pre_filter {
            let Some(pre_filter) = plugin.as_pre_filter() else { continue };
            self.count(plugin, "PreFilter", 1);
            let wrap = |status: Arc<Status>| framework_error("running PreFilter plugin", plugin.name(), &status);
            match pre_filter.pre_filter(cx).map_err(wrap)? {
                PreFiltered::Skip => {
                    result.states.push(None);
                    result.skip.push(true);
                }
                PreFiltered::Continue { state, nodes } => {
                    result.states.push(state);
                    result.skip.push(false);
                    if let Some(nodes) = nodes {
                        result.narrowed_by.push(plugin.name());
                        let Some(before) = result.nodes.take().filter(|before| !before.is_empty()) else {
                            result.nodes = Some(nodes);
                            continue;
                        };
                        let both: Vec<u32> = before.into_iter().filter(|slot| nodes.contains(slot)).collect();
                        if both.is_empty() {
                            return Err(nowhere(&result.narrowed_by));
                        }
                        result.nodes = Some(both);
                    }
                }
            }
        }
        Ok(result)
    }

    /// Runs the filters on one node.
    pub fn run_filters(&self, cx: &CycleContext<'_>, before: &PreFilterResult, node: &NodeView<'_>) -> Verdict {
        self.filter_range(cx, before, node, 0, self.points.filter.len())
    }

    /// As [`Self::run_filters`], but the pod must fit both beside the pods nominated to the node (of its priority or
    /// higher) and without them.
    pub fn run_filters_with_nominated(
        &self,
        cx: &CycleContext<'_>,
        before: &PreFilterResult,
        node: &NodeView<'_>,
        nominator: &Nominator,
    ) -> Verdict {
        let mut nominated = if nominator.is_empty() { Vec::new() } else { nominator.pods_on(node.name()) };
        nominated.retain(|other| outranks(other, cx.pod));
        self.fits_beside(cx, before, node, &nominated)?;
        self.run_filters(cx, before, node)
    }

    /// Whether the pod fits beside others that are not there yet.
    pub fn fits_beside(
        &self,
        cx: &CycleContext<'_>,
        before: &PreFilterResult,
        node: &NodeView<'_>,
        others: &[Arc<PodInfo>],
    ) -> Verdict {
        if others.is_empty() {
            return Ok(());
        }
        let mut usage = node.usage.cloned().unwrap_or_else(|| cx.snapshot.usage(node.slot));
        let mut trial = before.on_trial();
        let mut index = cx.snapshot.resources.clone();
        for other in others {
            usage.add(other.clone(), &mut index);
            self.trial(cx, &mut trial, other, &NodeView { usage: Some(&usage), ..*node }, true);
        }
        self.run_filters(cx, &trial, &NodeView { usage: Some(&usage), ..*node })
    }

    /// Runs the filters on many nodes as they are: keeps those that pass, in their order. What the leading filters say of
    /// each node alone comes from the memo, if there is one. `Err` is an internal error.
    pub fn sieve(
        &self,
        cx: &CycleContext<'_>,
        before: &PreFilterResult,
        memo: Option<&mut Verdicts>,
        slots: &mut Vec<u32>,
        rejected: &mut Rejected,
    ) -> Verdict {
        let from = if memo.is_some() { self.node_filters } else { 0 };
        if let Some(memo) = memo {
            let ask = |slot: u32| self.filter_range(cx, before, &cx.snapshot.node(slot), 0, from);
            slots.retain(|slot| match memo.get(*slot, || ask(*slot)) {
                Ok(()) => true,
                Err(status) => {
                    rejected.push((*slot, status));
                    false
                }
            });
        }
        for at in from..self.points.filter.len() {
            if let Some((filter, state)) = self.filter_at(before, at) {
                self.count(&self.points.filter[at], "Filter", slots.len());
                filter.sieve(cx, state, slots, rejected);
            }
        }
        match rejected.iter().find(|(_, status)| status.code == Code::Error) {
            Some((_, status)) => Err(status.clone()),
            None => Ok(()),
        }
    }

    fn count(&self, plugin: &PluginRef, point: &str, times: usize) {
        metrics::PLUGIN_EVALUATIONS.with_label_values(&[plugin.name(), point, &self.name]).inc_by(times as u64);
    }

    /// A filter and its state, unless its PreFilter has nothing to say.
    fn filter_at<'a>(
        &'a self,
        before: &'a PreFilterResult,
        at: usize,
    ) -> Option<(&'a dyn Filter, Option<&'a dyn StateData>)> {
        let filter = self.points.filter[at].as_filter()?;
        match self.filter_states[at] {
            Some(place) if before.skip.get(place) == Some(&true) => None,
            Some(place) => Some((filter, before.states.get(place).and_then(|state| state.as_deref()))),
            None => Some((filter, None)),
        }
    }

    fn filter_range(
        &self,
        cx: &CycleContext<'_>,
        before: &PreFilterResult,
        node: &NodeView<'_>,
        from: usize,
        to: usize,
    ) -> Verdict {
        for at in from..to {
            if let Some((filter, state)) = self.filter_at(before, at) {
                filter.filter(cx, state, node)?;
            }
        }
        Ok(())
    }

    /// Tells the PreFilters that a pod was added to (or removed from) a node on trial.
    pub fn trial(
        &self,
        cx: &CycleContext<'_>,
        before: &mut PreFilterResult,
        pod: &PodInfo,
        node: &NodeView<'_>,
        add: bool,
    ) {
        for (plugin, state) in self.points.pre_filter.iter().zip(&mut before.states) {
            if let (Some(pre_filter), Some(state)) = (plugin.as_pre_filter(), state.as_deref_mut()) {
                if add {
                    pre_filter.add_pod(cx, state, pod, node);
                } else {
                    pre_filter.remove_pod(cx, state, pod, node);
                }
            }
        }
    }

    /// Runs PostFilter until one plugin makes room; messages of the others add up.
    pub fn run_post_filter(&self, cx: &PostFilterContext<'_>) -> Result<PostFiltered, Arc<Status>> {
        let mut together = PostFiltered::default();
        let mut messages = Vec::new();
        for plugin in self.points.post_filter.iter().filter_map(|plugin| plugin.as_post_filter()) {
            let answer = plugin.post_filter(cx)?;
            if answer.success {
                return Ok(answer);
            }
            if together.nominate.is_none() {
                together.nominate = answer.nominate;
            }
            if !answer.message.is_empty() {
                messages.push(answer.message);
            }
        }
        together.message = messages.join(", ");
        Ok(together)
    }

    /// Scores feasible nodes: the weighted, normalised sum over all Score plugins. What plugins say of each node alone
    /// comes from the memo, if there is one.
    pub fn run_scores(
        &self,
        cx: &CycleContext<'_>,
        nodes: &[u32],
        mut memo: Option<&mut [Scores]>,
    ) -> Result<Vec<i64>, Arc<Status>> {
        let started = Instant::now();
        let mut states: Vec<(&str, Option<State>, bool)> = Vec::with_capacity(self.points.pre_score.len());
        for plugin in &self.points.pre_score {
            let Some(pre_score) = plugin.as_pre_score() else { continue };
            self.count(plugin, "PreScore", 1);
            let wrap = |status: Arc<Status>| framework_error("running PreScore plugin", plugin.name(), &status);
            states.push(match pre_score.pre_score(cx, nodes).map_err(wrap)? {
                PreScored::Skip => (plugin.name(), None, true),
                PreScored::Continue(state) => (plugin.name(), state, false),
            });
        }
        let scoring = Instant::now();
        metrics::extension_point("PreScore", "Success", &self.name, scoring - started);
        let mut totals = vec![0; nodes.len()];
        let mut scores = vec![0; nodes.len()];
        for (at, (plugin, weight)) in self.points.score.iter().enumerate() {
            let state = states.iter().find(|(name, ..)| *name == plugin.name());
            if state.is_some_and(|(_, _, skip)| *skip) {
                continue;
            }
            let state = state.and_then(|(_, state, _)| state.as_deref());
            let Some(score) = plugin.as_score() else { continue };
            self.count(plugin, "Score", nodes.len());
            let wrap = |status: Arc<Status>| framework_error("running Score plugins: plugin", plugin.name(), &status);
            match memo.as_deref_mut().and_then(|memo| memo.get_mut(at)).filter(|_| score.scope() == Scope::Node) {
                Some(memo) => memo.get(nodes, &mut scores, |nodes, into| score.score(cx, state, nodes, into)),
                None => score.score(cx, state, nodes, &mut scores),
            }
            .map_err(wrap)?;
            score.normalize(cx, state, nodes, &mut scores);
            for (total, score) in totals.iter_mut().zip(&scores) {
                *total += score * weight;
            }
        }
        metrics::extension_point("Score", "Success", &self.name, scoring.elapsed());
        Ok(totals)
    }

    /// Whether any Score plugin is configured.
    pub fn scores(&self) -> bool {
        !self.points.score.is_empty()
    }

    /// Reserves; on refusal everything reserved is let go.
    pub fn run_reserve(&self, cx: &CycleContext<'_>, pod: &PodInfo, slot: u32) -> Verdict {
        let node = cx.snapshot.node(slot);
        for plugin in &self.points.reserve {
            let Some(reserve) = plugin.as_reserve() else { continue };
            if let Err(status) = reserve.reserve(cx, pod, &node) {
                self.run_unreserve(pod, node.name());
                return Err(framework_error("running Reserve plugin", plugin.name(), &status));
            }
        }
        Ok(())
    }

    /// Lets go of everything reserved, last plugin first.
    pub fn run_unreserve(&self, pod: &PodInfo, node: &str) {
        for plugin in self.points.reserve.iter().rev().filter_map(|plugin| plugin.as_reserve()) {
            plugin.unreserve(pod, node);
        }
    }

    /// Runs Permit; returns the plugins that want the pod to wait.
    pub fn run_permit(
        &self,
        pod: &PodInfo,
        node: &str,
    ) -> Result<Vec<(&'static str, std::time::Duration)>, Arc<Status>> {
        let mut waits = Vec::new();
        for plugin in self.points.permit.iter().filter_map(|plugin| plugin.as_permit()) {
            if let Permitted::Wait(time) = plugin.permit(pod, node)? {
                waits.push((plugin.name(), time));
            }
        }
        Ok(waits)
    }

    /// Runs PreBind, Bind (an extender's before any plugin's) and PostBind.
    pub async fn run_bind(&self, pod: &PodInfo, node: &str, extenders: &Extenders) -> Verdict {
        for plugin in &self.points.pre_bind {
            if let Some(pre_bind) = plugin.as_pre_bind() {
                let wrap = |status: Arc<Status>| framework_error("running PreBind plugin", plugin.name(), &status);
                pre_bind.pre_bind(pod, node).await.map_err(wrap)?;
            }
        }
        match extenders.bind(pod, node).await {
            Some(result) => result?,
            None => self.run_binders(pod, node).await?,
        }
        for plugin in self.points.post_bind.iter().filter_map(|plugin| plugin.as_post_bind()) {
            plugin.post_bind(pod, node).await;
        }
        Ok(())
    }

    /// Takes back what PreBind wrote, last plugin first.
    pub async fn undo_bind(&self, pod: &PodInfo, node: &str) {
        for plugin in self.points.pre_bind.iter().rev().filter_map(|plugin| plugin.as_pre_bind()) {
            plugin.undo(pod, node).await;
        }
    }

    async fn run_binders(&self, pod: &PodInfo, node: &str) -> Verdict {
        for plugin in &self.points.bind {
            let Some(bind) = plugin.as_bind() else { continue };
            let wrap = |status: Arc<Status>| framework_error("running Bind plugin", plugin.name(), &status);
            if bind.bind(pod, node).await.map_err(wrap)? {
                return Ok(());
            }
        }
        Err(Status::error("", "no Bind plugin took the pod"))
    }
}

/// Whether room must be left for a nominated pod.
pub fn outranks(nominated: &PodInfo, pod: &PodInfo) -> bool {
    nominated.template.priority >= pod.template.priority && nominated.uid != pod.uid
}

fn nowhere(plugins: &[&str]) -> Arc<Status> {
    let message = match plugins {
        [one] => format!("node(s) didn't satisfy plugin {one}"),
        many => format!("node(s) didn't satisfy plugin(s) [{}] simultaneously", many.join(" ")),
    };
    Status::unresolvable("", message)
}

/// An internal error of a plugin, in upstream's wrapping; rejections pass unchanged.
fn framework_error(doing: &str, plugin: &'static str, status: &Arc<Status>) -> Arc<Status> {
    if status.code != Code::Error {
        return status.clone();
    }
    Status::error(plugin, format!("{doing} {plugin:?}: {}", status.message()))
}

/// The diagnosis of a pod that a PreFilter rejected outright.
pub fn rejected_outright(status: &Arc<Status>) -> Diagnosis {
    let mut diagnosis =
        Diagnosis { pre_filter: Some(status.message()), absent: Some(status.clone()), ..Diagnosis::default() };
    diagnosis.blame(status);
    diagnosis
}
