//! The requests of one priority level: those that have seats, and the queues of those that wait.
//!
//! Fair queuing. Every queue with requests should get the same number of seats. Virtual time (`progress`, in
//! seat-seconds) runs as fast as each of them is served; a queue remembers where in virtual time its next request
//! begins (`next`), and the queue whose next request would be finished first has its turn. A dispatch moves `next` on by
//! the work expected, the end of the request corrects it by the work done.
//! Queues without requests need no memory, so they do not exist: a level of 128 queues at rest is an empty map.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::Arc,
    time::Instant,
};

use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::{
    deal,
    demand::{Integrator, Period},
    level::Queuing,
    metrics::{DEMAND, Flow, LevelGauges, REQUESTS, Refusal, SEATS},
    timing::Timing,
    work::{EXPECTED, Work},
};
use crate::{authn::User, request::RequestInfo};

/// What is known of a request.
#[derive(Clone)]
pub struct Ticket {
    /// The metrics of its flow.
    pub flow: Arc<Flow>,
    /// From which its queues are dealt.
    pub number: u64,
    /// Whether its flow is its user's or its namespace's.
    pub by: Option<super::rules::Distinguisher>,
    /// Its work.
    pub work: Work,
    /// What it asks.
    pub info: Arc<RequestInfo>,
    /// Who asks.
    pub user: Arc<User>,
}

/// The requests of a priority level.
pub struct Queues {
    level: String,
    gauges: LevelGauges,
    state: Mutex<State>,
}

struct State {
    queuing: Queuing,
    limit: u64,
    /// Queues with requests.
    queues: BTreeMap<u32, Queue>,
    /// Requests that have seats, but for those that linger.
    executing: HashMap<u64, Executing>,
    progress: f64,
    progress_at: Instant,
    /// Where the last dispatch was from; the queues behind are looked at first.
    turn: u32,
    arrivals: u64,
    waiting: usize,
    seats: u64,
    seats_waiting: u64,
    counts: Counts,
    demand: Integrator,
    /// Of seats, of requests that wait, of requests that are executed, of the demand of seats.
    timings: [Timing; 4],
}

/// What became of all requests.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Executed.
    pub dispatched: u64,
    /// Refused.
    pub rejected: u64,
    /// Of those: waited until their client left or their time was up.
    pub cancelled: u64,
}

#[derive(Default)]
struct Queue {
    next: f64,
    waiting: VecDeque<Waiting>,
    executing: usize,
    seats: u64,
}

struct Waiting {
    id: u64,
    ticket: Ticket,
    /// In virtual time.
    arrival: f64,
    arrived: jiff::Timestamp,
    wake: oneshot::Sender<()>,
}

struct Executing {
    ticket: Ticket,
    queue: Option<u32>,
    started: Instant,
    arrived: jiff::Timestamp,
    dispatched: jiff::Timestamp,
}

/// A request that has seats until this is dropped.
pub struct Seat {
    queues: Arc<Queues>,
    id: u64,
}

/// A request that waits for seats. Dropped, it gives up.
pub struct Place {
    queues: Arc<Queues>,
    id: u64,
    queue: u32,
    wake: Option<oneshot::Receiver<()>>,
}

/// What a request is told.
pub enum Answer {
    /// Go ahead.
    Seated(Seat),
    /// Wait for it.
    Queued(Place),
    /// Come back later.
    Refused,
}

impl Queue {
    fn is_busy(&self) -> bool {
        !self.waiting.is_empty() || self.executing > 0
    }

    fn work(&self) -> f64 {
        self.waiting.iter().map(|waiting| waiting.ticket.work.total()).sum()
    }

    /// A queue that waited must not catch up on what it could not use: no dispatch before the arrival.
    fn bound(&mut self) {
        if let Some(oldest) = self.waiting.front() {
            self.next = self.next.max(oldest.arrival);
        }
    }
}

