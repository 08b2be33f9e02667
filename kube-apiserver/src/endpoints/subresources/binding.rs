//! `pods/binding`: assigns a pod to a node, once.

use async_trait::async_trait;
use http::Response;
use hyper::body::Incoming;
use jiff::Timestamp;
use serde_json::Value;

use super::super::{Target, write};
use crate::{
    admission::Operation,
    request::{ApiError, ApiResult, body::Expected, options::WriteOptions},
    resources::pod,
    server::{Call, Change, Mutation, Stored, response::Body},
};

const BINDING: Expected<'static> = Expected { group: "", version: "v1", kind: "Binding" };

/// Serves POST on `pods/<name>/binding`.
///
/// # Errors
/// What the client is to hear.
pub async fn serve(call: &Call, target: Target<'_>, body: Incoming) -> ApiResult<Response<Body>> {
    let options = WriteOptions::parse(&call.query, "CreateOptions")?;
    let mut binding = write::read_object(call, body, BINDING, &options).await?;
    write::settle_namespace(&mut binding, true, &call.info.namespace)?;
    if write::name_of(&binding) != call.info.name {
        return Err(ApiError::bad_request("name in URL does not match name in Binding object"));
    }
    let request = write::attributes(call, target, Operation::Create, &call.info.name, None, options.dry_run);
    call.admission.admit(&request, &mut binding).await?;
    call.admission.validate(&request, Some(&binding)).await?;
    bind(call, target, &call.info.name, &binding, options.dry_run).await
}

/// Serves POST on `bindings`, the old form with the name in the body.
///
/// # Errors
/// What the client is to hear.
pub async fn serve_collection(call: &Call, body: Incoming) -> ApiResult<Response<Body>> {
    let options = WriteOptions::parse(&call.query, "CreateOptions")?;
    let mut binding = write::read_object(call, body, BINDING, &options).await?;
    write::settle_namespace(&mut binding, true, &call.info.namespace)?;
    let store = call.registry.core("pods")?;
    let target = Target { resource: store.resource, sub: store.resource.subresource("binding"), store };
    let name = write::name_of(&binding).to_owned();
    bind(call, target, &name, &binding, options.dry_run).await
}

async fn bind(
    call: &Call,
    target: Target<'_>,
    name: &str,
    binding: &Value,
    dry_run: bool,
) -> ApiResult<Response<Body>> {
    let errors = pod::validate_binding(binding);
    if !errors.is_empty() {
        // Upstream's error has no status here.
        let texts: Vec<String> = errors.0.iter().map(ToString::to_string).collect();
        let text = if let [text] = texts.as_slice() { text.clone() } else { format!("[{}]", texts.join(", ")) };
        return Err(ApiError::new(500, "", text, None));
    }
    let mut assign = Assign { name, binding, dry_run };
    target.store.modify(&call.info.namespace, name, &mut assign).await?;
    call.reply(201, &super::success(201))
}

struct Assign<'a> {
    name: &'a str,
    binding: &'a Value,
    dry_run: bool,
}

#[async_trait]
impl Mutation for Assign<'_> {
    async fn attempt(&mut self, current: &Stored) -> ApiResult<Change> {
        let conflict = |why: String| ApiError::conflict("", "pods/binding", self.name, why);
        let mut pod = current.object.clone();
        let uid = self.binding["metadata"]["uid"].as_str().unwrap_or_default();
        let pod_uid = pod["metadata"]["uid"].as_str().unwrap_or_default();
        if !uid.is_empty() && uid != pod_uid {
            return Err(conflict(format!(
                "Precondition failed: UID in precondition: {uid}, UID in object meta: {pod_uid}"
            )));
        }
        pod::bind(&mut pod, self.binding, Timestamp::now()).map_err(conflict)?;
        Ok(if self.dry_run { Change::Keep(pod) } else { Change::Put(pod) })
    }
}
