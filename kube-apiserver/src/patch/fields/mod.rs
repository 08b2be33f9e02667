//! Who owns which fields (KEP-555): `metadata.managedFields`, its upkeep on every write, and server-side apply.
//!
//! Everything is driven by the type table: a [`typed::Place`] tells how values merge, [`Set`]s of paths say what somebody
//! owns. [`update`] follows a write by any other means, [`apply`] merges a configuration. Both are pure: objects in,
//! object out, in the version of the request.

mod apply;
mod collect;
mod compare;
mod conflict;
mod element;
mod last_applied;
mod managers;
mod merge;
mod remove;
mod reset;
mod scale;
mod set;
mod settle;
mod typed;
mod update;
mod validate;

use std::borrow::Cow;

use common::schema::Type;
use jiff::Timestamp;
use serde_json::Value;

pub use apply::{ApplyError, apply};
pub use conflict::Cause;
pub use managers::Operation;
pub use reset::{NOTHING, Reset};
pub use scale::Scale;
pub use set::Set;
pub use update::{forget_new_times, update};

use managers::Manager;

/// One write, as far as ownership is concerned.
pub struct Write<'a> {
    /// The type of the objects.
    pub ty: Type<'a>,
    /// Their version.
    pub api_version: &'a str,
    /// Their kind.
    pub kind: &'a str,
    /// Who writes.
    pub manager: &'a str,
    /// The subresource written through; empty for the object itself.
    pub subresource: &'a str,
    /// What this write cannot change.
    pub reset: Reset,
    /// When.
    pub now: Timestamp,
    /// How objects look in other versions.
    pub versions: &'a dyn Versions,
}

/// Other versions of a kind.
pub trait Versions {
    /// The object and its type in another version; `None` for versions that are not known (any more).
    fn convert<'s>(&'s self, object: &Value, api_version: &str) -> Option<(Value, Type<'s>)>;
}

impl Write<'_> {
    fn time(&self) -> String {
        crate::resources::metadata::time(self.now)
    }

    fn manager<'s>(&'s self, name: &'s str, operation: Operation) -> Manager<'s> {
        Manager {
            name: Cow::Borrowed(if name.is_empty() { "unknown" } else { name }),
            operation,
            api_version: (operation == Operation::Update).then_some(Cow::Borrowed(self.api_version)),
            subresource: Cow::Borrowed(self.subresource),
        }
    }
}

/// `metadata.managedFields` of an object.
fn managed_fields(object: &Value) -> Option<&Value> {
    object.get("metadata")?.get("managedFields")
}

fn take_managed_fields(object: &mut Value) -> Option<Value> {
    object.get_mut("metadata")?.as_object_mut()?.remove("managedFields")
}

fn put_managed_fields(object: &mut Value, fields: Option<Value>) {
    let Some(meta) = object.get_mut("metadata").and_then(Value::as_object_mut) else { return };
    match fields {
        Some(fields) => meta.insert("managedFields".to_owned(), fields),
        None => meta.remove("managedFields"),
    };
}

/// Whether entries are there.
fn has_entries(fields: Option<&Value>) -> bool {
    fields.and_then(Value::as_array).is_some_and(|entries| !entries.is_empty())
}