impl Queues {
    /// Empty queues.
    #[must_use]
    pub fn new(level: &str, queuing: Queuing, limit: u64) -> Arc<Self> {
        let now = Instant::now();
        let timings = [SEATS, REQUESTS, REQUESTS, DEMAND].map(|bounds| Timing::new(bounds, now));
        let state = State {
            queuing,
            limit,
            queues: BTreeMap::new(),
            executing: HashMap::new(),
            progress: 0.0,
            progress_at: now,
            turn: 0,
            arrivals: 0,
            waiting: 0,
            seats: 0,
            seats_waiting: 0,
            counts: Counts::default(),
            demand: Integrator::new(now),
            timings,
        };
        let queues = Self { level: level.to_owned(), gauges: LevelGauges::new(level), state: Mutex::new(state) };
        let queues = Arc::new(queues);
        super::metrics::report(Arc::downgrade(&queues));
        queues
    }

    /// The level's name.
    #[must_use]
    pub fn level(&self) -> &str {
        &self.level
    }

    /// The level's metrics.
    #[must_use]
    pub fn gauges(&self) -> &LevelGauges {
        &self.gauges
    }

    /// Other queues, another number of seats. `capacity` is what ratios of requests are of.
    pub fn configure(&self, queuing: Queuing, limit: u64, capacity: f64) {
        let now = Instant::now();
        let mut state = self.state.lock();
        state.advance(now);
        (state.queuing, state.limit) = (queuing, limit);
        let places = match queuing {
            Queuing::Wait { queues, length, .. } => f64::from(queues) * f64::from(length.max(1)),
            _ => 1.0,
        };
        for (timing, of) in state.timings.iter_mut().zip([capacity, places, capacity, capacity]) {
            timing.out_of(now, of);
        }
        state.dispatch(now, &self.gauges);
    }

