//! PATCH: JSON patch, merge patch, strategic merge patch and server-side apply on an object or its subresource.

use async_trait::async_trait;
use bytes::Bytes;
use http::{Response, header};
use hyper::body::Incoming;
use serde_json::Value;

use super::{
    Target, convert, create, hooks::Allocation, not_yet, output, ownership, ownership::Subject, update, write,
    write::Writing,
};
use crate::{
    patch::{self, PatchType},
    request::{
        ApiError, ApiResult,
        body::{self, Expected},
        negotiate,
        options::{FieldValidation, WriteOptions},
    },
    server::{Call, Change, Mutation, Outcome, Stored, response::Body},
};

/// How often an apply tries to update, then to create, what others create and delete at the same time.
const APPLY_ATTEMPTS: usize = 5;

/// Serves PATCH.
///
/// # Errors
/// What the client is to hear.
pub async fn serve(call: &Call, target: Target<'_>, body: Incoming) -> ApiResult<Response<Body>> {
    let kind = kind_of(call)?;
    let wanted = negotiate::output(&call.headers, false)?;
    let patch = Patch::read(kind, body, target.expected()).await?;
    let options = WriteOptions::parse_patch(&call.query, kind == PatchType::Apply)?;
    let manager = ownership::manager(call, &options);
    let manager = (kind != PatchType::Apply).then_some(manager.as_str());
    let patching = Patching { writing: Writing { call, target, options: &options, manager }, patch: &patch };
    let (code, object) = patching.run().await?;
    output::one(call, target, code, convert::to_served(target, object), wanted)
}

struct Patching<'a> {
    writing: Writing<'a>,
    patch: &'a Patch,
}

impl Patching<'_> {
    /// The code of the answer, and the object in the stored version.
    async fn run(&self) -> ApiResult<(u16, Value)> {
        let target = self.writing.target;
        for _ in 0..APPLY_ATTEMPTS {
            let mut mutation =
                ApplyPatch { writing: self.writing, patch: self.patch, allocation: Allocation::default() };
            match self.modify(&mut mutation).await {
                Err(error) if error.is_not_found() && self.patch.kind == PatchType::Apply && target.sub.is_none() => {}
                result => return result.map(|outcome| (200, update::into_object(outcome))),
            }
            match self.create().await {
                Err(error) if error.is_already_exists() => {}
                result => return result.map(|created| (201, created)),
            }
        }
        Err(ApiError::server_timeout(target.resource.group, target.resource.plural, "update", 1))
    }

    async fn modify(&self, mutation: &mut ApplyPatch<'_>) -> ApiResult<Outcome> {
        let Writing { call, target, .. } = self.writing;
        if self.patch.kind == PatchType::Apply {
            return target.modify(update::namespace(call, target), &call.info.name, mutation).await;
        }
        update::modify(call, target, mutation).await
    }

    /// Applies to what is not there: creates it.
    async fn create(&self) -> ApiResult<Value> {
        let Writing { call, target, options, .. } = self.writing;
        not_yet::check(target)?;
        let mut object = self.patch.apply(call, Subject::Resource(target), &ownership::nothing(), options)?;
        let uid = object["metadata"]["uid"].as_str().unwrap_or_default();
        let (group, resource, name) = (target.resource.group, target.resource.plural, call.info.name.as_str());
        if !uid.is_empty() {
            let why =
                format!("uid mismatch: the provided object specified uid {uid}, and no existing object was found");
            return Err(ApiError::conflict(group, resource, name, why));
        }
        update::check_name(&object, name)?;
        // Upstream does not hold a version against what is not there.
        write::ensure_metadata(&mut object)["resourceVersion"] = Value::Null;
        write::settle_namespace(&mut object, target.resource.namespaced, &call.info.namespace)?;
        update::authorize_create(call)?;
        create::create(self.writing, object).await
    }
}

/// The patch type that the request says.
///
/// # Errors
/// 415.
pub fn kind_of(call: &Call) -> ApiResult<PatchType> {
    let content_type = call.headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    PatchType::from_content_type(content_type).ok_or_else(ApiError::unroutable_media_type)
}

/// A patch as sent.
pub struct Patch {
    kind: PatchType,
    bytes: Bytes,
    expected: Expected<'static>,
}

impl Patch {
    /// Reads a patch for objects of a kind.
    ///
    /// # Errors
    /// 413.
    pub async fn read(kind: PatchType, incoming: Incoming, expected: Expected<'static>) -> ApiResult<Self> {
        Ok(Self { kind, bytes: body::read(incoming).await?, expected })
    }

    /// Whether this is a server-side apply.
    #[must_use]
    pub fn is_apply(&self) -> bool {
        self.kind == PatchType::Apply
    }

    /// The patched document, checked against its type; warnings go to the client.
    ///
    /// # Errors
    /// 400, 409, 415, 422.
    pub fn apply(
        &self,
        call: &Call,
        subject: Subject<'_>,
        original: &Value,
        options: &WriteOptions,
    ) -> ApiResult<Value> {
        let mode = options.field_validation;
        if let Some(trail) = &call.trail {
            trail.request_patch(&self.bytes);
        }
        if !self.is_apply() {
            return self.patch(call, original, mode);
        }
        let config = patch::read_configuration(&self.bytes).map_err(|e| ApiError::bad_request(e.to_string()))?;
        let applied = ownership::apply(subject, options, original, &config.value)?;
        match mode {
            FieldValidation::Strict if !config.twice.is_empty() => Err(ApiError::bad_request(format!(
                "error strict decoding YAML: error converting YAML to JSON: {}",
                config.strict_error()
            ))),
            FieldValidation::Warn => {
                config.twice.iter().for_each(|line| call.warn(line));
                Ok(applied)
            }
            _ => Ok(applied),
        }
    }

    fn patch(&self, call: &Call, original: &Value, mode: FieldValidation) -> ApiResult<Value> {
        let refused = super::subresources::patch_error;
        let Some(ty) = body::type_of(self.expected) else {
            return patch::apply(self.kind, original, &self.bytes, None).map_err(refused);
        };
        let strict = mode != FieldValidation::Ignore;
        let patched =
            patch::apply_typed(self.kind, original, &self.bytes, (self.expected, ty), strict).map_err(refused)?;
        match mode {
            FieldValidation::Strict if !patched.problems.is_empty() => {
                return Err(refused(patch::PatchError::strict(&patched.shown, &patched.problems)));
            }
            FieldValidation::Warn => patched.problems.iter().for_each(|problem| call.warn(problem.to_string())),
            _ => {}
        }
        let mut object = patched.value;
        object["kind"] = self.expected.kind.into();
        object["apiVersion"] = self.expected.api_version().into();
        Ok(object)
    }
}

struct ApplyPatch<'a> {
    writing: Writing<'a>,
    patch: &'a Patch,
    allocation: Allocation,
}

#[async_trait]
impl Mutation for ApplyPatch<'_> {
    async fn attempt(&mut self, current: &Stored) -> ApiResult<Change> {
        let Writing { call, target, options, .. } = self.writing;
        let original = convert::to_served(target, current.object.clone());
        let mut object = self.patch.apply(call, Subject::Resource(target), &original, options)?;
        write::settle_namespace(&mut object, target.resource.namespaced, &call.info.namespace)?;
        update::check_name(&object, &call.info.name)?;
        if object["metadata"]["resourceVersion"] == Value::Null {
            object["metadata"]["resourceVersion"] = current.revision.to_string().into();
        }
        write::check_versions(target, &call.info.name, &object, current)?;
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
