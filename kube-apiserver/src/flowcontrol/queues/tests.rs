//! Fairness, in a time that only the tests move.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use proptest::prelude::*;

use super::*;
use crate::{flowcontrol::deal, request::Query};

/// How long every request is executed.
const TOOK: Duration = Duration::from_millis(10);

/// A level, clients that each keep so many requests in it, and the time.
struct Simulation {
    queues: Arc<Queues>,
    now: Arc<Mutex<Instant>>,
    ticket: Ticket,
    /// In the order in which they will be done: client, seat, when.
    executing: VecDeque<(usize, Seat, Instant)>,
    waiting: Vec<(usize, Place, usize)>,
    /// Of every client: requests that were done, and refused, and the most that others were given while one waited.
    done: Vec<usize>,
    refused: Vec<usize>,
    overtaken: Vec<usize>,
    dispatched: usize,
}

impl Simulation {
    fn new(queuing: Queuing, seats: u64, clients: usize) -> Self {
        let now = Arc::new(Mutex::new(Instant::now()));
        let told = Arc::clone(&now);
        let ticket = Ticket {
            flow: Arc::new(Flow::new("simulated", "simulated")),
            number: 0,
            by: None,
            work: Work::ONE,
            info: Arc::new(RequestInfo::parse("GET", "/version", &Query::default()).unwrap()),
            user: Arc::default(),
        };
        Self {
            queues: Queues::at(Clock::of(move || *told.lock()), "simulated", queuing, seats),
            now,
            ticket,
            executing: VecDeque::new(),
            waiting: Vec::new(),
            done: vec![0; clients],
            refused: vec![0; clients],
            overtaken: vec![0; clients],
            dispatched: 0,
        }
    }

    fn send(&mut self, client: usize, flow: u64) {
        match self.queues.arrive(Ticket { number: flow, ..self.ticket.clone() }) {
            Answer::Seated(seat) => self.seated(client, seat),
            Answer::Queued(place) => self.waiting.push((client, place, self.dispatched)),
            Answer::Refused => self.refused[client] += 1,
        }
    }

    fn seated(&mut self, client: usize, seat: Seat) {
        self.dispatched += 1;
        let end = *self.now.lock() + TOOK;
        self.executing.push_back((client, seat, end));
    }

    /// Ends the request that has been executed for longest; says whose it was.
    fn step(&mut self) -> usize {
        let (client, seat, end) = self.executing.pop_front().expect("requests are executed while there are some");
        *self.now.lock() = end;
        self.done[client] += 1;
        drop(seat);
        let mut still = Vec::new();
        for (client, mut place, since) in std::mem::take(&mut self.waiting) {
            if place.wake.as_mut().unwrap().try_recv().is_ok() {
                place.wake = None;
                self.overtaken[client] = self.overtaken[client].max(self.dispatched - since);
                let seat = Seat { queues: Arc::clone(&self.queues), id: place.id };
                self.seated(client, seat);
            } else {
                still.push((client, place, since));
            }
        }
        self.waiting = still;
        client
    }
}

fn wait(queues: u32, hand: u32, length: u32) -> Queuing {
    Queuing::Wait { queues, hand, length }
}

#[test]
fn flows_of_different_queues_share_alike_whatever_they_send() {
    for (seats, backlogs) in [(1, [50, 1, 1]), (2, [50, 2, 2]), (4, [100, 10, 5]), (3, [40, 40, 40])] {
        // A queue each.
        let mut level = Simulation::new(wait(3, 1, 1000), seats, 3);
        for (client, backlog) in backlogs.into_iter().enumerate() {
            (0..backlog).for_each(|_| level.send(client, client as u64));
        }
        for _ in 0..600 {
            let client = level.step();
            level.send(client, client as u64);
        }
        // Who has fewer requests than seats are his cannot fill them.
        let share = 600 / 3;
        for (client, done) in level.done.iter().enumerate() {
            let most = 600 * backlogs[client] / seats as usize;
            let (least, most) = (share.min(most) * 8 / 10, share * 12 / 10);
            let held_back = backlogs.iter().any(|backlog| *backlog < seats as usize);
            assert!(*done >= least && (held_back || *done <= most), "{seats} {backlogs:?} {:?}", level.done);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// However much a heavy flow sends, a light one that shares no queue with it waits for a few dispatches only: in a
    /// single queue it would be for all that were there before.
    #[test]
    fn a_heavy_flow_does_not_starve_a_light_one(
        flows in any::<(u64, u64)>(), seats in 1u64..8, hand in 1u32..6, backlog in 50usize..400,
    ) {
        let (queues, length) = (32, 1000);
        let hand_of = |flow| deal::deal(flow, queues, hand);
        prop_assume!(hand_of(flows.0).iter().all(|card| !hand_of(flows.1).contains(card)));
        let mut level = Simulation::new(wait(queues, hand, length), seats, 2);
        (0..backlog).for_each(|_| level.send(0, flows.0));
        level.send(1, flows.1);
        for _ in 0..1000 {
            let client = level.step();
            level.send(client, if client == 0 { flows.0 } else { flows.1 });
        }
        // One turn of every queue of the heavy flow, and what is executed already.
        let bound = 2 * (hand as usize + seats as usize);
        prop_assert!(level.overtaken[1] <= bound, "overtaken by {} of {backlog}, bound {bound}", level.overtaken[1]);
        prop_assert!(level.done[1] * (hand as usize + 1) * 2 >= 1000 / (seats as usize).max(1), "{:?}", level.done);
        prop_assert_eq!(level.refused.clone(), vec![0, 0]);
    }

    /// With all queues of the heavy flow full, another flow is refused exactly if it was dealt no other queue.
    #[test]
    fn full_queues_refuse_only_those_who_have_no_other(
        flows in any::<(u64, u64)>(), queues in 1u32..10, hand in 1u32..4, length in 1u32..5,
    ) {
        let hand_of = |flow| deal::deal(flow, queues, hand);
        let mut level = Simulation::new(wait(queues, hand, length), 1, 2);
        (0..100).for_each(|_| level.send(0, flows.0));
        prop_assert_eq!(level.waiting.len(), hand_of(flows.0).len() * length as usize);
        prop_assert_eq!(level.refused[0], 99 - level.waiting.len());
        level.send(1, flows.1);
        let free = hand_of(flows.1).iter().any(|card| !hand_of(flows.0).contains(card));
        prop_assert_eq!(level.refused[1] == 0, free);
    }
}