    /// Whether no request waits or is executed.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        let state = self.state.lock();
        state.waiting == 0 && state.executing.is_empty()
    }

    /// The demand of seats since the last call.
    #[must_use]
    pub fn take_demand(&self) -> Period {
        self.state.lock().demand.take(Instant::now())
    }

    /// Seats, requests that wait, requests that are executed, demand: over time.
    #[must_use]
    pub fn timings(&self) -> [Timing; 4] {
        let now = Instant::now();
        let mut state = self.state.lock();
        state.timings.iter_mut().for_each(|timing| timing.advance(now));
        state.timings.clone()
    }

    /// A request arrives.
    #[must_use]
    pub fn arrive(self: &Arc<Self>, ticket: Ticket) -> Answer {
        let now = Instant::now();
        let mut state = self.state.lock();
        state.advance(now);
        self.gauges.progress.set(state.progress);
        state.arrivals += 1;
        let (id, arrived) = (state.arrivals, jiff::Timestamp::now());
        let (queues, hand, length) = match state.queuing {
            Queuing::Wait { queues, hand, length } => (queues, hand, length),
            queuing => {
                if queuing == Queuing::Refuse && !state.fits(ticket.work.widest()) {
                    state.counts.rejected += 1;
                    ticket.flow.refused(Refusal::ConcurrencyLimit);
                    return Answer::Refused;
                }
                state.seat(now, id, Executing { ticket, queue: None, started: now, arrived, dispatched: arrived });
                return Answer::Seated(Seat { queues: Arc::clone(self), id });
            }
        };
        let index = state.choose(ticket.number, queues, hand);
        let (taken, progress) = (state.seats >= state.limit, state.progress);
        let unhindered = state.waiting == 0 && state.fits(ticket.work.widest());
        let queue = state.queues.entry(index).or_default();
        if !queue.is_busy() {
            queue.next = progress;
        }
        if unhindered {
            queue.next += ticket.work.total();
            ticket.flow.queue_length.observe(1.0);
            state.turn = index;
            state.seat(now, id, Executing { ticket, queue: Some(index), started: now, arrived, dispatched: arrived });
            return Answer::Seated(Seat { queues: Arc::clone(self), id });
        }
        if taken && queue.waiting.len() >= length as usize {
            state.counts.rejected += 1;
            ticket.flow.refused(Refusal::QueueFull);
            return Answer::Refused;
        }
        let (wake, woken) = oneshot::channel();
        let seats = ticket.work.widest();
        ticket.flow.waiting.inc();
        ticket.flow.waiting_seats.add(seats as i64);
        ticket.flow.queue_length.observe((queue.waiting.len() + 1) as f64);
        queue.waiting.push_back(Waiting { id, ticket, arrival: progress, arrived, wake });
        queue.bound();
        state.waiting += 1;
        state.seats_waiting += seats;
        state.dispatch(now, &self.gauges);
        state.measure(now);
        Answer::Queued(Place { queues: Arc::clone(self), id, queue: index, wake: Some(woken) })
    }

    fn finish(self: &Arc<Self>, id: u64) {
        let now = Instant::now();
        let mut state = self.state.lock();
        state.advance(now);
        let Some(done) = state.executing.remove(&id) else { return };
        let (work, flow) = (done.ticket.work, &done.ticket.flow);
        let took = now.saturating_duration_since(done.started).as_secs_f64();
        flow.executing.dec();
        flow.executed(took, done.ticket.info.verb == "watch");
        if let Some(queue) = done.queue.and_then(|index| state.queues.get_mut(&index)) {
            queue.executing -= 1;
            queue.next += work.seats as f64 * (took - EXPECTED);
            queue.bound();
        }
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) if !work.linger.is_zero() => {
                let queues = Arc::clone(self);
                let (flow, queue) = (Arc::clone(flow), done.queue);
                runtime.spawn(async move {
                    tokio::time::sleep(work.linger).await;
                    let now = Instant::now();
                    let mut state = queues.state.lock();
                    state.advance(now);
                    state.release(now, &flow, queue, work.widest());
                    state.dispatch(now, &queues.gauges);
                });
            }
            _ => state.release(now, flow, done.queue, work.widest()),
        }
        state.dispatch(now, &self.gauges);
        state.measure(now);
    }

    /// Takes a request out of its queue; false when it is not there any more.
    fn give_up(&self, index: u32, id: u64) -> bool {
        let now = Instant::now();
        let mut state = self.state.lock();
        state.advance(now);
        let Some(queue) = state.queues.get_mut(&index) else { return false };
        let Some(at) = queue.waiting.iter().position(|waiting| waiting.id == id) else { return false };
        let Some(waiting) = queue.waiting.remove(at) else { return false };
        queue.bound();
        state.left(&waiting);
        state.counts.rejected += 1;
        state.counts.cancelled += 1;
        waiting.ticket.flow.refused(Refusal::TimeOut);
        state.forget(index);
        // The next of this queue may need fewer seats.
        state.dispatch(now, &self.gauges);
        state.measure(now);
        true
    }

    /// What there is at this moment.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        let state = self.state.lock();
        let mut requests: Vec<Request> = Vec::new();
        for (index, queue) in &state.queues {
            for (position, waiting) in queue.waiting.iter().enumerate() {
                let (ticket, arrived) = (waiting.ticket.clone(), waiting.arrived);
                requests.push(Request {
                    ticket,
                    queue: Some(*index),
                    position: Some(position),
                    arrived,
                    started: None,
                });
            }
        }
        let mut executing: Vec<_> = state.executing.iter().collect();
        executing.sort_by_key(|(id, _)| **id);
        requests.extend(executing.into_iter().map(|(_, executing)| Request {
            ticket: executing.ticket.clone(),
            queue: executing.queue,
            position: None,
            arrived: executing.arrived,
            started: Some(executing.dispatched),
        }));
        let queues = state.queues.iter().map(|(index, queue)| {
            let sum = |of: fn(&Work) -> u64| queue.waiting.iter().map(|waiting| of(&waiting.ticket.work)).sum();
            let row = QueueRow {
                waiting: queue.waiting.len(),
                executing: queue.executing,
                seats: queue.seats,
                next: queue.next,
                seats_waiting: sum(|work| work.seats),
                widest_waiting: sum(Work::widest),
                work_waiting: queue.work(),
            };
            (*index, row)
        });
        Snapshot {
            queues: queues.collect(),
            requests,
            waiting: state.waiting,
            executing: state.executing.len(),
            counts: state.counts,
        }
    }
}

