//! API priority and fairness: every request belongs to a flow of a FlowSchema, and every schema's requests to a
//! priority level, which has its part of the server's seats. Who finds none waits his turn or is refused.
//!
//! `rules` classify, `work` says how many seats a request takes, `queues` give them out, `borrow` moves seats to the levels
//! that need them, `keep` follows the objects and keeps those that every cluster has (`defaults`).
//! While seats are free, a request costs a look at the schemas and two short locks of its level.

mod borrow;
mod deal;
pub mod defaults;
mod demand;
mod dump;
pub mod keep;
mod level;
mod metrics;
mod queues;
mod refusals;
mod rules;
mod timing;
mod watches;
mod work;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use arc_swap::ArcSwap;
use http::HeaderValue;
use parking_lot::Mutex;
use serde_json::Value;
use tokio::time::Instant;

use self::{
    borrow::Need,
    demand::Smoothed,
    level::{Budget, Level, Queuing},
    metrics::{Counted, Flow},
    queues::{Answer, Queues, Seat, Ticket},
    refusals::Refusals,
    watches::{Watches, Watching},
    work::Work,
};
pub use work::Stock;

use crate::{
    authn::User,
    request::{Query, RequestInfo},
};

/// The level and schema of those who may always.
const EXEMPT: &str = "exempt";
/// The level and schema of whatever no other schema is for.
const CATCH_ALL: &str = "catch-all";

/// Priority and fairness of one server.
pub struct FlowControl {
    /// Seats of the server.
    seats: u32,
    /// In the order in which they are asked.
    schemas: ArcSwap<Vec<Schema>>,
    levels: Mutex<BTreeMap<String, Managed>>,
    refusals: Refusals,
    watches: Watches,
}

struct Schema {
    name: String,
    uid: HeaderValue,
    level_uid: HeaderValue,
    spec: rules::Spec,
    queuing: Queuing,
    widest: Option<u64>,
    queues: Arc<Queues>,
    flow: Arc<Flow>,
}

/// A priority level at work.
struct Managed {
    level: Level,
    queues: Arc<Queues>,
    budget: Budget,
    demand: Smoothed,
    /// Its seats at the moment; `None` at first.
    current: Option<u32>,
    /// Its object is gone; it stays until its last request is answered.
    leaving: bool,
}

/// A classified request.
pub struct Entry {
    /// The schema's uid.
    pub schema: HeaderValue,
    /// The priority level's uid.
    pub level: HeaderValue,
    /// The request's seats, or after how many seconds the client may come back.
    pub pass: Result<Pass, u64>,
}

/// A request that may be served.
pub struct Pass {
    /// Its seats; of a watch, until it has been initialized.
    pub seat: Occupied,
    /// Counts a watch until it ends.
    pub watching: Option<Watching>,
}

/// Seats that are taken until this is dropped.
pub struct Occupied {
    _seat: Seat,
    _counted: Counted,
}

impl FlowControl {
    /// For so many seats; until it is configured, with the mandatory objects only.
    #[must_use]
    pub fn new(seats: u32) -> Self {
        let control = Self {
            seats,
            schemas: ArcSwap::default(),
            levels: Mutex::default(),
            refusals: Refusals::default(),
            watches: Watches::default(),
        };
        control.configure(&[], &[]);
        control
    }

    /// Classifies a request and waits, no longer than `until`, for its seats.
    pub async fn enter(
        &self,
        info: &Arc<RequestInfo>,
        user: &Arc<User>,
        query: &Query,
        stock: impl FnOnce() -> Option<Stock>,
        until: Instant,
    ) -> Option<Entry> {
        let schemas = self.schemas.load_full();
        let schema = schemas.iter().find(|schema| schema.spec.matches(info, user));
        let schema = schema.or_else(|| schemas.iter().find(|schema| schema.name == CATCH_ALL))?;
        let count = || {
            let watches = self.watches.told_of(info);
            schema.flow.watched(watches);
            watches
        };
        let work = Work::of(info, query, schema.widest, stock, count);
        schema.flow.seats.observe(work.widest() as f64);
        let number = match schema.queuing {
            Queuing::Wait { queues: 2.., .. } => deal::number(&schema.name, schema.spec.flow(info, user)),
            _ => 0,
        };
        let ticket = Ticket {
            flow: Arc::clone(&schema.flow),
            number,
            by: schema.spec.distinguisher_method,
            work,
            info: Arc::clone(info),
            user: Arc::clone(user),
        };
        let seat = self.seat(schema, ticket, until).await;
        let pass = match seat {
            Some(seat) => {
                let counted = Counted::new(mutates(info), true);
                let watching = (info.verb == "watch").then(|| self.watches.register(info, query)).flatten();
                Ok(Pass { seat: Occupied { _seat: seat, _counted: counted }, watching })
            }
            None => Err(self.refusals.count(schema.queues.level())),
        };
        Some(Entry { schema: schema.uid.clone(), level: schema.level_uid.clone(), pass })
    }

