//! PUT: replaces an object, or creates it where the kind allows that.

use async_trait::async_trait;
use http::Response;
use hyper::body::Incoming;
use serde_json::Value;

use super::{Target, convert, create, hooks::Allocation, output, write};
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
    check_name(&mut object, &call.info.name)?;
    write::settle_namespace(&mut object, target.resource.namespaced, &call.info.namespace)?;
    let mut update =
        Replace { call, target, object: &object, dry_run: options.dry_run, allocation: Allocation::default() };
    match target.store.modify(namespace(call, target), &call.info.name, &mut update).await {
        Ok(outcome) => output::one(call, target, 200, convert::to_served(target, into_object(outcome)), wanted),
        Err(error) if error.is_not_found() && may_create(target) => {
            authorize_create(call)?;
            let created = create::create(call, target, object, &options).await?;
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

/// Fills the name from the URL.
///
/// # Errors
/// 400 when the object has another one.
pub fn check_name(object: &mut Value, name: &str) -> ApiResult<()> {
    let own = write::name_of(object);
    if own.is_empty() {
        write::ensure_metadata(object)["name"] = name.into();
        return Ok(());
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

struct Replace<'a> {
    call: &'a Call,
    target: Target<'a>,
    object: &'a Value,
    dry_run: bool,
    allocation: Allocation,
}

#[async_trait]
impl Mutation for Replace<'_> {
    async fn attempt(&mut self, current: &Stored) -> ApiResult<Change> {
        write::check_versions(self.target, &self.call.info.name, self.object, current)?;
        let object = self.object.clone();
        let new =
            write::prepare_update(self.call, self.target, object, current, self.dry_run, &mut self.allocation).await?;
        if self.dry_run {
            return Ok(Change::Keep(new));
        }
        Ok(write::put_or_finish(self.target, new, current))
    }

    async fn settle(&mut self, stored: bool) {
        self.allocation.settle(self.call, stored).await;
    }
}
