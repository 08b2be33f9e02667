//! Owners that the server said do not exist: remembered so that the thousand dependents of one owner cost
//! one question. Bounded; a UID never comes back, so entries never turn false.

use std::collections::{HashSet, VecDeque};

use super::graph::Identity;

const CAPACITY: usize = 500;

#[derive(Debug, Default)]
pub(super) struct AbsentOwners {
    known: HashSet<Identity>,
    order: VecDeque<Identity>,
}

impl AbsentOwners {
    pub(super) fn add(&mut self, identity: Identity) {
        if !self.known.insert(identity.clone()) {
            return;
        }
        self.order.push_back(identity);
        if self.order.len() > CAPACITY
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
    }

    pub(super) fn contains(&self, identity: &Identity) -> bool {
        self.known.contains(identity)
    }
}
