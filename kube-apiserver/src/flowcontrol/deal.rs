//! Shuffle sharding: a flow is dealt a small hand of the queues, so that few flows share all of them.

use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};

use smallvec::SmallVec;

/// The queues of one flow.
pub type Hand = SmallVec<[u32; 8]>;

/// The number of a flow, from which its hand is dealt.
#[must_use]
pub fn number(schema: &str, flow: &str) -> u64 {
    BuildHasherDefault::<DefaultHasher>::default().hash_one((schema, flow))
}

/// Deals `hand` different cards of `deck`; every hand is about as likely as any other.
#[must_use]
pub fn deal(mut number: u64, deck: u32, hand: u32) -> Hand {
    let mut cards = Hand::new();
    for taken in 0..hand.min(deck) {
        let left = u64::from(deck - taken);
        // The position among the cards that are left, counted on over those that are not.
        let mut card = (number % left) as u32;
        number /= left;
        let mut dealt = cards.clone();
        dealt.sort_unstable();
        for other in dealt {
            if card >= other {
                card += 1;
            }
        }
        cards.push(card);
    }
    cards
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    #[test]
    fn hands_are_of_different_cards_and_even() {
        let mut seen: HashMap<u32, u32> = HashMap::new();
        for flow in 0..4000 {
            let mut hand = deal(number("schema", &flow.to_string()), 16, 4);
            hand.iter().for_each(|card| *seen.entry(*card).or_default() += 1);
            hand.sort_unstable();
            hand.dedup();
            assert!(hand.len() == 4 && hand.iter().all(|card| *card < 16));
        }
        assert!(seen.len() == 16 && seen.values().all(|n| (800..1200).contains(n)), "{seen:?}");
        assert_eq!(number("a", "b"), number("a", "b"));
        assert_ne!(number("a", "bc"), number("ab", "c"));
        assert_eq!(deal(7, 3, 8).len(), 3);
    }
}