    async fn seat(&self, schema: &Schema, ticket: Ticket, until: Instant) -> Option<Seat> {
        let (exempt, mutates) = (schema.queuing == Queuing::Exempt, mutates(&ticket.info));
        match schema.queues.arrive(ticket) {
            Answer::Seated(seat) => {
                if !exempt {
                    schema.flow.waited(0.0, true);
                }
                Some(seat)
            }
            Answer::Queued(place) => {
                let _counted = Counted::new(mutates, false);
                let began = Instant::now();
                let seat = place.wait(until).await;
                schema.flow.waited(began.elapsed().as_secs_f64(), seat.is_some());
                seat
            }
            Answer::Refused => {
                schema.flow.waited(0.0, false);
                None
            }
        }
    }

    /// Goes over to these objects; says which priority levels there are, as far as they are usable.
    pub fn configure(&self, levels: &[Value], schemas: &[Value]) -> BTreeSet<String> {
        let wanted: Vec<Level> = levels.iter().filter_map(Level::of).collect();
        let known: BTreeSet<String> = wanted.iter().map(|level| level.name.clone()).collect();
        let mut managed = self.levels.lock();
        self.take_over(&mut managed, wanted);
        self.share_out(&mut managed);
        self.schemas.store(Arc::new(self.ordered(&managed, schemas, &known)));
        known
    }

    /// Brings levels into being, changes them, and lets those go that nobody wants and nobody uses.
    fn take_over(&self, managed: &mut BTreeMap<String, Managed>, mut wanted: Vec<Level>) {
        for object in defaults::mandatory_levels() {
            let level = Level::of(&object);
            wanted.extend(level.filter(|level| !wanted.iter().any(|other| other.name == level.name)));
        }
        managed.retain(|name, managed| {
            managed.leaving = !wanted.iter().any(|level| level.name == *name);
            !managed.leaving || !managed.queues.is_idle()
        });
        for level in wanted {
            match managed.get_mut(&level.name) {
                Some(managed) => managed.level = level,
                None => {
                    let fresh = Managed {
                        queues: Queues::new(&level.name, level.queuing, 0),
                        budget: Budget::default(),
                        demand: Smoothed::default(),
                        current: None,
                        leaving: false,
                        level,
                    };
                    managed.insert(fresh.level.name.clone(), fresh);
                }
            }
        }
    }

    /// Divides the server's seats by shares.
    fn share_out(&self, managed: &mut BTreeMap<String, Managed>) {
        let shares = managed.values().map(|managed| managed.level.shares).sum();
        let mut places = 0.0;
        for managed in managed.values_mut() {
            managed.budget = managed.level.budget(self.seats, shares);
            let Budget { nominal, least, most, start } = managed.budget;
            managed.queues.gauges().limits([nominal, least, most]);
            managed.current.get_or_insert(start);
            if let Queuing::Wait { queues, length, .. } = managed.level.queuing {
                places += f64::from(queues) * f64::from(length);
            }
        }
        let nominal = managed.values().map(|managed| f64::from(managed.budget.nominal)).sum();
        metrics::kinds_out_of(places, nominal);
        self.lend(managed);
    }

    /// Moves seats to where they are needed; to be called every ten seconds.
    pub fn adjust(&self) {
        let mut managed = self.levels.lock();
        let levels = managed.len();
        managed.retain(|_, managed| !managed.leaving || !managed.queues.is_idle());
        if managed.len() < levels {
            self.share_out(&mut managed);
        } else {
            self.lend(&mut managed);
        }
    }

