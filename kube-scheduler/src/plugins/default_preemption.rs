//! DefaultPreemption: when nothing fits, finds a node where removing less important pods makes room.

use std::sync::Arc;

use crate::config::args::DefaultPreemptionArgs;
use crate::extender::Extenders;
use crate::framework::diagnosis::Diagnosis;
use crate::framework::events::{ClusterEvent, Hint, Interest, Resource, action};
use crate::framework::listers::Listers;
use crate::framework::plugin::{EnqueueExtensions, Plugin, PostFilter, PostFilterContext, PostFiltered, PreEnqueue};
use crate::framework::pod::PodInfo;
use crate::framework::status::{Code, Status, Verdict};
use crate::metrics;
use crate::plugins::registry::Services;
use crate::preemption::executor::Executor;
use crate::preemption::{DryRun, pick};

/// The plugin.
pub struct DefaultPreemption {
    percentage: usize,
    absolute: usize,
    listers: Arc<dyn Listers>,
    extenders: Arc<Extenders>,
    executor: Arc<Executor>,
}

/// Upstream's name.
pub const NAME: &str = "DefaultPreemption";

impl DefaultPreemption {
    /// With the profile's arguments.
    pub fn new(args: &DefaultPreemptionArgs, services: &Services, executor: Arc<Executor>) -> Self {
        Self {
            percentage: args.min_candidate_nodes_percentage.clamp(0, 100) as usize,
            absolute: args.min_candidate_nodes_absolute.max(0) as usize,
            listers: services.listers.clone(),
            extenders: services.extenders.clone(),
            executor,
        }
    }

    /// Why the pod may not preempt, if so.
    fn ineligible(cx: &PostFilterContext<'_>) -> Option<&'static str> {
        let pod = cx.cycle.pod;
        if pod.template.never_preempts {
            return Some("not eligible due to preemptionPolicy=Never.");
        }
        let slot = *cx.cycle.snapshot.by_name.get(pod.nominated.as_ref()?)?;
        let hopeless = cx
            .diagnosis
            .failures
            .iter()
            .any(|(failed, status)| *failed == slot && status.code == Code::UnschedulableAndUnresolvable);
        let leaving = cx.cycle.snapshot.pods[slot as usize]
            .iter()
            .any(|other| other.deleting && other.preempted && other.template.priority < pod.template.priority);
        (!hopeless && leaving).then_some("not eligible due to a terminating pod on the nominated node.")
    }
}

extension_points!(DefaultPreemption {
    as_pre_enqueue: PreEnqueue,
    as_post_filter: PostFilter,
    as_enqueue: EnqueueExtensions
});

impl PreEnqueue for DefaultPreemption {
    /// A pod whose victims are still being told to go need not try yet.
    fn pre_enqueue(&self, pod: &PodInfo) -> Verdict {
        if self.executor.is_preempting(&pod.uid) {
            return Err(Status::unresolvable(NAME, "waiting for the preemption for this pod to be finished"));
        }
        Ok(())
    }
}

impl PostFilter for DefaultPreemption {
    fn post_filter(&self, cx: &PostFilterContext<'_>) -> Result<PostFiltered, Arc<Status>> {
        metrics::PREEMPTION_ATTEMPTS.inc();
        let refuse = |message: String, nominate| {
            Ok(PostFiltered { message: format!("preemption: {message}"), nominate, success: false })
        };
        if let Some(reason) = Self::ineligible(cx) {
            return refuse(reason.to_owned(), None);
        }
        let helpful = cx.diagnosis.failures.iter().filter(|(_, status)| status.code == Code::Unschedulable);
        let potential: Vec<u32> = helpful.map(|(slot, _)| *slot).collect();
        let mut failures = Vec::new();
        let mut candidates = Vec::new();
        if !potential.is_empty() {
            let wanted = (potential.len() * self.percentage / 100).max(self.absolute).min(potential.len());
            let offset = cx.dice as usize % potential.len();
            (candidates, failures) = DryRun::new(cx, &*self.listers).run(&potential, offset, wanted)?;
        }
        if candidates.is_empty() {
            let absent = Status::unresolvable(NAME, "Preemption is not helpful for scheduling");
            let diagnosis = Diagnosis { failures, absent: Some(absent), ..Diagnosis::default() };
            return refuse(diagnosis.message(cx.cycle.snapshot.len()), Some(None));
        }
        let candidates = self.extenders.preempt(&cx.cycle, candidates).map_err(|error| Status::error(NAME, error))?;
        let Some(best) = pick(candidates) else {
            return refuse("no candidate node for preemption".into(), None);
        };
        let node = cx.cycle.snapshot.names[best.slot as usize].clone();
        let mut outranked = cx.nominator.pods_on(&node);
        outranked.retain(|other| other.template.priority < cx.cycle.pod.template.priority);
        metrics::PREEMPTION_VICTIMS.observe(best.victims.len() as f64);
        self.executor.start(cx.cycle.pod, &node, best.victims, outranked);
        Ok(PostFiltered { message: String::new(), nominate: Some(Some(node)), success: true })
    }
}

impl EnqueueExtensions for DefaultPreemption {
    fn interests(&self) -> Vec<Interest> {
        vec![Interest { resource: Resource::AssignedPod, action: action::DELETE }]
    }

    /// Whoever rejected the pod judges the event; this interest only reopens the gate.
    fn hint(&self, _pod: &PodInfo, _event: &ClusterEvent) -> Hint {
        Hint::Skip
    }
}