/// A level at some moment.
pub struct Snapshot {
    /// Its queues with requests.
    pub queues: BTreeMap<u32, QueueRow>,
    /// Its requests: those that wait, then those that are executed.
    pub requests: Vec<Request>,
    /// How many wait.
    pub waiting: usize,
    /// How many are executed.
    pub executing: usize,
    /// What became of those before.
    pub counts: Counts,
}

/// A queue at some moment.
#[derive(Debug, Clone, Copy, Default)]
pub struct QueueRow {
    /// Requests that wait.
    pub waiting: usize,
    /// Requests that are executed.
    pub executing: usize,
    /// Seats taken.
    pub seats: u64,
    /// Virtual time of its next dispatch.
    pub next: f64,
    /// Seats wanted while the requests that wait are executed.
    pub seats_waiting: u64,
    /// Seats wanted at most.
    pub widest_waiting: u64,
    /// Seat-seconds wanted.
    pub work_waiting: f64,
}

/// A request at some moment.
pub struct Request {
    /// What is known of it.
    pub ticket: Ticket,
    /// Its queue, if its level has queues.
    pub queue: Option<u32>,
    /// How many are before it, while it waits.
    pub position: Option<usize>,
    /// When it came.
    pub arrived: jiff::Timestamp,
    /// When it got its seats.
    pub started: Option<jiff::Timestamp>,
}

impl State {
    /// Lets virtual time run until now.
    fn advance(&mut self, now: Instant) {
        let elapsed = now.saturating_duration_since(self.progress_at).as_secs_f64();
        self.progress_at = now;
        let busy = self.queues.values().filter(|queue| queue.is_busy()).count();
        if busy > 0 {
            let wanted = (self.seats + self.seats_waiting).min(self.limit);
            self.progress += elapsed * wanted as f64 / busy as f64;
        }
    }

    /// The queue of the flow's hand with the least work waiting; in turns where there are several.
    fn choose(&self, number: u64, queues: u32, hand: u32) -> u32 {
        let cards = deal::deal(number, queues, hand);
        let first = self.arrivals as usize % cards.len().max(1);
        let in_turn = cards[first..].iter().chain(&cards[..first]);
        let work = |index: &u32| if self.waiting == 0 { 0.0 } else { self.queues.get(index).map_or(0.0, Queue::work) };
        in_turn.copied().min_by(|a, b| work(a).total_cmp(&work(b))).unwrap_or_default()
    }

    /// Whether so many seats are free. Who wants more than there are gets them all.
    fn fits(&self, seats: u64) -> bool {
        match self.queuing {
            Queuing::Exempt => true,
            _ if seats > self.limit => self.executing.is_empty(),
            _ => self.seats + seats <= self.limit,
        }
    }

    fn seat(&mut self, now: Instant, id: u64, executing: Executing) {
        let (flow, seats) = (&executing.ticket.flow, executing.ticket.work.widest());
        flow.dispatched.inc();
        flow.executing.inc();
        flow.executing_seats.add(seats as i64);
        self.counts.dispatched += 1;
        self.seats += seats;
        if let Some(queue) = executing.queue.and_then(|index| self.queues.get_mut(&index)) {
            queue.executing += 1;
            queue.seats += seats;
        }
        self.executing.insert(id, executing);
        self.measure(now);
    }

    fn release(&mut self, now: Instant, flow: &Flow, queue: Option<u32>, seats: u64) {
        flow.executing_seats.sub(seats as i64);
        self.seats -= seats;
        if let Some(index) = queue {
            if let Some(queue) = self.queues.get_mut(&index) {
                queue.seats -= seats;
            }
            self.forget(index);
        }
        self.measure(now);
    }

