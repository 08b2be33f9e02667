//! The search: every request of every claim, device after device, taking back what leads nowhere.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Instant;

use common::meta::Quantity;
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::api::resource::v1::AllocationResult;

use super::allocated::Allocated;
use super::capacity::{self, Amounts};
use super::constraint::Constraint;
use super::devices::{Counters, Device, DeviceId, Slice};
use super::inventory::{Inventory, Pool, State};
use super::problem::{MAX_RESULTS, Problem, Want, key};
use super::result;

/// Why there is no allocation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// Not on this node.
    Unfit,
    /// Not on this node, for this reason.
    Because(String),
    /// Time ran out.
    TimedOut,
    /// Claim, class or pool is broken: on no node.
    Error(String),
}

/// A device, by its place in the node's pools.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    pool: usize,
    slice: usize,
    device: usize,
}

/// A device chosen for a request.
pub struct Pick<'a> {
    /// For which request (or alternative).
    pub want: &'a Want,
    /// From which slice.
    pub slice: &'a Arc<Slice>,
    /// Which of its devices.
    pub device: usize,
    /// For devices that can be shared: what the claim takes.
    pub taken: Option<Amounts>,
    place: Place,
    counted: bool,
}

/// Allocates a pod's claims on a node: one result per claim.
pub fn allocate(
    problem: &Problem,
    inventory: &Inventory,
    allocated: &Allocated,
    node: &Arc<Node>,
    deadline: Option<Instant>,
) -> Result<Vec<AllocationResult>, Failure> {
    let pools = inventory.pools(node);
    let mut search = Search {
        problem,
        pools: &pools,
        node,
        allocated,
        deadline,
        steps: 0,
        all: HashMap::new(),
        constraints: problem.claims.iter().map(|claim| claim.constraints.clone()).collect(),
        picks: problem.claims.iter().map(|_| Vec::new()).collect(),
        choices: problem.claims.iter().map(|claim| vec![0; claim.requests.len()]).collect(),
        taking: HashMap::new(),
        sharing: HashMap::new(),
        counters: HashMap::new(),
    };
    search.prepare().map_err(Failure::Error)?;
    match search.next_claim(0) {
        Ok(true) => Ok(result::build(problem, &search.picks, &search.choices, node)),
        Ok(false) | Err(Stop::TooMany) => {
            let invalid = pools.iter().any(|pool| pool.state == State::Invalid);
            let text = "invalid resource pools were encountered";
            Err(if invalid { Failure::Because(text.into()) } else { Failure::Unfit })
        }
        Err(Stop::TimedOut) => Err(Failure::TimedOut),
        Err(Stop::Error(error)) => Err(Failure::Error(error)),
    }
}

/// What ends a search before its time.
enum Stop {
    /// More devices than a claim can hold: whatever else is tried for earlier requests, this one will not fit.
    TooMany,
    TimedOut,
    Error(String),
}

type Found = Result<bool, Stop>;

struct Search<'a> {
    problem: &'a Problem,
    pools: &'a [Pool],
    node: &'a Node,
    allocated: &'a Allocated,
    deadline: Option<Instant>,
    steps: u32,
    /// For requests of all devices (claim, request, alternative): which these are.
    all: HashMap<(usize, usize, usize), Vec<Place>>,
    constraints: Vec<Vec<Constraint>>,
    picks: Vec<Vec<Pick<'a>>>,
    /// Per claim and request, the alternative in use.
    choices: Vec<Vec<usize>>,
    /// Devices that claims of this search hold, with the claims' numbers.
    taking: HashMap<&'a DeviceId, Vec<usize>>,
    /// What claims of this search take of devices that can be shared.
    sharing: HashMap<&'a DeviceId, (u32, Amounts)>,
    /// What is left of a pool's counters.
    counters: HashMap<usize, BTreeMap<&'a str, Counters>>,
}

/// How often the clock is looked at.
const LOOK: u32 = 64;

