//! What creates, updates and patches share: reading the body, names and namespaces, the steps before an object is stored.

use bytes::Bytes;
use hyper::body::Incoming;
use jiff::Timestamp;
use serde_json::Value;

use super::{Target, convert, hooks::Allocation, ownership};
use crate::{
    admission::{self, Operation},
    patch::fields,
    request::{
        ApiError, ApiResult,
        body::{self, Expected},
        negotiate,
        options::{WriteOptions, parse_uint},
    },
    resources::Ctx,
    server::{Call, Change, Stored},
};

/// Reads and decodes the body as `expected`, collecting warnings.
///
/// # Errors
/// 400, 413, 415.
pub async fn read_object(
    call: &Call,
    incoming: Incoming,
    expected: Expected<'_>,
    options: &WriteOptions,
) -> ApiResult<Value> {
    let encoding = negotiate::input(&call.headers)?;
    let bytes: Bytes = body::read(incoming).await?;
    let decoded = body::decode(&bytes, encoding, expected, options.field_validation)?;
    decoded.warnings.into_iter().for_each(|w| call.warn(w));
    if let Some(trail) = &call.trail {
        trail.request_object(&decoded.object);
    }
    Ok(decoded.object)
}

/// The request's context for strategies.
#[must_use]
pub fn context<'a>(call: &'a Call, target: Target<'_>) -> Ctx<'a> {
    Ctx {
        namespace: if target.resource.namespaced { &call.info.namespace } else { "" },
        user: &call.user,
        now: Timestamp::now(),
    }
}

/// The name in an object's metadata.
#[must_use]
pub fn name_of(object: &Value) -> &str {
    object["metadata"]["name"].as_str().unwrap_or_default()
}

/// Fills the namespace from the URL.
///
/// # Errors
/// 400 when the object names another one.
pub fn settle_namespace(object: &mut Value, namespaced: bool, namespace: &str) -> ApiResult<()> {
    let own = object["metadata"]["namespace"].as_str().unwrap_or_default();
    let wanted = if namespaced { namespace } else { "" };
    if own == wanted {
        return Ok(());
    }
    if own.is_empty() {
        ensure_metadata(object)["namespace"] = wanted.into();
        return Ok(());
    }
    if wanted.is_empty() {
        if let Some(meta) = object["metadata"].as_object_mut() {
            meta.remove("namespace");
        }
        return Ok(());
    }
    Err(ApiError::bad_request("the namespace of the provided object does not match the namespace sent on the request"))
}

/// The metadata, made when it is missing.
pub fn ensure_metadata(object: &mut Value) -> &mut Value {
    let meta = &mut object["metadata"];
    if !meta.is_object() {
        *meta = Value::Object(serde_json::Map::new());
    }
    meta
}

/// The attributes of a write for admission.
#[must_use]
pub fn attributes<'a>(
    call: &'a Call,
    target: Target<'a>,
    operation: Operation,
    name: &'a str,
    old: Option<&'a Value>,
    dry_run: bool,
) -> admission::Attributes<'a> {
    admission::Attributes {
        call,
        operation,
        group: target.resource.group,
        resource: target.resource.plural,
        subresource: target.sub.map_or("", |s| s.name),
        kind: target.sub.map_or(target.resource.kind, |s| s.kind),
        namespace: &call.info.namespace,
        name,
        old,
        dry_run,
        delete: None,
    }
}

/// A write that changes an object.
#[derive(Clone, Copy)]
pub struct Writing<'a> {
    /// The request.
    pub call: &'a Call,
    /// What is written.
    pub target: Target<'a>,
    /// How.
    pub options: &'a WriteOptions,
    /// Who comes to own what the write changes; `None` when the object says so already.
    pub manager: Option<&'a str>,
}

