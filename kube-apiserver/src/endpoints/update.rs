//! PUT: replaces an object, or creates it where the kind allows that.

use async_trait::async_trait;
use http::Response;
use hyper::body::Incoming;
use serde_json::Value;

use super::{Target, convert, create, hooks::Allocation, output, ownership, write, write::Writing};
use crate::{
    authz,
    request::{ApiError, ApiResult, negotiate, options::WriteOptions},
    server::{Call, Change, Mutation, Outcome, Stored, response::Body},
};

/// Serves PUT on an object or on a subresource whose body is the object itself.
///
/// # Errors
/// What the client is to hear.
pub async fn serve(call: &Call, target: Target<'_>, body: Incoming) -> ApiResult<Response<Body>> {
    let wanted = negotiate::output(&call.headers, false)?;
    let options = WriteOptions::parse(&call.query, "UpdateOptions")?;
    let mut object = write::read_object(call, body, target.expected(), &options).await?;
    write::settle_namespace(&mut object, target.resource.namespaced, &call.info.namespace)?;
    check_name(&object, &call.info.name)?;
    let manager = ownership::manager(call, &options);
    let writing = Writing { call, target, options: &options, manager: Some(&manager) };
    let mut update = Replace { writing, object: &object, allocation: Allocation::default() };
    match modify(call, target, &mut update).await {
        Ok(outcome) => output::one(call, target, 200, convert::to_served(target, into_object(outcome)), wanted),
        Err(error) if error.is_not_found() && may_create(target) => {
            authorize_create(call)?;
            let created = create::create(writing, object).await?;
            output::one(call, target, 201, convert::to_served(target, created), wanted)
        }
        Err(error) => Err(error),
    }
}

/// The namespace of the store's key.
#[must_use]
pub fn namespace<'a>(call: &'a Call, target: Target<'_>) -> &'a str {
    if target.resource.namespaced { &call.info.namespace } else { "" }
}

/// The object of an outcome.
#[must_use]
pub fn into_object(outcome: Outcome) -> Value {
    match outcome {
        Outcome::Stored(object) | Outcome::Deleted(object) => object,
    }
}

/// Checks the name against the URL's.
///
/// # Errors
/// 400 when the object has none or another one.
pub fn check_name(object: &Value, name: &str) -> ApiResult<()> {
    let own = write::name_of(object);
    if own.is_empty() {
        return Err(ApiError::bad_request(format!(
            "the name of the object ({name} based on URL) was undeterminable: name must be provided"
        )));
    }
    if own != name {
        return Err(ApiError::bad_request(format!(
            "the name of the object ({own}) does not match the name on the URL ({name})"
        )));
    }
    Ok(())
}

fn may_create(target: Target<'_>) -> bool {
    target.sub.is_none() && target.store.strategy.allow_create_on_update()
}

/// An update that turns out to be a create needs the right to create.
///
/// # Errors
/// 403.
pub fn authorize_create(call: &Call) -> ApiResult<()> {
    let attributes = authz::Attributes { verb: "create", ..call.attributes() };
    call.authorizer.check(&attributes)
}

/// Runs a mutation of the object at the URL. If that turns out too large, once more without saying who owns what.
///
/// # Errors
/// 404, what the mutation answers, or the store is unavailable.
pub async fn modify(call: &Call, target: Target<'_>, mutation: &mut dyn Mutation) -> ApiResult<Outcome> {
    let (namespace, name) = (namespace(call, target), call.info.name.as_str());
    match target.modify(namespace, name, mutation).await {
        Err(error) if error.code() == 413 => target.modify(namespace, name, &mut WithoutManagers(mutation)).await,
        result => result,
    }
}

struct WithoutManagers<'a>(&'a mut dyn Mutation);

#[async_trait]
impl Mutation for WithoutManagers<'_> {
    async fn attempt(&mut self, current: &Stored) -> ApiResult<Change> {
        Ok(match self.0.attempt(current).await? {
            Change::Put(mut object) => {
                write::forget_managers(&mut object);
                Change::Put(object)
            }
            other => other,
        })
    }

    async fn settle(&mut self, stored: bool) {
        self.0.settle(stored).await;
    }
}

struct Replace<'a> {
    writing: Writing<'a>,
    object: &'a Value,
    allocation: Allocation,
}

#[async_trait]
impl Mutation for Replace<'_> {
    async fn attempt(&mut self, current: &Stored) -> ApiResult<Change> {
        let Writing { call, target, options, .. } = self.writing;
        write::check_uid(call, target, self.object, current)?;
        write::check_versions(target, &call.info.name, self.object, current)?;
        let object = self.object.clone();
        let new = write::prepare_update(self.writing, object, current, &mut self.allocation).await?;
        if options.dry_run {
            return Ok(Change::Keep(new));
        }
        Ok(write::put_or_finish(target, new, current))
    }

    async fn settle(&mut self, stored: bool) {
        self.allocation.settle(self.writing.call, stored).await;
    }
}
