//! POST: creates an object.

use http::Response;
use hyper::body::Incoming;
use serde_json::Value;

use super::{Target, convert, hooks, output, ownership, write, write::Writing};
use crate::{
    admission::Operation,
    request::{ApiError, ApiResult, negotiate, options::WriteOptions},
    resources::metadata,
    server::{Call, response::Body},
};

/// Names that are tried when generated ones are taken.
const GENERATE_ATTEMPTS: usize = 8;

/// Serves POST on a collection.
///
/// # Errors
/// What the client is to hear.
pub async fn serve(call: &Call, target: Target<'_>, body: Incoming) -> ApiResult<Response<Body>> {
    super::not_yet::check(target)?;
    let wanted = negotiate::output(&call.headers, false)?;
    let options = WriteOptions::parse(&call.query, "CreateOptions")?;
    let object = write::read_object(call, body, target.expected(), &options).await?;
    let manager = ownership::manager(call, &options);
    let writing = Writing { call, target, options: &options, manager: Some(&manager) };
    let created = create(writing, object).await?;
    output::one(call, target, 201, convert::to_served(target, created), wanted)
}

/// Creates an object in the version of the request; answers it in the stored version.
///
/// # Errors
/// What the client is to hear.
pub async fn create(writing: Writing<'_>, mut object: Value) -> ApiResult<Value> {
    let Writing { call, target, .. } = writing;
    check_name(&object)?;
    write::settle_namespace(&mut object, target.resource.namespaced, &call.info.namespace)?;
    if !(write::name_of(&object).is_empty() && has_generate_name(&object)) {
        return create_once(writing, object).await;
    }
    for attempt in 1.. {
        match create_once(writing, object.clone()).await {
            Err(error) if error.is_already_exists() => {
                if attempt >= GENERATE_ATTEMPTS {
                    let name = error.status().details.as_ref().map(|d| d.name.clone()).unwrap_or_default();
                    return Err(ApiError::generate_name_conflict(target.resource.group, target.resource.plural, &name));
                }
            }
            result => return result,
        }
    }
    Err(ApiError::internal("unreachable"))
}

fn has_generate_name(object: &Value) -> bool {
    object["metadata"]["generateName"].as_str().is_some_and(|n| !n.is_empty())
}

fn check_name(object: &Value) -> ApiResult<()> {
    if !object["metadata"]["resourceVersion"].as_str().unwrap_or_default().is_empty() {
        return Err(ApiError::new(500, "", "resourceVersion should not be set on objects to be created", None));
    }
    Ok(())
}

async fn create_once(writing: Writing<'_>, object: Value) -> ApiResult<Value> {
    let Writing { call, target, options, manager } = writing;
    let strategy = target.store.strategy;
    let now = write::context(call, target).now;
    let mut object = convert::to_stored(target, object);
    write::ensure_metadata(&mut object);
    metadata::fill_system_fields(&mut object, now);
    let name = write::name_of(&object).to_owned();
    strategy.default(&mut object);
    if let Some(manager) = manager {
        ownership::follow_stored(target, manager, &ownership::nothing(), &mut object);
    }
    let request = write::attributes(call, target, Operation::Create, &name, None, options.dry_run);
    call.admission.admit(&request, &mut object).await?;
    let mut allocation = hooks::Allocation::for_create(call, target, &mut object, options.dry_run).await?;
    let result = check_and_store(call, target, &name, object, options).await;
    allocation.settle(call, result.is_ok()).await;
    result
}

/// The part that may fail after addresses and ports are allocated.
async fn check_and_store(
    call: &Call,
    target: Target<'_>,
    name: &str,
    mut object: Value,
    options: &WriteOptions,
) -> ApiResult<Value> {
    let strategy = target.strategy();
    strategy.prepare_create(&mut object, &write::context(call, target));
    super::subresources::rbac_guard(call, target, &object, None)?;
    let errors = strategy.validate_create(&object);
    if !errors.is_empty() {
        let resource = target.store.resource;
        return Err(ApiError::invalid_fields(resource.group, resource.kind, name, errors));
    }
    strategy.warnings(&object, None, None).into_iter().for_each(|w| call.warn(w));
    let request = write::attributes(call, target, Operation::Create, name, None, options.dry_run);
    call.admission.validate(&request, Some(&object)).await?;
    store(call, target, name, object, options).await
}

async fn store(
    call: &Call,
    target: Target<'_>,
    name: &str,
    mut object: Value,
    options: &WriteOptions,
) -> ApiResult<Value> {
    let namespace = super::update::namespace(call, target);
    if options.dry_run {
        if target.store.find(namespace, name).await?.is_some() {
            return Err(ApiError::already_exists(target.resource.group, target.resource.plural, name));
        }
        target.store.normalize(&mut object);
        return Ok(object);
    }
    match target.store.create(namespace, name, &mut object).await {
        // Who owns what may be what makes the object too large.
        Err(error) if error.code() == 413 && write::forget_managers(&mut object) => {
            target.store.create(namespace, name, &mut object).await?;
        }
        result => result?,
    }
    Ok(object)
}