    /// A queue without requests is none.
    fn forget(&mut self, index: u32) {
        if self.queues.get(&index).is_some_and(|queue| !queue.is_busy() && queue.seats == 0) {
            self.queues.remove(&index);
        }
    }

    fn left(&mut self, waiting: &Waiting) {
        let seats = waiting.ticket.work.widest();
        self.waiting -= 1;
        self.seats_waiting -= seats;
        waiting.ticket.flow.waiting.dec();
        waiting.ticket.flow.waiting_seats.sub(seats as i64);
    }

    fn measure(&mut self, now: Instant) {
        let demand = (self.seats + self.seats_waiting) as f64;
        self.demand.set(now, demand);
        let values = [self.seats as f64, self.waiting as f64, self.executing.len() as f64, demand];
        self.timings.iter_mut().zip(values).for_each(|(timing, value)| timing.set(now, value));
    }

    /// Gives seats to those that wait, in their order, while there are some.
    fn dispatch(&mut self, now: Instant, gauges: &LevelGauges) {
        while self.waiting > 0 && self.seats < self.limit && self.dispatch_one(now, gauges) {}
    }

    fn dispatch_one(&mut self, now: Instant, gauges: &LevelGauges) -> bool {
        let after = self.turn.saturating_add(1);
        let mut best: Option<(u32, f64)> = None;
        let (mut starts, mut discounted) = ([f64::INFINITY, f64::NEG_INFINITY], [f64::INFINITY, f64::NEG_INFINITY]);
        for (index, queue) in self.queues.range(after..).chain(self.queues.range(..after)) {
            let Some(oldest) = queue.waiting.front() else { continue };
            let end = queue.next + oldest.ticket.work.total();
            if best.is_none_or(|(_, least)| end < least) {
                best = Some((*index, end));
            }
            let under_way = queue.next - queue.seats as f64 * EXPECTED;
            starts = [starts[0].min(queue.next), starts[1].max(queue.next)];
            discounted = [discounted[0].min(under_way), discounted[1].max(under_way)];
        }
        let Some((index, _)) = best else { return false };
        let oldest = self.queues.get(&index).and_then(|queue| queue.waiting.front());
        let Some((wanted, flow)) = oldest.map(|w| (w.ticket.work.widest(), Arc::clone(&w.ticket.flow))) else {
            return false;
        };
        if !self.fits(wanted) {
            flow.not_accommodated();
            return false;
        }
        let Some(queue) = self.queues.get_mut(&index) else { return false };
        let Some(mut next) = queue.waiting.pop_front() else { return false };
        let start = queue.next;
        queue.next += next.ticket.work.total();
        queue.bound();
        self.left(&next);
        self.turn = index;
        gauges.dispatched([self.progress, start, starts[0], starts[1], discounted[0], discounted[1]]);
        let work = &mut next.ticket.work;
        if work.last_seats > self.limit {
            // As much work, by the seats that there are.
            work.linger = work.linger.mul_f64(work.last_seats as f64 / self.limit as f64);
            work.last_seats = self.limit;
        }
        // Whoever has left in the meantime gives the seats back when it is dropped.
        let _ = next.wake.send(());
        let dispatched = jiff::Timestamp::now();
        let (ticket, arrived) = (next.ticket, next.arrived);
        self.seat(now, next.id, Executing { ticket, queue: Some(index), started: now, arrived, dispatched });
        true
    }
}

impl Place {
    /// Waits for seats; `None` when `until` comes first.
    pub async fn wait(mut self, until: tokio::time::Instant) -> Option<Seat> {
        let woken = self.wake.as_mut()?;
        let seated = tokio::time::timeout_at(until, woken).await.is_ok_and(|woken| woken.is_ok());
        if !seated {
            return None;
        }
        // From here on it is the seat that has to be given back.
        self.wake = None;
        Some(Seat { queues: Arc::clone(&self.queues), id: self.id })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if self.wake.is_some() && !self.queues.give_up(self.queue, self.id) {
            self.queues.finish(self.id);
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.queues.finish(self.id);
    }
}
