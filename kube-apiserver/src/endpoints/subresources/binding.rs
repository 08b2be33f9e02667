//! `pods/binding`: assigns a pod to a node, once.

use async_trait::async_trait;
use http::Response;
use hyper::body::Incoming;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::super::{Target, write};
use crate::{
    admission::Operation,
    request::{ApiError, ApiResult, body::Expected, options::WriteOptions, status::StatusCause},
    resources::metadata::time,
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
    let own = write::name_of(&binding);
    if !own.is_empty() && own != call.info.name {
        return Err(ApiError::bad_request(format!(
            "name in URL ({}) does not match name in Binding object ({own})",
            call.info.name
        )));
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
    validate(name, binding)?;
    let mut assign = Assign { target, name, binding, dry_run };
    target.store.modify(&call.info.namespace, name, &mut assign).await?;
    call.reply(201, &super::success(201))
}

fn validate(name: &str, binding: &Value) -> ApiResult<()> {
    let mut causes = Vec::new();
    let kind = binding["target"]["kind"].as_str().unwrap_or_default();
    if !matches!(kind, "" | "Node") {
        causes.push(StatusCause {
            cause_type: "FieldValueNotSupported".to_owned(),
            message: format!("Unsupported value: {kind:?}: supported values: \"Node\", \"<empty>\""),
            field: "target.kind".to_owned(),
        });
    }
    if binding["target"]["name"].as_str().unwrap_or_default().is_empty() {
        causes.push(StatusCause {
            cause_type: "FieldValueRequired".to_owned(),
            message: "Required value".to_owned(),
            field: "target.name".to_owned(),
        });
    }
    if causes.is_empty() { Ok(()) } else { Err(ApiError::invalid("", "Binding", name, causes)) }
}

struct Assign<'a> {
    target: Target<'a>,
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
        if !pod["metadata"]["deletionTimestamp"].is_null() {
            return Err(conflict(format!("pod {} is being deleted, cannot be assigned to a host", self.name)));
        }
        if let Some(node) = pod["spec"]["nodeName"].as_str().filter(|n| !n.is_empty()) {
            return Err(conflict(format!("pod {} is already assigned to node {node:?}", self.name)));
        }
        if pod["spec"]["schedulingGates"].as_array().is_some_and(|g| !g.is_empty()) {
            return Err(conflict(format!("pod {} has non-empty .spec.schedulingGates", self.name)));
        }
        pod["spec"]["nodeName"] = self.binding["target"]["name"].clone();
        for field in ["annotations", "labels"] {
            for (key, value) in self.binding["metadata"][field].as_object().into_iter().flatten() {
                pod["metadata"][field][key] = value.clone();
            }
        }
        set_scheduled(&mut pod);
        debug_assert!(self.target.resource.plural == "pods");
        Ok(if self.dry_run { Change::Keep(pod) } else { Change::Put(pod) })
    }
}

/// The `PodScheduled` condition, true as of now.
fn set_scheduled(pod: &mut Value) {
    let now = time(Timestamp::now());
    let condition = json!({"type": "PodScheduled", "status": "True", "lastProbeTime": null, "lastTransitionTime": now});
    let conditions = &mut pod["status"]["conditions"];
    if !conditions.is_array() {
        *conditions = json!([]);
    }
    let Some(list) = conditions.as_array_mut() else { return };
    match list.iter_mut().find(|c| c["type"] == "PodScheduled") {
        Some(existing) if existing["status"] == "True" => {}
        Some(existing) => *existing = condition,
        None => list.push(condition),
    }
}
