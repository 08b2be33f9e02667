//! What is special about each kind: defaults, preparation of writes, validation, selectable fields, table columns, allocation.
//!
//! The verbs in `endpoints` are generic; they ask `strategy(group, resource)` for everything that differs. Objects are JSON trees whose
//! types the schema has checked already; odd shapes are ignored rather than trusted.
//!
//! Order of a create: `default` -> admission -> (services: `alloc::Allocators::allocate_create`) -> `prepare_create` -> `validate_create`
//! -> store -> (services: `commit`, or `revert` after a failure).
//! Order of an update: `default` -> admission -> (services: `allocate_update`) -> `prepare_update` -> `validate_update` -> store.
//! After a Service is gone from the store: `Allocators::release`.

use jiff::Timestamp;
use serde_json::Value;

mod admission_kinds;
pub mod alloc;
mod apps;
mod autoscaler;
mod batch;
mod beta;
pub(crate) mod budget;
pub(crate) mod certificates;
pub(crate) mod checks;
mod cluster;
mod conditions;
pub mod core;
mod discovery;
mod dra;
mod dra_devices;
mod dra_policies;
mod dra_rules;
pub mod field;
mod flow;
mod gated;
mod key_pairs;
pub mod metadata;
pub(crate) use common::meta::{names, value};
pub(crate) use common::quota::amounts;
mod networking;
pub mod pod;
mod policy;
mod quantity;
mod rbac;
mod rules;
mod service;
mod storage_kinds;
mod storage_rules;
pub mod table;
mod volume_sources;
mod warnings;

pub(crate) use value::same;

use field::ErrorList;
use table::{Column, Row};

/// What the request says about a write.
#[derive(Clone, Debug)]
pub struct Ctx<'a> {
    /// Namespace of the request path; empty for cluster-scoped resources.
    pub namespace: &'a str,
    /// Name of the request's user (certificate requests keep it).
    pub user: &'a User,
    /// The time of the request.
    pub now: Timestamp,
}

/// The requester, as some kinds record it (CertificateSigningRequest).
#[derive(Clone, Debug, Default)]
pub struct User {
    /// User name.
    pub name: String,
    /// Uid, may be empty.
    pub uid: String,
    /// Groups.
    pub groups: Vec<String>,
    /// Extra attributes.
    pub extra: std::collections::BTreeMap<String, Vec<String>>,
}

/// What a delete request asked for and what was decided about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deletion {
    /// Remove the object now (subject to finalizers).
    Immediate,
    /// Keep it with deletionTimestamp = now + seconds and deletionGracePeriodSeconds = seconds.
    Graceful(i64),
}

/// Everything that differs between kinds.
pub trait Strategy: Send + Sync {
    /// Kind name, e.g. `Pod`; empty for the generic strategy.
    fn kind(&self) -> &'static str;
    /// True when objects live in a namespace.
    fn namespaced(&self) -> bool;
    /// Fills upstream's defaults; idempotent; also drops `null` members.
    fn default(&self, obj: &mut Value);
    /// Before validation of a create: system fields (uid, creationTimestamp when missing), generation, status reset, folded fields.
    /// The name must be there already (`metadata::generate_name`).
    fn prepare_create(&self, obj: &mut Value, ctx: &Ctx<'_>);
    /// Before validation of an update of the main resource (`sub` None) or of a subresource (`status`, `ephemeralcontainers`, ...):
    /// keeps what that request may not change, bumps generation.
    fn prepare_update(&self, new: &mut Value, old: &Value, sub: Option<&str>, ctx: &Ctx<'_>);
    /// All rules for a new object, metadata included.
    fn validate_create(&self, obj: &Value) -> ErrorList;
    /// All rules for a change, metadata included.
    fn validate_update(&self, new: &Value, old: &Value, sub: Option<&str>) -> ErrorList;
    /// The selectable fields of this object, `metadata.name` and `metadata.namespace` included.
    fn fields(&self, obj: &Value) -> Vec<(&'static str, String)>;
    /// The dotted paths of the members that [`Strategy::fields`] looks at.
    fn read_for_fields(&self) -> Vec<&'static str>;
    /// The labels that a field selector may name, `metadata.name` and `metadata.namespace` included.
    fn field_labels(&self) -> &'static [&'static str];
    /// Decides how a delete proceeds. `requested` is `gracePeriodSeconds` of the delete options.
    fn graceful_delete(&self, obj: &Value, requested: Option<i64>) -> Deletion;
    /// True when deletes of this kind go through a grace period at all.
    fn is_graceful(&self) -> bool;
    /// May a PUT create the object.
    fn allow_create_on_update(&self) -> bool;
    /// May a PUT without resourceVersion overwrite.
    fn allow_unconditional_update(&self) -> bool;
    /// Warnings for the client (`Warning` headers).
    fn warnings(&self, obj: &Value, old: Option<&Value>, sub: Option<&str>) -> Vec<String>;
    /// Table columns.
    fn columns(&self) -> &'static [Column];
    /// Table cells of one object.
    fn row(&self, obj: &Value, now: Timestamp) -> Row;
}

/// The strategy of a resource; kinds without anything special share a generic one.
pub fn strategy(group: &str, resource: &str) -> &'static dyn Strategy {
    rules::lookup(group, resource)
}

/// What to fill in when an object comes from protobuf. Upstream gives every object its defaults whenever it reads one; here they
/// are stored, but for those that protobuf does not carry (the kinds of claim templates) or that follow from what creation
/// gives an object (a job's labels, a claim's phase), which upstream's servers do not store.
pub fn fill(group: &str, resource: &str) -> Option<crate::storage::codec::Fill> {
    match (group, resource) {
        ("apps", "statefulsets") => Some(|object| strategy("apps", "statefulsets").default(object)),
        ("batch", "jobs") => Some(|object| strategy("batch", "jobs").default(object)),
        ("", "persistentvolumeclaims") => Some(|object| strategy("", "persistentvolumeclaims").default(object)),
        _ => None,
    }
}

/// Every kind's rules, one list per file.
static ALL: &[&[&[rules::Rules]]] = &[
    core::RULES,
    &[
        admission_kinds::RULES,
        apps::RULES,
        batch::RULES,
        beta::RULES,
        certificates::RULES,
        cluster::RULES,
        discovery::RULES,
        dra::RULES,
        networking::RULES,
        pod::RULES,
        policy::RULES,
        rbac::RULES,
        service::RULES,
        storage_kinds::RULES,
    ],
];

#[cfg(test)]
mod tests;
