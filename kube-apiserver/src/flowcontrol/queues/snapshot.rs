//! A level at some moment, for operators.

use std::collections::BTreeMap;

use super::{super::work::Work, Counts, Queues, Ticket};

impl Queues {
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
