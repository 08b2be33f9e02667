//! Names of resources as column numbers. Columns are only ever added.

use std::collections::HashMap;
use std::sync::Arc;

/// Column of cpu (millicores).
pub const CPU: usize = 0;
/// Column of memory (bytes).
pub const MEMORY: usize = 1;
/// Column of ephemeral storage (bytes).
pub const EPHEMERAL: usize = 2;

/// Resource name to column number.
#[derive(Clone, Debug)]
pub struct ResourceIndex {
    names: Vec<Arc<str>>,
    columns: HashMap<Arc<str>, usize>,
}

impl Default for ResourceIndex {
    fn default() -> Self {
        let mut index = Self { names: Vec::new(), columns: HashMap::new() };
        for name in ["cpu", "memory", "ephemeral-storage"] {
            index.column_or_add(name);
        }
        index
    }
}

impl ResourceIndex {
    /// The column of a resource, if any node or pod ever named it.
    pub fn column(&self, name: &str) -> Option<usize> {
        self.columns.get(name).copied()
    }

    /// The column of a resource, made when new.
    pub fn column_or_add(&mut self, name: &str) -> usize {
        if let Some(column) = self.columns.get(name) {
            return *column;
        }
        let name: Arc<str> = Arc::from(name);
        self.names.push(name.clone());
        self.columns.insert(name, self.names.len() - 1);
        self.names.len() - 1
    }

    /// The names, by column.
    pub fn names(&self) -> &[Arc<str>] {
        &self.names
    }

    /// Number of columns.
    pub fn len(&self) -> usize {
        self.names.len()
    }

    /// Never true; the three native columns always exist.
    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }
}
