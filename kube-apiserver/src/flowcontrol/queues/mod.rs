//! The requests of one priority level: those that have seats, and the queues of those that wait.
//!
//! Fair queuing. Every queue with requests should get the same number of seats. Virtual time (`progress`, in
//! seat-seconds) runs as fast as each of them is served; a queue remembers where in virtual time its next request
//! begins (`next`), and the queue whose next request would be finished first has its turn. A dispatch moves `next` on by
//! the work expected, the end of the request corrects it by the work done.
//! Queues without requests need no memory, so they do not exist: a level of 128 queues at rest is an empty map.

mod clock;
mod snapshot;
mod state;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::oneshot;

pub use self::snapshot::{QueueRow, Request, Snapshot};
use self::{
    clock::Clock,
    state::{Executing, State, Waiting},
};
use super::{
    demand::Period,
    level::Queuing,
    metrics::{Flow, LevelGauges, Refusal},
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
    clock: Clock,
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

impl Queues {
    /// Empty queues.
    #[must_use]
    pub fn new(level: &str, queuing: Queuing, limit: u64) -> Arc<Self> {
        Self::at(Clock::default(), level, queuing, limit)
    }

    fn at(clock: Clock, level: &str, queuing: Queuing, limit: u64) -> Arc<Self> {
        let state = Mutex::new(State::new(clock.now(), queuing, limit));
        let queues = Self { level: level.to_owned(), gauges: LevelGauges::new(level), state, clock };
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
        let now = self.clock.now();
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
        self.state.lock().demand.take(self.clock.now())
    }

    /// Seats, requests that wait, requests that are executed, demand: over time.
    #[must_use]
    pub fn timings(&self) -> [Timing; 4] {
        let now = self.clock.now();
        let mut state = self.state.lock();
        state.timings.iter_mut().for_each(|timing| timing.advance(now));
        state.timings.clone()
    }

    /// A request arrives.
    #[must_use]
    pub fn arrive(self: &Arc<Self>, ticket: Ticket) -> Answer {
        let now = self.clock.now();
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
        let now = self.clock.now();
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
                    let now = queues.clock.now();
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
        let now = self.clock.now();
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
