//! What one attempt to place a pod knows of its claims, from PreFilter to the end of its binding.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use common::meta::nodeselector::Term;
use k8s_openapi::api::core::v1::{ContainerExtendedResourceRequest, Node};
use k8s_openapi::api::resource::v1::{AllocationResult, ResourceClaim};
use parking_lot::Mutex;

use super::allocator::{Allocated, Failure, Inventory, Problem, allocate};
use super::claims::allocation;
use super::cluster::Devices;
use super::extended;
use crate::framework::pod::PodInfo;

/// The claim that the scheduler makes for a pod's extended resources.
pub struct Special {
    /// In memory until PreBind, unless an earlier attempt left it behind.
    pub claim: Arc<ResourceClaim>,
    /// An earlier attempt wrote it: it has to go before the pod can be placed.
    pub stale: bool,
}

/// How a node's devices are asked for: the same for all nodes that offer the same resources without devices.
pub struct Plan {
    /// The claims to allocate, or what is wrong with them.
    problem: Result<Problem, String>,
    /// The special claim with its requests, and which container gets which.
    pub special: Option<(Arc<ResourceClaim>, Vec<ContainerExtendedResourceRequest>)>,
    /// Where the problem's claims are in the pod's list; the special one comes after the pod's own.
    places: Vec<usize>,
}

/// Devices for a pod on one node.
#[derive(Clone)]
pub struct Found {
    /// Per claim to allocate: where it is in the pod's list, and its devices.
    pub results: Vec<(usize, AllocationResult)>,
    /// How they were asked for.
    pub plan: Arc<Plan>,
}

/// The attempt.
pub struct Cycle {
    /// The pod's own claims; written ones replace those from the start.
    pub claims: Mutex<Vec<Arc<ResourceClaim>>>,
    /// Of claims that are allocated: where.
    pub reach: Vec<Option<Vec<Term>>>,
    /// For extended resources.
    pub special: Option<Special>,
    /// Claims that could not be used on some node.
    pub unavailable: Mutex<BTreeSet<usize>>,
    /// What was found per node.
    pub found: Mutex<HashMap<Arc<str>, Found>>,
    /// Claims whose allocation is decided and not yet written.
    pub decided: Mutex<Vec<(usize, Arc<ResourceClaim>)>>,
    /// The special claim as written, to be deleted should the binding fail.
    pub written: Mutex<Option<Arc<ResourceClaim>>>,
    /// Whether PreBind has begun to write.
    pub binding: AtomicBool,
    inventory: Arc<Inventory>,
    allocated: Allocated,
    plans: Mutex<HashMap<Vec<Arc<str>>, Arc<Plan>>>,
}

impl Cycle {
    /// With the pod's own claims and, maybe, the special one.
    pub fn new(devices: &Devices, claims: Vec<Arc<ResourceClaim>>, special: Option<Special>) -> Self {
        let reach = |claim: &Arc<ResourceClaim>| {
            let selector = allocation(claim).and_then(|allocation| allocation.node_selector.as_ref());
            selector.map(Term::parse_all)
        };
        Self {
            reach: claims.iter().map(reach).collect(),
            claims: Mutex::new(claims),
            special,
            unavailable: Mutex::default(),
            found: Mutex::default(),
            decided: Mutex::default(),
            written: Mutex::default(),
            binding: AtomicBool::new(false),
            inventory: devices.inventory(),
            allocated: devices.claims.allocated(),
            plans: Mutex::default(),
        }
    }

    /// Whether anything has to be allocated.
    pub fn allocates(&self) -> bool {
        self.special.is_some() || self.claims.lock().iter().any(|claim| allocation(claim).is_none())
    }

    /// The plan for nodes where devices have to stand behind these extended resources.
    fn plan(&self, devices: &Devices, pod: &PodInfo, backed: Vec<Arc<str>>) -> Arc<Plan> {
        let mut plans = self.plans.lock();
        if let Some(plan) = plans.get(&backed) {
            return plan.clone();
        }
        let own = self.claims.lock().clone();
        let special = match &self.special {
            Some(special) if !backed.is_empty() => Some(extended::requests(pod, &special.claim, &backed, devices)),
            _ => None,
        };
        let open = own.iter().enumerate().filter(|(_, claim)| allocation(claim).is_none());
        let mut places: Vec<usize> = open.clone().map(|(at, _)| at).collect();
        places.extend(special.as_ref().map(|_| own.len()));
        let wanted = open.map(|(_, claim)| claim).chain(special.as_ref().map(|(claim, _)| claim));
        let class = |name: &str| devices.classes.get("", name);
        let problem = Problem::new(wanted, class, &devices.programs, devices.features);
        let plan = Arc::new(Plan { problem, special, places });
        plans.insert(backed, plan.clone());
        plan
    }

    /// Looks for devices on a node.
    pub fn allocate(
        &self,
        devices: &Devices,
        pod: &PodInfo,
        node: &Arc<Node>,
        backed: Vec<Arc<str>>,
        deadline: Option<Instant>,
    ) -> Result<(), Failure> {
        let plan = self.plan(devices, pod, backed);
        let problem = plan.problem.as_ref().map_err(|error| Failure::Error(error.clone()))?;
        let results = allocate(problem, &self.inventory, &self.allocated, node, deadline)?;
        let results = plan.places.iter().copied().zip(results).collect();
        let name = node.metadata.name.as_deref().unwrap_or_default().into();
        self.found.lock().insert(name, Found { results, plan });
        Ok(())
    }

    /// How much a node's devices are what the claims would have liked best: eight for each first choice, less for later ones.
    pub fn score(&self, node: &str) -> i64 {
        let found = self.found.lock();
        let Some(found) = found.get(node) else { return 0 };
        let claims = self.claims.lock();
        let special = found.plan.special.as_ref().map(|(claim, _)| claim);
        let of = |(at, claim): (usize, &Arc<ResourceClaim>)| {
            let decided = found.results.iter().find(|(place, _)| *place == at).map(|(_, result)| result);
            preference(claim, allocation(claim).or(decided))
        };
        claims.iter().chain(special).enumerate().map(of).sum()
    }
}

/// Upstream's limit of alternatives, and so the score of the first.
const ALTERNATIVES: i64 = 8;

fn preference(claim: &ResourceClaim, allocation: Option<&AllocationResult>) -> i64 {
    let devices = allocation.and_then(|allocation| allocation.devices.as_ref());
    let used: BTreeSet<&str> = devices
        .iter()
        .flat_map(|devices| devices.results.iter().flatten())
        .map(|result| result.request.as_str())
        .collect();
    let mut score = 0;
    for request in claim.spec.devices.iter().flat_map(|devices| devices.requests.iter().flatten()) {
        for (choice, rank) in request.first_available.iter().flatten().zip((1..=ALTERNATIVES).rev()) {
            if used.contains(format!("{}/{}", request.name, choice.name).as_str()) {
                score += rank;
            }
        }
    }
    score
}