    fn lend(&self, managed: &mut BTreeMap<String, Managed>) {
        let seats: u32 = managed.values().map(|managed| managed.budget.nominal).sum();
        let mut needs: Vec<(&mut Managed, Need)> = Vec::new();
        let mut exempt: Vec<(&mut Managed, u32)> = Vec::new();
        for managed in managed.values_mut() {
            managed.demand.add(managed.queues.take_demand());
            let (budget, high) = (managed.budget, managed.demand.period.highest as u32);
            if managed.level.queuing == Queuing::Exempt {
                exempt.push((managed, budget.least.max(high)));
            } else {
                let least = f64::from(budget.least.max(budget.nominal.min(high)));
                let need = Need { least, most: budget.most.into(), target: least.max(managed.demand.need) };
                needs.push((managed, need));
            }
        }
        let rest = f64::from(seats) - exempt.iter().map(|(_, seats)| f64::from(*seats)).sum::<f64>();
        let least: f64 = needs.iter().map(|(managed, _)| f64::from(managed.budget.least)).sum();
        let used: f64 = needs.iter().map(|(_, need)| need.least).sum();
        let wishes: Vec<Need> = needs.iter().map(|(_, need)| *need).collect();
        let (given, fraction) = if rest <= used {
            // The exempt take so much that the others cannot even keep what they use.
            let part = if used > least { ((rest - least) / (used - least)).max(0.0) } else { 0.0 };
            let keep = |(managed, need): &(&mut Managed, Need)| {
                let least = f64::from(managed.budget.least);
                least + (need.least - least) * part
            };
            (needs.iter().map(keep).collect(), 0.0)
        } else {
            let current = || needs.iter().map(|(managed, _)| managed.current.unwrap_or_default().into()).collect();
            borrow::divide(seats.into(), &wishes).unwrap_or_else(|| (current(), 0.0))
        };
        metrics::fair_fraction().set(fraction);
        for ((managed, need), seats) in needs.into_iter().zip(given) {
            self.give(managed, seats.round() as u32, need.target);
        }
        for (managed, seats) in exempt {
            self.give(managed, seats, seats.into());
        }
    }

    fn give(&self, managed: &mut Managed, seats: u32, target: f64) {
        managed.current = Some(seats);
        let capacity = if seats > 0 { f64::from(seats) } else { (f64::from(self.seats) / 10.0).round().max(1.0) };
        managed.queues.configure(managed.level.queuing, seats.into(), capacity);
        let Smoothed { period, need } = managed.demand;
        managed.queues.gauges().adjusted([period.highest, period.average, period.deviation, need], target, seats);
    }

    /// The schemas whose levels exist, in the order of their precedence, between the mandatory ones.
    fn ordered(&self, managed: &BTreeMap<String, Managed>, objects: &[Value], known: &BTreeSet<String>) -> Vec<Schema> {
        let usable = |object: &&Value| {
            rules::Spec::of(object).is_some_and(|spec| known.contains(&spec.priority_level_configuration.name))
        };
        let mut schemas: Vec<Schema> = objects.iter().filter(usable).filter_map(|o| schema(managed, o)).collect();
        schemas.sort_by(|a, b| (a.spec.matching_precedence, &a.name).cmp(&(b.spec.matching_precedence, &b.name)));
        for object in defaults::mandatory_schemas() {
            let Some(missing) = schema(managed, &object).filter(|s| !schemas.iter().any(|o| o.name == s.name)) else {
                continue;
            };
            let at = if missing.name == EXEMPT { 0 } else { schemas.len() };
            schemas.insert(at, missing);
        }
        schemas
    }
}

/// Whether a request counts as one that writes.
fn mutates(info: &RequestInfo) -> bool {
    !matches!(info.verb.as_str(), "get" | "list" | "watch")
}

fn schema(managed: &BTreeMap<String, Managed>, object: &Value) -> Option<Schema> {
    let spec = rules::Spec::of(object)?;
    let managed = managed.get(&spec.priority_level_configuration.name)?;
    let (level, name) = (&managed.level, object["metadata"]["name"].as_str()?);
    let uid = |text: &str| HeaderValue::from_str(text).unwrap_or(HeaderValue::from_static(""));
    Some(Schema {
        name: name.to_owned(),
        uid: uid(object["metadata"]["uid"].as_str().unwrap_or_default()),
        level_uid: uid(&level.uid),
        queuing: level.queuing,
        widest: level.widest(managed.budget.nominal),
        queues: Arc::clone(&managed.queues),
        flow: Arc::new(Flow::new(&level.name, name)),
        spec,
    })
}

#[cfg(test)]
mod tests;
