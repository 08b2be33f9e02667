//! PATCH: JSON patch, merge patch and strategic merge patch on an object or its subresource.

use async_trait::async_trait;
use bytes::Bytes;
use http::{Response, header};
use hyper::body::Incoming;
use serde_json::Value;

use super::{Target, convert, hooks::Allocation, output, update, write};
use crate::{
    patch::{self, PatchType},
    request::{
        ApiError, ApiResult,
        body::{self, Expected},
        negotiate,
        options::{FieldValidation, WriteOptions},
    },
    server::{Call, Change, Mutation, Stored, response::Body},
};

/// Serves PATCH.
///
/// # Errors
/// What the client is to hear.
pub async fn serve(call: &Call, target: Target<'_>, body: Incoming) -> ApiResult<Response<Body>> {
    let wanted = negotiate::output(&call.headers, false)?;
    let options = WriteOptions::parse(&call.query, "PatchOptions")?;
    let patch = read(call, body, target.expected()).await?;
    let mut mutation = ApplyPatch { call, target, patch: &patch, options: &options, allocation: Allocation::default() };
    let outcome = target.store.modify(update::namespace(call, target), &call.info.name, &mut mutation).await?;
    output::one(call, target, 200, convert::to_served(target, update::into_object(outcome)), wanted)
}

/// A patch as sent.
pub struct Patch {
    kind: PatchType,
    bytes: Bytes,
    expected: Expected<'static>,
}

/// Reads a patch for objects of a kind.
///
/// # Errors
/// 413, 415.
pub async fn read(call: &Call, incoming: Incoming, expected: Expected<'static>) -> ApiResult<Patch> {
    let content_type = call.headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let kind = PatchType::from_content_type(content_type)
        .ok_or_else(|| ApiError::unsupported_media_type(&patch::MEDIA_TYPES))?;
    Ok(Patch { kind, bytes: body::read(incoming).await?, expected })
}

impl Patch {
    /// The patched document, checked against its type; warnings go to the client.
    ///
    /// # Errors
    /// 400, 415, 422.
    pub fn apply(&self, call: &Call, original: &Value, mode: FieldValidation) -> ApiResult<Value> {
        let patched = patch::apply(self.kind, original, &self.bytes, body::type_of(self.expected));
        let patched = patched.map_err(|e| super::subresources::patch_error(self.kind, e))?;
        let decoded = body::conform(&patched, self.expected, mode)?;
        decoded.warnings.into_iter().for_each(|w| call.warn(w));
        Ok(decoded.object)
    }
}

struct ApplyPatch<'a> {
    call: &'a Call,
    target: Target<'a>,
    patch: &'a Patch,
    options: &'a WriteOptions,
    allocation: Allocation,
}

#[async_trait]
impl Mutation for ApplyPatch<'_> {
    async fn attempt(&mut self, current: &Stored) -> ApiResult<Change> {
        let (call, target) = (self.call, self.target);
        let original = convert::to_served(target, current.object.clone());
        let mut object = self.patch.apply(call, &original, self.options.field_validation)?;
        update::check_name(&mut object, &call.info.name)?;
        write::settle_namespace(&mut object, target.resource.namespaced, &call.info.namespace)?;
        if object["metadata"]["resourceVersion"] == Value::Null {
            object["metadata"]["resourceVersion"] = current.revision.to_string().into();
        }
        write::check_versions(target, &call.info.name, &object, current)?;
        let dry_run = self.options.dry_run;
        let new = write::prepare_update(call, target, object, current, dry_run, &mut self.allocation).await?;
        if self.options.dry_run {
            return Ok(Change::Keep(new));
        }
        Ok(write::put_or_finish(target, new, current))
    }

    async fn settle(&mut self, stored: bool) {
        self.allocation.settle(self.call, stored).await;
    }
}