/// Turns an admitted-to-be object into what is stored: default, ownership, admission, preparation, validation, in
/// upstream's order. `object` is in the version of the request; the result is in the stored version.
///
/// # Errors
/// What admission or validation objects to.
pub async fn prepare_update(
    writing: Writing<'_>,
    object: Value,
    current: &Stored,
    allocation: &mut Allocation,
) -> ApiResult<Value> {
    let Writing { call, target, options, manager } = writing;
    let (strategy, dry_run) = (target.strategy(), options.dry_run);
    let sub = target.sub.map(|s| s.name);
    let mut new = convert::to_stored(target, object);
    if is_unconditional(&new) {
        // Whoever names no version means the current one; admission and validation see that.
        new["metadata"]["resourceVersion"] = current.revision.to_string().into();
    }
    strategy.default(&mut new);
    if let Some(manager) = manager {
        ownership::follow_stored(target, manager, &current.object, &mut new);
    }
    let name = call.info.name.as_str();
    let request = attributes(call, target, Operation::Update, name, Some(&current.object), dry_run);
    call.admission.admit(&request, &mut new).await?;
    *allocation = Allocation::for_update(call, target, &mut new, &current.object, dry_run).await?;
    let context = context(call, target);
    strategy.prepare_update(&mut new, &current.object, sub, &context);
    fields::forget_new_times(&current.object, &mut new);
    super::subresources::rbac_guard(call, target, &new, Some(&current.object))?;
    let errors = strategy.validate_update(&new, &current.object, sub);
    if !errors.is_empty() {
        return Err(ApiError::invalid_fields(target.store.resource.group, target.store.resource.kind, name, errors));
    }
    strategy.warnings(&new, Some(&current.object), sub).into_iter().for_each(|w| call.warn(w));
    call.admission.validate(&request, Some(&new)).await?;
    Ok(new)
}

/// Checks the uid that a replacement says.
///
/// # Errors
/// 409 when another object has the name now.
pub fn check_uid(call: &Call, target: Target<'_>, object: &Value, current: &Stored) -> ApiResult<()> {
    let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
    let (uid, current_uid) = (text(&object["metadata"]["uid"]), text(&current.object["metadata"]["uid"]));
    if uid.is_empty() || uid == current_uid {
        return Ok(());
    }
    let (resource, name) = (target.resource, call.info.name.as_str());
    let key = target.store.cache.key(super::update::namespace(call, target), name);
    let why = format!(
        "StorageError: invalid object, Code: 4, Key: {key}, ResourceVersion: 0, AdditionalErrorMsg: Precondition failed: UID in precondition: {uid}, UID in object meta: {current_uid}"
    );
    Err(ApiError::conflict(resource.group, resource.plural, name, why))
}

/// Checks the resourceVersion that every write of an existing object must respect.
///
/// # Errors
/// 409, 422 when the kind demands one, 500 when it is no number.
pub fn check_versions(target: Target<'_>, name: &str, object: &Value, current: &Stored) -> ApiResult<()> {
    let (group, resource) = (target.resource.group, target.resource.plural);
    if is_unconditional(object) {
        if target.store.strategy.allow_unconditional_update() {
            return Ok(());
        }
        return Err(ApiError::invalid(
            target.store.resource.group,
            target.store.resource.plural,
            name,
            vec![crate::request::status::StatusCause {
                cause_type: "FieldValueInvalid".to_owned(),
                message: "Invalid value: 0: must be specified for an update".to_owned(),
                field: "metadata.resourceVersion".to_owned(),
            }],
        ));
    }
    let version = object["metadata"]["resourceVersion"].as_str().unwrap_or_default();
    if parse_uint(version).map_err(|error| ApiError::new(500, "", error, None))? != current.revision {
        return Err(ApiError::modified(group, resource, name));
    }
    Ok(())
}

/// Whether an update names no version of what it replaces.
fn is_unconditional(object: &Value) -> bool {
    matches!(object["metadata"]["resourceVersion"].as_str(), None | Some("" | "0"))
}

/// Removes who owns what; whether that was there.
pub fn forget_managers(object: &mut Value) -> bool {
    let meta = object.get_mut("metadata").and_then(Value::as_object_mut);
    meta.is_some_and(|meta| meta.remove("managedFields").is_some())
}

/// Stores the object, or removes it when it is marked for deletion and the update took its last finalizer.
#[must_use]
pub fn put_or_finish(target: Target<'_>, object: Value, current: &Stored) -> Change {
    let meta = &object["metadata"];
    let finalizers = |o: &Value| o["metadata"]["finalizers"].as_array().map_or(0, Vec::len);
    let graceful = target.store.strategy.is_graceful()
        && meta["deletionGracePeriodSeconds"].as_i64().is_some_and(|seconds| seconds > 0);
    let spec_finalizers = object["spec"]["finalizers"].as_array().map_or(0, Vec::len);
    let is_namespace = target.store.resource.kind == "Namespace" && target.store.resource.group.is_empty();
    let doomed = meta.get("deletionTimestamp").is_some_and(|t| !t.is_null());
    if doomed && finalizers(&object) == 0 && !graceful && !(is_namespace && spec_finalizers > 0) {
        let had = finalizers(&current.object) > 0 || is_namespace;
        if had || !target.store.strategy.is_graceful() {
            return Change::Delete;
        }
    }
    Change::Put(object)
}
