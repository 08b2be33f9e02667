//! The API itself: upstream's types (`k8s_openapi`, re-exported) and the catalog of every built-in resource.

pub use k8s_openapi;

pub mod catalog;
mod load;

pub use catalog::{Catalog, Group, GroupVersion, Resource, Subresource, catalog};