impl<'a> Search<'a> {
    /// Counts devices: fails when a claim can never be satisfied.
    fn prepare(&mut self) -> Result<(), String> {
        for (at, claim) in self.problem.claims.iter().enumerate() {
            let mut least = 0;
            for (request, choices) in claim.requests.iter().enumerate() {
                let mut fewest = usize::MAX;
                for (choice, want) in choices.iter().enumerate() {
                    let count = match want.count {
                        Some(count) => count,
                        None => {
                            let places = self.all_devices(want, &key(&claim.claim))?;
                            let count = places.len();
                            self.all.insert((at, request, choice), places);
                            count
                        }
                    };
                    fewest = fewest.min(count);
                }
                least += if choices.is_empty() { 0 } else { fewest };
            }
            if least > MAX_RESULTS {
                let claim = key(&claim.claim);
                return Err(format!(
                    "claim {claim}: number of requested devices {least} exceeds the claim limit of {MAX_RESULTS}"
                ));
            }
        }
        Ok(())
    }

    fn all_devices(&self, want: &Want, claim: &str) -> Result<Vec<Place>, String> {
        let mut places = Vec::new();
        for (number, pool) in self.pools.iter().enumerate() {
            let trouble = match pool.state {
                State::Ready => "",
                State::Incomplete => "being updated",
                State::Invalid => "invalid",
            };
            if !trouble.is_empty() {
                let (name, pool) = (&want.name, format!("{}/{}", pool.id.0, pool.id.1));
                return Err(format!(
                    "claim {claim}, request {name}: asks for all devices, but resource pool {pool} is currently {trouble}"
                ));
            }
            for place in places_of(number, pool, 0, 0) {
                if self.selectable(want, place)? && self.share(want, place).is_some() {
                    places.push(place);
                }
            }
        }
        Ok(places)
    }

