//! Shared caches of API objects kept up to date by a watch, and the work queue and workers that controllers run on.

mod cache;
mod factory;
mod queue;
mod workers;

#[cfg(test)]
mod tests;

use std::sync::Arc;

pub use cache::{Informer, InformerOptions, Object, object_key, split_key};
pub use factory::Factory;
pub use queue::WorkQueue;
pub use workers::run_workers;

/// A change of the cache. The cache already holds the new state when a handler sees the event.
#[derive(Debug)]
pub enum Event<K> {
    /// An object that was not there before.
    Added(Arc<K>),
    /// An object changed (or was re-listed with another resourceVersion).
    Updated {
        /// As it was.
        old: Arc<K>,
        /// As it is.
        new: Arc<K>,
    },
    /// The last known state of an object that is gone, also when its deletion was missed and noticed at a re-list.
    Deleted(Arc<K>),
}

impl<K> Event<K> {
    /// The object in its newest known state.
    pub fn object(&self) -> &Arc<K> {
        match self {
            Event::Added(object) | Event::Deleted(object) | Event::Updated { new: object, .. } => object,
        }
    }
}
