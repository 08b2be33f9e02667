//! Node labels as columns of interned values: one array per key, so a topology domain is an integer.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// Number of "no such label".
pub const ABSENT: u32 = 0;

/// One label key over all slots.
#[derive(Default)]
pub struct LabelColumn {
    /// Value number per slot; [`ABSENT`] when the node lacks the label.
    pub values: Vec<u32>,
    names: Vec<Arc<str>>,
    numbers: HashMap<Arc<str>, u32>,
    uses: Vec<u32>,
    free: Vec<u32>,
}

impl LabelColumn {
    /// The number of a value, if any node has it.
    pub fn number(&self, value: &str) -> Option<u32> {
        self.numbers.get(value).copied()
    }

    /// The text of a value number.
    pub fn text(&self, number: u32) -> Option<&str> {
        (number != ABSENT).then(|| &*self.names[number as usize - 1])
    }

    /// One more than the highest number in use: the size of an array indexed by value numbers.
    pub fn numbers(&self) -> usize {
        self.names.len() + 1
    }

    fn set(&mut self, slot: u32, value: Option<&str>) {
        let at = slot as usize;
        let old = self.values[at];
        if self.text(old) == value {
            return;
        }
        let new = value.map_or(ABSENT, |value| self.acquire(value));
        self.values[at] = new;
        if old != ABSENT {
            self.release(old);
        }
    }

    fn acquire(&mut self, value: &str) -> u32 {
        if let Some(number) = self.numbers.get(value) {
            self.uses[*number as usize - 1] += 1;
            return *number;
        }
        let name: Arc<str> = Arc::from(value);
        let number = match self.free.pop() {
            Some(number) => {
                self.names[number as usize - 1] = name.clone();
                self.uses[number as usize - 1] = 1;
                number
            }
            None => {
                self.names.push(name.clone());
                self.uses.push(1);
                self.names.len() as u32
            }
        };
        self.numbers.insert(name, number);
        number
    }

    fn release(&mut self, number: u32) {
        let at = number as usize - 1;
        self.uses[at] -= 1;
        if self.uses[at] == 0 {
            self.numbers.remove(&self.names[at]);
            self.free.push(number);
        }
    }
}

/// All label keys.
#[derive(Default)]
pub struct LabelColumns {
    keys: HashMap<String, LabelColumn>,
    rows: usize,
}

impl LabelColumns {
    /// The column of a key, if any node ever had it.
    pub fn column(&self, key: &str) -> Option<&LabelColumn> {
        self.keys.get(key)
    }

    /// The value of a label on a node.
    pub fn value(&self, key: &str, slot: u32) -> Option<&str> {
        let column = self.keys.get(key)?;
        column.text(column.values[slot as usize])
    }

    pub(super) fn resize(&mut self, rows: usize) {
        if self.rows != rows {
            self.rows = rows;
            self.keys.values_mut().for_each(|column| column.values.resize(rows, ABSENT));
        }
    }

    pub(super) fn write(&mut self, slot: u32, labels: Option<&BTreeMap<String, String>>) {
        for (key, column) in &mut self.keys {
            column.set(slot, labels.and_then(|labels| labels.get(key)).map(String::as_str));
        }
        for (key, value) in labels.into_iter().flatten() {
            if !self.keys.contains_key(key) {
                let mut column = LabelColumn { values: vec![ABSENT; self.rows], ..LabelColumn::default() };
                column.set(slot, Some(value));
                self.keys.insert(key.clone(), column);
            }
        }
        self.keys.retain(|_, column| !column.numbers.is_empty());
    }
}
