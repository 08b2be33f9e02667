//! The decision: which node a pod gets. Pure but for the round-robin start and the dice that break ties.
//!
//! Nodes are visited in the snapshot's order from where the last cycle left off, until enough feasible ones are found;
//! those are scored, and one of the best is drawn.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::cache::snapshot::Snapshot;
use crate::extender::Extenders;
use crate::framework::diagnosis::Diagnosis;
use crate::framework::memo::{Memo, Verdicts};
use crate::framework::plugin::{CycleContext, PostFilterContext, PostFiltered, Rejected};
use crate::framework::pod::PodInfo;
use crate::framework::profile::{PreFilterResult, Profile, outranks, rejected_outright};
use crate::framework::status::{Code, Status, Verdict};
use crate::metrics;
use crate::queue::nominator::Nominator;

/// Clusters smaller than this are searched whole; never fewer nodes than this are looked for.
const MIN_FEASIBLE: usize = 100;
/// The adaptive share never falls below this.
const MIN_PERCENTAGE: usize = 5;

/// A node for the pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// The node.
    pub slot: u32,
    /// Its name.
    pub node: Arc<str>,
    /// How many nodes were looked at.
    pub evaluated: usize,
    /// How many of them would do.
    pub feasible: usize,
}

/// No node for the pod.
#[derive(Debug)]
pub enum Failure {
    /// There are no nodes at all.
    NoNodes,
    /// No node fits; says why, and whether PostFilter nominated one (`Some(None)` withdraws a nomination).
    Unfit {
        /// Why.
        diagnosis: Box<Diagnosis>,
        /// Number of all nodes.
        nodes: usize,
        /// The nomination.
        nominate: Option<Option<Arc<str>>>,
    },
    /// The pod has a node, but its group cannot be scheduled (yet).
    Group {
        /// Why.
        message: String,
        /// Where the pod would go.
        nominate: Option<Arc<str>>,
    },
    /// Something broke.
    Error(Arc<Status>),
}

impl Failure {
    /// The text of event and condition.
    pub fn message(&self) -> String {
        match self {
            Self::NoNodes => "no nodes available to schedule pods".into(),
            Self::Unfit { diagnosis, nodes, .. } => diagnosis.message(*nodes),
            Self::Group { message, .. } => message.clone(),
            Self::Error(status) => status.message(),
        }
    }
}

/// Whether what a node says of the pod follows from the two alone: devices may stand behind extended resources, and their
/// classes come and go without the node.
fn remembers(pod: &PodInfo) -> bool {
    pod.template.extended.is_empty()
}

/// How many feasible nodes are enough.
pub fn enough(nodes: usize, percentage: i32) -> usize {
    if nodes < MIN_FEASIBLE {
        return nodes;
    }
    let percentage = match percentage {
        0 => 50usize.saturating_sub(nodes / 125).max(MIN_PERCENTAGE),
        given => given.clamp(0, 100) as usize,
    };
    (nodes * percentage / 100).max(MIN_FEASIBLE)
}

/// The state that outlives a cycle: where to start, what is known of templates, and the dice.
pub struct Decider {
    percentage: i32,
    next_start: usize,
    memos: HashMap<Arc<str>, Memo>,
    dice: StdRng,
    extenders: Arc<Extenders>,
}

/// What one search needs throughout.
struct Search<'a> {
    cx: CycleContext<'a>,
    profile: &'a Profile,
    before: PreFilterResult,
    nominator: &'a Nominator,
    /// Nominated pods that room must be left for, by slot.
    beside: HashMap<u32, Vec<Arc<PodInfo>>>,
    dice: u64,
}

impl Decider {
    /// A decider with a seed for the dice.
    pub fn new(percentage: i32, seed: u64) -> Self {
        let dice = StdRng::seed_from_u64(seed);
        Self { percentage, next_start: 0, memos: HashMap::new(), dice, extenders: Arc::default() }
    }

    /// With extenders to ask.
    #[must_use]
    pub fn extended(self, extenders: Arc<Extenders>) -> Self {
        Self { extenders, ..self }
    }

    /// Finds a node for a pod.
    pub fn decide(
        &mut self,
        profile: &Profile,
        snapshot: &Snapshot,
        pod: &PodInfo,
        nominator: &Nominator,
    ) -> Result<Decision, Failure> {
        let started = Instant::now();
        let result = self.search(profile, snapshot, pod, nominator);
        metrics::ALGORITHM_DURATION.observe(started.elapsed().as_secs_f64());
        result
    }

