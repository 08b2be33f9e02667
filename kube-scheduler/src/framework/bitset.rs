//! A fixed-capacity set of node slots: one bit each, so that candidate sets intersect a word at a time.

/// A growable set of small integers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BitSet {
    words: Vec<u64>,
}

impl BitSet {
    /// An empty set with room for `bits` members.
    pub fn with_capacity(bits: usize) -> Self {
        Self { words: vec![0; bits.div_ceil(64)] }
    }

    /// Adds a member, growing as needed.
    pub fn insert(&mut self, bit: u32) {
        let word = bit as usize / 64;
        if word >= self.words.len() {
            self.words.resize(word + 1, 0);
        }
        self.words[word] |= 1 << (bit % 64);
    }

    /// Removes a member.
    pub fn remove(&mut self, bit: u32) {
        if let Some(word) = self.words.get_mut(bit as usize / 64) {
            *word &= !(1 << (bit % 64));
        }
    }

    /// Adds or removes a member.
    pub fn set(&mut self, bit: u32, member: bool) {
        if member { self.insert(bit) } else { self.remove(bit) }
    }

    /// Whether the set holds `bit`.
    pub fn contains(&self, bit: u32) -> bool {
        self.words.get(bit as usize / 64).is_some_and(|word| word & (1 << (bit % 64)) != 0)
    }

    /// Number of members.
    pub fn len(&self) -> usize {
        self.words.iter().map(|word| word.count_ones() as usize).sum()
    }

    /// Whether the set has no member.
    pub fn is_empty(&self) -> bool {
        self.words.iter().all(|word| *word == 0)
    }

    /// Keeps only what both sets hold.
    pub fn intersect(&mut self, other: &BitSet) {
        for (index, word) in self.words.iter_mut().enumerate() {
            *word &= other.words.get(index).copied().unwrap_or(0);
        }
    }

    /// The members in ascending order.
    pub fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        self.words.iter().enumerate().flat_map(|(index, word)| {
            let mut rest = *word;
            std::iter::from_fn(move || {
                if rest == 0 {
                    return None;
                }
                let bit = rest.trailing_zeros();
                rest &= rest - 1;
                Some(index as u32 * 64 + bit)
            })
        })
    }
}

impl FromIterator<u32> for BitSet {
    fn from_iter<T: IntoIterator<Item = u32>>(bits: T) -> Self {
        let mut set = Self::default();
        for bit in bits {
            set.insert(bit);
        }
        set
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn set_operations() {
        let mut a: BitSet = [1, 63, 64, 200].into_iter().collect();
        let b: BitSet = [1, 64, 300].into_iter().collect();
        assert_eq!(a.len(), 4);
        a.intersect(&b);
        assert_eq!(a.iter().collect::<Vec<_>>(), [1, 64]);
        a.remove(1);
        a.set(5, true);
        assert!(!a.contains(1) && a.contains(5) && !a.contains(10_000));
        a.remove(5);
        a.remove(64);
        assert!(a.is_empty());
    }
}
