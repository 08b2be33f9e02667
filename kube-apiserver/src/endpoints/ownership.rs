//! Who owns which fields after a write: what the pure rules of [`fields`] need to know about a request.

use common::{
    api::{Resource, catalog},
    schema::{self, Type},
};
use jiff::Timestamp;
use serde_json::{Map, Value};

use super::{Target, convert};
use crate::{
    patch::fields::{self, ApplyError, Reset, Versions},
    request::{ApiError, ApiResult, options::WriteOptions, status::StatusCause, status::StatusDetails},
    server::Call,
};

/// The longest manager that a user agent gives.
const MAX_MANAGER: usize = 128;

/// Who writes: the manager that the options name, else what the user agent calls itself.
#[must_use]
pub fn manager(call: &Call, options: &WriteOptions) -> String {
    if !options.field_manager.is_empty() {
        return options.field_manager.clone();
    }
    let agent = call.headers.get(http::header::USER_AGENT).map(|value| String::from_utf8_lossy(value.as_bytes()));
    prefix(agent.as_deref().unwrap_or_default())
}

fn prefix(agent: &str) -> String {
    let mut manager = String::new();
    for c in agent.split('/').next().unwrap_or_default().chars().filter(|c| is_printable(*c)) {
        if manager.len() + c.len_utf8() > MAX_MANAGER {
            break;
        }
        manager.push(c);
    }
    manager
}

fn is_printable(c: char) -> bool {
    c == ' ' || !c.is_control() && !c.is_whitespace()
}

/// A resource in all its versions.
struct Served<'a>(Target<'a>);

impl Served<'_> {
    fn in_version(&self, api_version: &str) -> Option<&'static Resource> {
        let (group, version) = catalog::split_api_version(api_version);
        let found = common::api::catalog().by_plural(group, version, self.0.resource.plural)?;
        let prefix = |resource: &Resource| resource.storage.as_ref().map(|storage| storage.prefix);
        (prefix(found) == prefix(self.0.resource)).then_some(found)
    }
}

impl Versions for Served<'_> {
    fn convert<'s>(&'s self, object: &Value, api_version: &str) -> Option<(Value, Type<'s>)> {
        let to = self.in_version(api_version)?;
        let from = self.in_version(object["apiVersion"].as_str()?)?;
        let ty = schema::lookup(to.group, to.version, to.kind)?;
        let at = |resource| Target { resource, ..self.0 };
        Some((convert::to_served(at(to), convert::to_stored(at(from), object.clone())), ty))
    }
}

/// Versions of a kind that has only one, such as Scale.
struct Single<'a>(&'a str, Type<'a>);

impl Versions for Single<'_> {
    fn convert<'s>(&'s self, object: &Value, api_version: &str) -> Option<(Value, Type<'s>)> {
        (api_version == self.0).then(|| (object.clone(), self.1))
    }
}

/// What objects of a request are.
#[derive(Clone, Copy)]
pub enum Subject<'a> {
    /// The target's resource, possibly through a subresource.
    Resource(Target<'a>),
    /// The Scale of the target.
    Scale,
}

/// Calls `run` with what is known about a write.
fn with<R>(subject: Subject<'_>, manager: &str, run: impl FnOnce(&fields::Write<'_>) -> R) -> Option<R> {
    let now = Timestamp::now();
    match subject {
        Subject::Resource(target) => {
            let (resource, versions) = (target.resource, Served(target));
            let subresource = target.sub.map_or("", |sub| sub.name);
            Some(run(&fields::Write {
                ty: schema::lookup(resource.group, resource.version, resource.kind)?,
                api_version: &resource.api_version(),
                kind: resource.kind,
                manager,
                subresource,
                reset: Reset::of(resource.plural, subresource, resource.subresource("status").is_some()),
                now,
                versions: &versions,
            }))
        }
        Subject::Scale => {
            let ty = schema::lookup("autoscaling", "v1", "Scale")?;
            Some(run(&fields::Write {
                ty,
                api_version: "autoscaling/v1",
                kind: "Scale",
                manager,
                subresource: "scale",
                reset: fields::NOTHING,
                now,
                versions: &Single("autoscaling/v1", ty),
            }))
        }
    }
}

/// An object that is not there yet.
#[must_use]
pub fn nothing() -> Value {
    Value::Object(Map::new())
}

/// Gives the writer of `new`, which is to replace `live`, what it changes. Both are in the version of the request.
pub fn follow(subject: Subject<'_>, manager: &str, live: &Value, new: &mut Value) {
    with(subject, manager, |write| fields::update(write, live, new));
}

/// As [`follow`], for objects in the stored version.
pub fn follow_stored(target: Target<'_>, manager: &str, live: &Value, new: &mut Value) {
    let subject = Subject::Resource(target);
    if target.is_stored_form() {
        return follow(subject, manager, live, new);
    }
    let served = |object: &Value| convert::to_served(target, object.clone());
    let live = if live.as_object().is_some_and(Map::is_empty) { nothing() } else { served(live) };
    let mut changed = served(new);
    follow(subject, manager, &live, &mut changed);
    let fields = changed.get_mut("metadata").and_then(|meta| meta.as_object_mut()?.remove("managedFields"));
    if let Some(meta) = new.get_mut("metadata").and_then(Value::as_object_mut) {
        match fields {
            Some(fields) => meta.insert("managedFields".to_owned(), fields),
            None => meta.remove("managedFields"),
        };
    }
}

/// Applies a configuration to `live` (an empty object when there is none).
///
/// # Errors
/// 400, 409, 500.
pub fn apply(subject: Subject<'_>, options: &WriteOptions, live: &Value, config: &Value) -> ApiResult<Value> {
    let force = options.force == Some(true);
    let applied = with(subject, &options.field_manager, |write| fields::apply(write, live, config, force));
    applied.unwrap_or_else(|| Err(ApplyError::Unfit("no type is known".to_owned()))).map_err(refused)
}

fn refused(error: ApplyError) -> ApiError {
    match error {
        ApplyError::BadRequest(message) => ApiError::bad_request(message),
        ApplyError::Unfit(message) => ApiError::new(500, "", message, None),
        ApplyError::Conflict { message, causes } => {
            let cause = |cause: fields::Cause| StatusCause {
                cause_type: "FieldManagerConflict".to_owned(),
                message: cause.message,
                field: cause.field,
            };
            let causes = causes.into_iter().map(cause).collect();
            ApiError::new(409, "Conflict", message, Some(StatusDetails { causes, ..Default::default() }))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn managers_are_called_like_their_programs() {
        assert_eq!(prefix("kubectl/v1.36 (linux/amd64)"), "kubectl");
        assert_eq!(prefix("two words"), "two words");
        assert_eq!(prefix("a\u{1}b\tc/x"), "abc");
        assert_eq!(prefix(&"é".repeat(100)).len(), MAX_MANAGER);
        assert_eq!(prefix(""), "");
    }
}
