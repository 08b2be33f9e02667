//! Verdicts remembered per pod template.
//!
//! Filters whose verdict depends only on the template and the node object are asked once per template and node. The
//! answers live in a byte per slot and are forgotten slot by slot, as the snapshot's journal says which nodes changed.

use std::sync::Arc;

use super::status::Status;
use crate::cache::snapshot::{Change, Snapshot};

/// Templates remembered at a time.
const TEMPLATES: usize = 128;

const UNKNOWN: u8 = 0;
const PASS: u8 = 1;

/// What is known of one template.
pub struct Verdicts {
    template: u64,
    version: u64,
    used: u64,
    bytes: Vec<u8>,
    statuses: Vec<Arc<Status>>,
}

impl Verdicts {
    fn new(template: u64, snapshot: &Snapshot) -> Self {
        Self {
            template,
            version: snapshot.version(),
            used: 0,
            bytes: vec![UNKNOWN; snapshot.slots()],
            statuses: Vec::new(),
        }
    }

    fn follow(&mut self, snapshot: &Snapshot) {
        match snapshot.changes_since(self.version) {
            Some(changes) => {
                self.bytes.resize(snapshot.slots(), UNKNOWN);
                for (slot, change) in changes {
                    if change == Change::Node {
                        self.bytes[slot as usize] = UNKNOWN;
                    }
                }
            }
            None => {
                self.bytes.clear();
                self.bytes.resize(snapshot.slots(), UNKNOWN);
            }
        }
        self.version = snapshot.version();
    }

    /// The verdict for a slot, worked out by `ask` when not known.
    pub fn get(&mut self, slot: u32, ask: impl FnOnce() -> Result<(), Arc<Status>>) -> Result<(), Arc<Status>> {
        match self.bytes[slot as usize] {
            PASS => Ok(()),
            UNKNOWN => {
                let verdict = ask();
                self.bytes[slot as usize] = match &verdict {
                    Ok(()) => PASS,
                    Err(status) => self.number(status),
                };
                verdict
            }
            number => Err(self.statuses[number as usize - 2].clone()),
        }
    }

    /// Few distinct statuses exist; past 250 of them verdicts are simply not remembered.
    fn number(&mut self, status: &Arc<Status>) -> u8 {
        let position = self.statuses.iter().position(|known| Arc::ptr_eq(known, status) || known == status);
        let position = position.unwrap_or_else(|| {
            self.statuses.push(status.clone());
            self.statuses.len() - 1
        });
        u8::try_from(position + 2).unwrap_or(UNKNOWN)
    }
}

/// A bounded set of remembered templates; the least recently used one goes first.
#[derive(Default)]
pub struct Memo {
    known: Vec<Verdicts>,
    tick: u64,
}

impl Memo {
    /// What is known of a template, brought up to date.
    pub fn verdicts(&mut self, template: u64, snapshot: &Snapshot) -> &mut Verdicts {
        self.tick += 1;
        let at = match self.known.iter().position(|verdicts| verdicts.template == template) {
            Some(at) => {
                self.known[at].follow(snapshot);
                at
            }
            None if self.known.len() < TEMPLATES => {
                self.known.push(Verdicts::new(template, snapshot));
                self.known.len() - 1
            }
            None => {
                let oldest = self.known.iter().enumerate().min_by_key(|(_, v)| v.used).map_or(0, |(at, _)| at);
                self.known[oldest] = Verdicts::new(template, snapshot);
                oldest
            }
        };
        self.known[at].used = self.tick;
        &mut self.known[at]
    }
}