    fn slice(&self, place: Place) -> &'a Arc<Slice> {
        &self.pools[place.pool].slices[place.slice]
    }

    fn device(&self, place: Place) -> &'a Device {
        &self.slice(place).devices[place.device]
    }

    /// Whether a device is one that the request means, in use or not.
    fn selectable(&self, want: &Want, place: Place) -> Result<bool, String> {
        let slice = self.slice(place);
        let conditions = slice.device_api(place.device).and_then(|device| device.binding_conditions.as_ref());
        if !self.problem.features.binding_conditions && conditions.is_some_and(|conditions| !conditions.is_empty()) {
            return Ok(false);
        }
        if !want.selects(slice, place.device)? {
            return Ok(false);
        }
        let own = slice.api.spec.per_device_node_selection == Some(true);
        Ok(!own || slice.devices[place.device].reach.includes(self.node))
    }

    /// What the request takes of the device's capacity; `None` when there is not enough left.
    fn share(&self, want: &Want, place: Place) -> Option<Amounts> {
        if !self.problem.features.consumable_capacity {
            return Some(Amounts::new());
        }
        let device = self.device(place);
        let used = [self.allocated.capacity(&device.id), self.sharing.get(&device.id).map(|(_, taken)| taken)];
        capacity::take(&device.capacity, &want.capacity, &used)
    }

    fn next_claim(&mut self, claim: usize) -> Found {
        if claim == self.problem.claims.len() {
            return Ok(true);
        }
        match self.next_request(claim, 0) {
            // Another choice for an earlier claim may leave room.
            Err(Stop::TooMany) => Ok(false),
            other => other,
        }
    }

    fn next_request(&mut self, claim: usize, request: usize) -> Found {
        let problem = self.problem;
        let Some(choices) = problem.claims[claim].requests.get(request) else { return self.next_claim(claim + 1) };
        let mut too_many = true;
        for (choice, want) in choices.iter().enumerate() {
            self.choices[claim][request] = choice;
            let found = self.next_device((claim, request, choice), want, 0, Place { pool: 0, slice: 0, device: 0 });
            match found {
                Err(Stop::TooMany) => continue,
                Ok(false) => too_many = false,
                other => return other,
            }
        }
        if too_many { Err(Stop::TooMany) } else { Ok(false) }
    }

    fn tick(&mut self) -> Result<(), Stop> {
        self.steps += 1;
        let late = self.steps.is_multiple_of(LOOK) && self.deadline.is_some_and(|deadline| Instant::now() >= deadline);
        if late { Err(Stop::TimedOut) } else { Ok(()) }
    }

    /// The `number`th device of a request, from a place on: order within a request does not matter, so each set of devices
    /// is tried once.
    fn next_device(&mut self, at: (usize, usize, usize), want: &'a Want, number: usize, from: Place) -> Found {
        self.tick()?;
        let (claim, request, _) = at;
        let all = self.all.get(&at).cloned();
        let count = want.count.unwrap_or_else(|| all.as_ref().map_or(0, Vec::len));
        if want.count.is_none() && count == 0 {
            return Ok(false);
        }
        if number >= count {
            return self.next_request(claim, request + 1);
        }
        if self.picks[claim].len() + count - number > MAX_RESULTS {
            return Err(Stop::TooMany);
        }
        if let Some(places) = all {
            let place = places[number];
            return match self.pick(claim, want, place, true)? {
                true => self.go_on(at, want, number, from, claim),
                false => Ok(false),
            };
        }
        let pools = self.pools;
        for (number_of_pool, pool) in pools.iter().enumerate().skip(from.pool).filter(|(_, p)| p.state == State::Ready)
        {
            let (slice, device) = if number_of_pool == from.pool { (from.slice, from.device) } else { (0, 0) };
            for place in places_of(number_of_pool, pool, slice, device) {
                if self.in_use(want, place, claim)
                    || !self.selectable(want, place).map_err(Stop::Error)?
                    || !self.pick(claim, want, place, false)?
                {
                    continue;
                }
                let next = Place { device: place.device + 1, ..place };
                if self.go_on(at, want, number, next, claim)? {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    /// With a device picked, looks for the rest; takes the pick back if there is none.
    fn go_on(&mut self, at: (usize, usize, usize), want: &'a Want, number: usize, next: Place, claim: usize) -> Found {
        let found = self.next_device(at, want, number + 1, next);
        if !matches!(found, Ok(true)) {
            self.unpick(claim);
        }
        found
    }

    fn in_use(&self, want: &Want, place: Place, claim: usize) -> bool {
        let id = &self.device(place).id;
        let holders = self.taking.get(id).map(Vec::as_slice).unwrap_or_default();
        match want.admin {
            true => holders.contains(&claim),
            false => !holders.is_empty() || self.allocated.is_whole(id),
        }
    }

    /// Takes a device if it is free, has enough left, and no taint or constraint is against it. With `must`, a constraint
    /// against it is an error: there is no other device to try.
    fn pick(&mut self, claim: usize, want: &'a Want, place: Place, must: bool) -> Found {
        let (slice, device) = (self.slice(place), self.device(place));
        let Some(api) = slice.device_api(place.device) else { return Ok(false) };
        let features = self.problem.features;
        let multiple = features.consumable_capacity && device.multiple;
        if self.in_use(want, place, claim)
            || (!features.partitionable_devices && !device.consumes.is_empty())
            || (features.device_taints && !want.tolerates(api.taints.as_deref().unwrap_or_default()))
        {
            return Ok(false);
        }
        let Some(taken) = self.share(want, place) else { return Ok(false) };
        // Who shares a device has its counters from the first.
        let shared = self.sharing.contains_key(&device.id) || self.allocated.capacity(&device.id).is_some();
        let has_them = device.consumes.is_empty() || (multiple && shared);
        let counted = !has_them;
        if counted && !self.count(place) {
            return Ok(false);
        }
        for at in 0..self.constraints[claim].len() {
            if !self.constraints[claim][at].pick(want.key(), api, &slice.driver) {
                self.constraints[claim][..at].iter_mut().for_each(|constraint| constraint.unpick(want.key()));
                if counted {
                    self.uncount(place);
                }
                if must {
                    let (claim, id) = (key(&self.problem.claims[claim].claim), &device.id);
                    return Err(Stop::Error(format!(
                        "claim {claim}, request {}: cannot add device {id} because a claim constraint would not be satisfied",
                        want.name
                    )));
                }
                return Ok(false);
            }
        }
        if multiple {
            let (shares, total) = self.sharing.entry(&device.id).or_default();
            *shares += 1;
            for (name, taken) in &taken {
                total.entry(name.clone()).or_insert(Quantity::zero()).add(taken);
            }
        } else {
            self.taking.entry(&device.id).or_default().push(claim);
        }
        let taken = multiple.then_some(taken);
        self.picks[claim].push(Pick { want, slice, device: place.device, taken, place, counted });
        Ok(true)
    }

    fn unpick(&mut self, claim: usize) {
        let Some(pick) = self.picks[claim].pop() else { return };
        self.constraints[claim].iter_mut().for_each(|constraint| constraint.unpick(pick.want.key()));
        let id = &pick.slice.devices[pick.device].id;
        match &pick.taken {
            Some(taken) => {
                if let Some((shares, total)) = self.sharing.get_mut(id) {
                    *shares -= 1;
                    for (name, taken) in taken {
                        total.entry(name.clone()).or_insert(Quantity::zero()).sub(taken);
                    }
                    if *shares == 0 {
                        self.sharing.remove(id);
                    }
                }
            }
            None => {
                if let Some(holders) = self.taking.get_mut(id)
                    && let Some(at) = holders.iter().rposition(|holder| *holder == claim)
                {
                    holders.remove(at);
                }
            }
        }
        if pick.counted {
            self.uncount(pick.place);
        }
    }

    /// Takes a device's counters; false (and nothing taken) when there are not enough.
    fn count(&mut self, place: Place) -> bool {
        let consumes = &self.device(place).consumes;
        let left = self.left(place.pool);
        let short = consumes.iter().any(|(set, consumed)| {
            consumed.iter().any(|(name, amount)| {
                left.get(set.as_str()).and_then(|set| set.get(name)).is_none_or(|left| left < amount)
            })
        });
        if !short {
            each_counter(left, consumes, Quantity::sub);
        }
        !short
    }

    fn uncount(&mut self, place: Place) {
        let consumes = &self.device(place).consumes;
        each_counter(self.left(place.pool), consumes, Quantity::add);
    }

    /// What is left of a pool's counters: all, less what its devices in use consume.
    fn left(&mut self, number: usize) -> &mut BTreeMap<&'a str, Counters> {
        let (pools, allocated) = (self.pools, self.allocated);
        self.counters.entry(number).or_insert_with(|| {
            let pool = &pools[number];
            let mut left: BTreeMap<&str, Counters> =
                pool.counters.iter().map(|(name, counters)| (name.as_str(), counters.clone())).collect();
            for device in pool.slices.iter().chain(&pool.others).flat_map(|slice| &slice.devices) {
                if allocated.is_used(&device.id) {
                    each_counter(&mut left, &device.consumes, Quantity::sub);
                }
            }
            left
        })
    }
}

fn each_counter(
    left: &mut BTreeMap<&str, Counters>,
    consumes: &[(String, Counters)],
    change: fn(&mut Quantity, &Quantity),
) {
    for (set, consumed) in consumes {
        let Some(left) = left.get_mut(set.as_str()) else { continue };
        for (name, amount) in consumed {
            if let Some(left) = left.get_mut(name) {
                change(left, amount);
            }
        }
    }
}

/// The devices of a pool, from one on.
fn places_of(pool: usize, of: &Pool, slice: usize, device: usize) -> impl Iterator<Item = Place> + use<> {
    let counts: Vec<usize> = of.slices.iter().map(|slice| slice.devices.len()).collect();
    counts.into_iter().enumerate().skip(slice).flat_map(move |(at, count)| {
        let from = if at == slice { device } else { 0 };
        (from..count).map(move |device| Place { pool, slice: at, device })
    })
}