    fn search(
        &mut self,
        profile: &Profile,
        snapshot: &Snapshot,
        pod: &PodInfo,
        nominator: &Nominator,
    ) -> Result<Decision, Failure> {
        if snapshot.is_empty() {
            return Err(Failure::NoNodes);
        }
        let cx = CycleContext { pod, snapshot };
        let nodes = snapshot.len();
        let before = match profile.run_pre_filter(&cx) {
            Ok(before) => before,
            Err(status) if status.is_rejected() => {
                let diagnosis = rejected_outright(&status);
                let search = Search::new(cx, profile, PreFilterResult::default(), nominator, self.dice.random());
                return Err(search.post_filter(diagnosis, nodes));
            }
            Err(status) => return Err(Failure::Error(status)),
        };
        let search = Search::new(cx, profile, before, nominator, self.dice.random());
        let mut diagnosis = Diagnosis::default();
        let filtering = Instant::now();
        let feasible = self.feasible(&search, &mut diagnosis);
        let label = feasible.as_ref().err().map_or("Success", |status| status.code.as_str());
        metrics::extension_point("Filter", label, &profile.name, filtering.elapsed());
        let feasible = feasible.map_err(Failure::Error)?;
        let evaluated = feasible.len() + diagnosis.failures.len();
        let chosen = match feasible.as_slice() {
            [] => return Err(search.post_filter(diagnosis, nodes)),
            [only] => *only,
            many => {
                let mut scores = match profile.scores() {
                    true => {
                        let scorers = profile.points.score.len();
                        let memo = self.memos.entry(profile.name.clone()).or_default();
                        let memo = &mut memo.of(pod.template.id, snapshot, scorers).scores;
                        let memo = remembers(pod).then_some(memo.as_mut_slice());
                        profile.run_scores(&cx, many, memo).map_err(Failure::Error)?
                    }
                    false => vec![1; many.len()],
                };
                self.extenders.score(&cx, many, &mut scores);
                many[self.draw(&scores)]
            }
        };
        let node = snapshot.names[chosen as usize].clone();
        Ok(Decision { slot: chosen, node, evaluated, feasible: feasible.len() })
    }

    /// The feasible nodes; the nominated one alone if it still fits.
    fn feasible(&mut self, search: &Search<'_>, diagnosis: &mut Diagnosis) -> Result<Vec<u32>, Arc<Status>> {
        let snapshot = search.cx.snapshot;
        let nominated = search.cx.pod.nominated.as_ref().and_then(|node| snapshot.by_name.get(node)).copied();
        if let Some(slot) = nominated.filter(|slot| search.allowed(*slot)) {
            match search.fits(slot) {
                Ok(()) => {
                    let left = self.extenders.filter(&search.cx, vec![slot], &mut Diagnosis::default())?;
                    if !left.is_empty() {
                        return Ok(left);
                    }
                }
                Err(status) if status.code == Code::Error => return Err(status),
                Err(_) => {}
            }
        }
        diagnosis.unschedulable.extend(&search.before.narrowed_by);
        let narrowed: Vec<u32>;
        let order = match &search.before.nodes {
            Some(nodes) => {
                narrowed = nodes.iter().copied().filter(|slot| snapshot.live.contains(*slot)).collect();
                let mut plugins = search.before.narrowed_by.clone();
                plugins.sort_unstable();
                let reason = format!("node(s) didn't satisfy plugin(s) [{}]", plugins.join(" "));
                diagnosis.absent = Some(Status::unresolvable("", reason));
                &narrowed
            }
            None => &snapshot.order,
        };
        let percentage = search.profile.percentage_of_nodes_to_score.unwrap_or(self.percentage);
        let choosy = search.profile.scores() || self.extenders.filters() || self.extenders.scores();
        let wanted = if choosy { enough(order.len(), percentage) } else { 1 };
        let memo = (search.before.nodes.is_none() && remembers(search.cx.pod)).then(|| {
            let memo = self.memos.entry(search.profile.name.clone()).or_default();
            &mut memo.of(search.cx.pod.template.id, snapshot, search.profile.points.score.len()).verdicts
        });
        let feasible = search.visit(order, self.next_start, wanted, memo, diagnosis)?;
        self.next_start = (self.next_start + feasible.len() + diagnosis.failures.len()) % snapshot.len();
        self.extenders.filter(&search.cx, feasible, diagnosis)
    }

