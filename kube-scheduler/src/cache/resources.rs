//! Names of resources as column numbers. Columns are only ever added.

use std::collections::HashMap;
use std::sync::Arc;

/// Column of cpu (millicores).
pub const CPU: usize = 0;
/// Column of memory (bytes).
pub const MEMORY: usize = 1;
/// Column of ephemeral storage (bytes).
pub const EPHEMERAL: usize = 2;

/// Resource name to column number. Clones share until one of them grows.
#[derive(Clone, Debug)]
pub struct ResourceIndex(Arc<Columns>);

#[derive(Clone, Debug, Default)]
struct Columns {
    names: Vec<Arc<str>>,
    numbers: HashMap<Arc<str>, usize>,
}

impl Default for ResourceIndex {
    fn default() -> Self {
        let mut index = Self(Arc::default());
        for name in ["cpu", "memory", "ephemeral-storage"] {
            index.column_or_add(name);
        }
        index
    }
}

impl ResourceIndex {
    /// The column of a resource, if any node or pod ever named it.
    pub fn column(&self, name: &str) -> Option<usize> {
        self.0.numbers.get(name).copied()
    }

    /// The column of a resource, made when new.
    pub fn column_or_add(&mut self, name: &str) -> usize {
        if let Some(column) = self.column(name) {
            return column;
        }
        let name: Arc<str> = Arc::from(name);
        let columns = Arc::make_mut(&mut self.0);
        columns.names.push(name.clone());
        columns.numbers.insert(name, columns.names.len() - 1);
        columns.names.len() - 1
    }

    /// The names, by column.
    pub fn names(&self) -> &[Arc<str>] {
        &self.0.names
    }

    /// Number of columns.
    pub fn len(&self) -> usize {
        self.0.names.len()
    }

    /// Never true; the three native columns always exist.
    pub fn is_empty(&self) -> bool {
        self.0.names.is_empty()
    }
}
