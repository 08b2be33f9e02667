//! What is remembered per pod template: verdicts and scores that follow from the template and one node alone.
//!
//! Pods of one template ask the same questions over and over, while between two of them few nodes change. The answers live in
//! a byte per slot and are forgotten slot by slot, as the snapshot's journal says.

use std::sync::Arc;

use super::status::{Status, Verdict};
use crate::cache::snapshot::Snapshot;

/// Templates remembered at a time.
const TEMPLATES: usize = 128;

const PASS: u8 = 254;
const UNKNOWN: u8 = 255;

/// The verdicts of the filters that come first, as one: a byte per slot that is a status' number, [`PASS`] or [`UNKNOWN`].
#[derive(Default)]
pub struct Verdicts {
    bytes: Vec<u8>,
    statuses: Vec<Arc<Status>>,
}

impl Verdicts {
    /// The verdict for a slot, worked out by `ask` when not known.
    pub fn get(&mut self, slot: u32, ask: impl FnOnce() -> Verdict) -> Verdict {
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
            number => Err(self.statuses[number as usize].clone()),
        }
    }

    /// Few distinct statuses exist; verdicts beyond that are simply not remembered.
    fn number(&mut self, status: &Arc<Status>) -> u8 {
        let known = self.statuses.iter().position(|known| Arc::ptr_eq(known, status) || known == status);
        let number = known.unwrap_or(self.statuses.len());
        if number >= usize::from(PASS) {
            return UNKNOWN;
        }
        if known.is_none() {
            self.statuses.push(status.clone());
        }
        number as u8
    }
}

/// The scores that one plugin gives: a byte per slot, 0 to 100 or [`UNKNOWN`].
#[derive(Default)]
pub struct Scores {
    bytes: Vec<u8>,
}

impl Scores {
    /// Writes the scores of `nodes` into `into`; `ask` works out those of the nodes it is given.
    pub fn get(&mut self, nodes: &[u32], into: &mut [i64], ask: impl FnOnce(&[u32], &mut [i64]) -> Verdict) -> Verdict {
        let unknown: Vec<u32> = nodes.iter().copied().filter(|slot| self.bytes[*slot as usize] == UNKNOWN).collect();
        if !unknown.is_empty() {
            let mut fresh = vec![0; unknown.len()];
            ask(&unknown, &mut fresh)?;
            for (slot, score) in unknown.iter().zip(fresh) {
                self.bytes[*slot as usize] = score.clamp(0, i64::from(PASS)) as u8;
            }
        }
        for (score, slot) in into.iter_mut().zip(nodes) {
            *score = i64::from(self.bytes[*slot as usize]);
        }
        Ok(())
    }
}

/// What is known of one template.
#[derive(Default)]
pub struct Remembered {
    template: u64,
    version: u64,
    used: u64,
    /// Of the leading filters.
    pub verdicts: Verdicts,
    /// Per Score plugin, by its place in the profile.
    pub scores: Vec<Scores>,
}

impl Remembered {
    fn follow(&mut self, snapshot: &Snapshot, scorers: usize) {
        self.scores.resize_with(scorers, Scores::default);
        let changed: Option<Vec<u32>> =
            snapshot.changes_since(self.version).map(|changes| changes.map(|(slot, _)| slot).collect());
        let scores = self.scores.iter_mut().map(|scores| &mut scores.bytes);
        for bytes in std::iter::once(&mut self.verdicts.bytes).chain(scores) {
            if changed.is_none() {
                bytes.clear();
            }
            bytes.resize(snapshot.slots(), UNKNOWN);
            changed.iter().flatten().for_each(|slot| bytes[*slot as usize] = UNKNOWN);
        }
        self.version = snapshot.version();
    }
}

/// A bounded set of remembered templates; the least recently used one goes first.
#[derive(Default)]
pub struct Memo {
    known: Vec<Remembered>,
    tick: u64,
}

impl Memo {
    /// What is known of a template, brought up to date, in a profile with so many Score plugins.
    pub fn of(&mut self, template: u64, snapshot: &Snapshot, scorers: usize) -> &mut Remembered {
        self.tick += 1;
        let fresh = || Remembered { template, version: snapshot.version(), ..Remembered::default() };
        let at = match self.known.iter().position(|known| known.template == template) {
            Some(at) => at,
            None if self.known.len() < TEMPLATES => {
                self.known.push(fresh());
                self.known.len() - 1
            }
            None => {
                let oldest = self.known.iter().enumerate().min_by_key(|(_, known)| known.used).map_or(0, |(at, _)| at);
                self.known[oldest] = fresh();
                oldest
            }
        };
        self.known[at].follow(snapshot, scorers);
        self.known[at].used = self.tick;
        &mut self.known[at]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verdicts_beyond_what_a_byte_numbers_are_asked_for_again() {
        let mut verdicts = Verdicts { bytes: vec![UNKNOWN; 300], ..Verdicts::default() };
        let refuse = |slot: u32| Status::unschedulable("X", format!("{slot}"));
        for round in 0..2 {
            for slot in 0..300 {
                let mut asked = false;
                let verdict = verdicts.get(slot, || {
                    asked = true;
                    Err(refuse(slot))
                });
                assert_eq!(verdict.unwrap_err().message(), slot.to_string());
                assert_eq!(asked, round == 0 || slot >= 254, "{slot}");
            }
        }
    }

    #[test]
    fn only_unknown_scores_are_asked_for() {
        let mut scores = Scores { bytes: vec![UNKNOWN; 4] };
        let mut into = [0; 2];
        let ask = |expected: &'static [u32]| {
            move |nodes: &[u32], into: &mut [i64]| {
                assert_eq!(nodes, expected);
                into.iter_mut().zip(nodes).for_each(|(score, slot)| *score = i64::from(*slot) * 10);
                Ok(())
            }
        };
        scores.get(&[1, 3], &mut into, ask(&[1, 3])).unwrap();
        assert_eq!(into, [10, 30]);
        scores.get(&[2, 1], &mut into, ask(&[2])).unwrap();
        assert_eq!(into, [20, 10]);
    }
}