    /// One of the highest scores, each equally likely.
    fn draw(&mut self, scores: &[i64]) -> usize {
        let (mut best, mut ties) = (0, 1);
        for (at, score) in scores.iter().enumerate().skip(1) {
            if *score > scores[best] {
                (best, ties) = (at, 1);
            } else if *score == scores[best] {
                ties += 1;
                if self.dice.random_range(0..ties) == 0 {
                    best = at;
                }
            }
        }
        best
    }
}

impl<'a> Search<'a> {
    fn new(
        cx: CycleContext<'a>,
        profile: &'a Profile,
        before: PreFilterResult,
        nominator: &'a Nominator,
        dice: u64,
    ) -> Self {
        let mut beside: HashMap<u32, Vec<Arc<PodInfo>>> = HashMap::new();
        for (node, other) in nominator.all() {
            let slot = cx.snapshot.by_name.get(&node).filter(|_| outranks(&other, cx.pod));
            slot.into_iter().for_each(|slot| beside.entry(*slot).or_default().push(other.clone()));
        }
        Self { cx, profile, before, nominator, beside, dice }
    }

    fn allowed(&self, slot: u32) -> bool {
        self.before.nodes.as_ref().is_none_or(|nodes| nodes.contains(&slot))
    }

    /// Looks at nodes from `start` on until enough are found: always as many at once as are still wanted, so that never
    /// one more is looked at than one by one.
    fn visit(
        &self,
        order: &[u32],
        start: usize,
        wanted: usize,
        mut memo: Option<&mut Verdicts>,
        diagnosis: &mut Diagnosis,
    ) -> Result<Vec<u32>, Arc<Status>> {
        let (last, first) = order.split_at(start % order.len().max(1));
        let mut rest = first.iter().chain(last).copied();
        let mut feasible = Vec::with_capacity(wanted.min(order.len()));
        let mut slots = Vec::new();
        while feasible.len() < wanted {
            slots.extend(rest.by_ref().take(wanted - feasible.len()));
            if slots.is_empty() {
                break;
            }
            let rejected = self.sieve(&mut slots, memo.as_deref_mut())?;
            diagnosis.reject(rejected);
            feasible.append(&mut slots);
        }
        Ok(feasible)
    }

    /// Keeps the slots that the pod fits on.
    fn sieve(&self, slots: &mut Vec<u32>, memo: Option<&mut Verdicts>) -> Result<Rejected, Arc<Status>> {
        let mut rejected = Rejected::new();
        if !self.beside.is_empty() {
            slots.retain(|slot| match self.fits_beside(*slot) {
                Ok(()) => true,
                Err(status) => {
                    rejected.push((*slot, status));
                    false
                }
            });
        }
        self.profile.sieve(&self.cx, &self.before, memo, slots, &mut rejected)?;
        Ok(rejected)
    }

    /// Whether there is room beside the pods nominated to the node.
    fn fits_beside(&self, slot: u32) -> Verdict {
        let Some(others) = self.beside.get(&slot) else { return Ok(()) };
        self.profile.fits_beside(&self.cx, &self.before, &self.cx.snapshot.node(slot), others)
    }

    fn fits(&self, slot: u32) -> Verdict {
        self.fits_beside(slot)?;
        self.profile.run_filters(&self.cx, &self.before, &self.cx.snapshot.node(slot))
    }

    /// Nothing fits: asks PostFilter to make room.
    fn post_filter(&self, mut diagnosis: Diagnosis, nodes: usize) -> Failure {
        let started = Instant::now();
        let cx = PostFilterContext {
            cycle: self.cx,
            profile: self.profile,
            before: &self.before,
            diagnosis: &diagnosis,
            nominator: self.nominator,
            dice: self.dice,
        };
        let answer = if self.profile.points.post_filter.is_empty() {
            Ok(PostFiltered { nominate: Some(None), ..PostFiltered::default() })
        } else {
            self.profile.run_post_filter(&cx)
        };
        let label = answer.as_ref().err().map_or("Success", |status| status.code.as_str());
        metrics::extension_point("PostFilter", label, &self.profile.name, started.elapsed());
        let nominate = match answer {
            Ok(answer) => {
                diagnosis.post_filter = answer.message;
                answer.nominate
            }
            Err(status) => {
                tracing::error!(pod = self.cx.pod.key(), status = status.message(), "PostFilter failed");
                diagnosis.post_filter = status.message();
                None
            }
        };
        Failure::Unfit { diagnosis: Box::new(diagnosis), nodes, nominate }
    }
}
