//! Who is where, and whose turn it is.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::Arc,
    time::Instant,
};

use tokio::sync::oneshot;

use super::{
    super::{
        deal,
        demand::Integrator,
        level::Queuing,
        metrics::{DEMAND, Flow, LevelGauges, REQUESTS, SEATS},
        timing::Timing,
        work::EXPECTED,
    },
    Counts, Ticket,
};

/// What changes of a level.
pub(super) struct State {
    pub queuing: Queuing,
    pub limit: u64,
    /// Queues with requests.
    pub queues: BTreeMap<u32, Queue>,
    /// Requests that have seats, but for those that linger.
    pub executing: HashMap<u64, Executing>,
    pub progress: f64,
    pub progress_at: Instant,
    /// Where the last dispatch was from; the queues behind are looked at first.
    pub turn: u32,
    pub arrivals: u64,
    pub waiting: usize,
    pub seats: u64,
    pub seats_waiting: u64,
    pub counts: Counts,
    pub demand: Integrator,
    /// Of seats, of requests that wait, of requests that are executed, of the demand of seats.
    pub timings: [Timing; 4],
}

#[derive(Default)]
pub(super) struct Queue {
    pub next: f64,
    pub waiting: VecDeque<Waiting>,
    pub executing: usize,
    pub seats: u64,
}

pub(super) struct Waiting {
    pub id: u64,
    pub ticket: Ticket,
    /// In virtual time.
    pub arrival: f64,
    pub arrived: jiff::Timestamp,
    pub wake: oneshot::Sender<()>,
}

pub(super) struct Executing {
    pub ticket: Ticket,
    pub queue: Option<u32>,
    pub started: Instant,
    pub arrived: jiff::Timestamp,
    pub dispatched: jiff::Timestamp,
}

impl Queue {
    pub fn is_busy(&self) -> bool {
        !self.waiting.is_empty() || self.executing > 0
    }

    pub fn work(&self) -> f64 {
        self.waiting.iter().map(|waiting| waiting.ticket.work.total()).sum()
    }

    /// A queue that waited must not catch up on what it could not use: no dispatch before the arrival.
    pub fn bound(&mut self) {
        if let Some(oldest) = self.waiting.front() {
            self.next = self.next.max(oldest.arrival);
        }
    }
}

impl State {
    /// At rest.
    pub fn new(now: Instant, queuing: Queuing, limit: u64) -> Self {
        Self {
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
            timings: [SEATS, REQUESTS, REQUESTS, DEMAND].map(|bounds| Timing::new(bounds, now)),
        }
    }

    /// Lets virtual time run until now.
    pub fn advance(&mut self, now: Instant) {
        let elapsed = now.saturating_duration_since(self.progress_at).as_secs_f64();
        self.progress_at = now;
        let busy = self.queues.values().filter(|queue| queue.is_busy()).count();
        if busy > 0 {
            let wanted = (self.seats + self.seats_waiting).min(self.limit);
            self.progress += elapsed * wanted as f64 / busy as f64;
        }
    }

    /// The queue of the flow's hand with the least work waiting; in turns where there are several.
    pub fn choose(&self, number: u64, queues: u32, hand: u32) -> u32 {
        let cards = deal::deal(number, queues, hand);
        let first = self.arrivals as usize % cards.len().max(1);
        let in_turn = cards[first..].iter().chain(&cards[..first]);
        let work = |index: &u32| if self.waiting == 0 { 0.0 } else { self.queues.get(index).map_or(0.0, Queue::work) };
        in_turn.copied().min_by(|a, b| work(a).total_cmp(&work(b))).unwrap_or_default()
    }

    /// Whether so many seats are free. Who wants more than there are gets them all.
    pub fn fits(&self, seats: u64) -> bool {
        match self.queuing {
            Queuing::Exempt => true,
            _ if seats > self.limit => self.executing.is_empty(),
            _ => self.seats + seats <= self.limit,
        }
    }

    pub fn seat(&mut self, now: Instant, id: u64, executing: Executing) {
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

    pub fn release(&mut self, now: Instant, flow: &Flow, queue: Option<u32>, seats: u64) {
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
    pub fn forget(&mut self, index: u32) {
        if self.queues.get(&index).is_some_and(|queue| !queue.is_busy() && queue.seats == 0) {
            self.queues.remove(&index);
        }
    }

    pub fn left(&mut self, waiting: &Waiting) {
        let seats = waiting.ticket.work.widest();
        self.waiting -= 1;
        self.seats_waiting -= seats;
        waiting.ticket.flow.waiting.dec();
        waiting.ticket.flow.waiting_seats.sub(seats as i64);
    }

    pub fn measure(&mut self, now: Instant) {
        let demand = (self.seats + self.seats_waiting) as f64;
        self.demand.set(now, demand);
        let values = [self.seats as f64, self.waiting as f64, self.executing.len() as f64, demand];
        self.timings.iter_mut().zip(values).for_each(|(timing, value)| timing.set(now, value));
    }

    /// Gives seats to those that wait, in their order, while there are some.
    pub fn dispatch(&mut self, now: Instant, gauges: &LevelGauges) {
        while self.waiting > 0 && self.seats < self.limit && self.dispatch_one(now, gauges) {}
    }

    pub fn dispatch_one(&mut self, now: Instant, gauges: &LevelGauges) -> bool {
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
