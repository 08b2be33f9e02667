//! `scale`: replicas of workloads as an autoscaling/v1 Scale.

use async_trait::async_trait;
use http::{Method, Response};
use hyper::body::Incoming;
use serde_json::{Value, json};

use super::super::{
    Target,
    hooks::Allocation,
    ownership::{self, Subject},
    patch::{self, Patch},
    update,
    write::{self, Writing},
};
use crate::{
    patch::{PatchType, fields},
    request::{ApiError, ApiResult, body::Expected, options::WriteOptions, status::StatusCause},
    server::{Call, Change, Mutation, Stored, response::Body},
};

const SCALE: Expected<'static> = Expected { group: "autoscaling", version: "v1", kind: "Scale" };

enum Wanted {
    Scale(Value),
    Patch(Patch),
}

/// Serves GET, PUT and PATCH.
///
/// # Errors
/// What the client is to hear.
pub async fn serve(call: &Call, target: Target<'_>, body: Incoming) -> ApiResult<Response<Body>> {
    let namespace = update::namespace(call, target);
    if call.method == Method::GET {
        let stored = target.store.get(namespace, &call.info.name).await?;
        return call.reply(200, &scale_of(&stored.object));
    }
    let (options, wanted) = if call.method == Method::PUT {
        let options = WriteOptions::parse(&call.query, "UpdateOptions")?;
        let mut scale = write::read_object(call, body, SCALE, &options).await?;
        write::settle_namespace(&mut scale, target.resource.namespaced, &call.info.namespace)?;
        update::check_name(&scale, &call.info.name)?;
        (options, Wanted::Scale(scale))
    } else {
        let kind = patch::kind_of(call)?;
        let patch = Patch::read(kind, body, SCALE).await?;
        (WriteOptions::parse_patch(&call.query, kind == PatchType::Apply)?, Wanted::Patch(patch))
    };
    let manager = ownership::manager(call, &options);
    let writing = Writing { call, target: Target { sub: None, ..target }, options: &options, manager: None };
    let mut rescale = Rescale { writing, wanted, manager };
    let outcome = target.store.modify(namespace, &call.info.name, &mut rescale).await?;
    call.reply(200, &scale_of(&update::into_object(outcome)))
}

struct Rescale<'a> {
    writing: Writing<'a>,
    wanted: Wanted,
    manager: String,
}

impl Rescale<'_> {
    /// The Scale that is wanted, with who owns it.
    fn wanted(&self, live: &Value) -> ApiResult<Value> {
        let Writing { call, options, .. } = self.writing;
        let mut scale = match &self.wanted {
            Wanted::Scale(scale) => scale.clone(),
            Wanted::Patch(patch) => {
                let mut scale = patch.apply(call, Subject::Scale, live, options)?;
                write::settle_namespace(&mut scale, true, &call.info.namespace)?;
                update::check_name(&scale, &call.info.name)?;
                if patch.is_apply() {
                    return Ok(scale);
                }
                scale
            }
        };
        ownership::follow(Subject::Scale, &self.manager, live, &mut scale);
        Ok(scale)
    }
}

#[async_trait]
impl Mutation for Rescale<'_> {
    async fn attempt(&mut self, current: &Stored) -> ApiResult<Change> {
        let Writing { call, target, options, .. } = self.writing;
        let owners = fields::Scale {
            parent: current.object["metadata"].get("managedFields"),
            api_version: &target.resource.api_version(),
            group: target.resource.group,
        };
        let mut live = scale_of(&current.object);
        if let Some(owners) = owners.to_scale() {
            live["metadata"]["managedFields"] = owners;
        }
        let scale = self.wanted(&live)?;
        let name = &call.info.name;
        let version = scale["metadata"]["resourceVersion"].as_str().unwrap_or_default();
        if !version.is_empty() && version != current.revision.to_string() {
            return Err(ApiError::modified(target.resource.group, target.resource.plural, name));
        }
        let replicas = scale["spec"]["replicas"].as_i64().unwrap_or(0);
        if replicas < 0 {
            let cause = StatusCause {
                cause_type: "FieldValueInvalid".to_owned(),
                message: format!("Invalid value: {replicas}: must be greater than or equal to 0"),
                field: "spec.replicas".to_owned(),
            };
            return Err(ApiError::invalid("autoscaling", "Scale", name, vec![cause]));
        }
        let mut object = super::super::convert::to_served(target, current.object.clone());
        object["spec"]["replicas"] = replicas.into();
        write::forget_managers(&mut object);
        if let Some(owners) = owners.to_parent(scale["metadata"].get("managedFields")) {
            object["metadata"]["managedFields"] = owners;
        }
        let mut none = Allocation::default();
        let new = write::prepare_update(self.writing, object, current, &mut none).await?;
        Ok(if options.dry_run { Change::Keep(new) } else { Change::Put(new) })
    }
}

/// The Scale of a workload.
fn scale_of(object: &Value) -> Value {
    let meta = &object["metadata"];
    let mut scale_meta = json!({});
    for field in ["name", "namespace", "uid", "resourceVersion", "creationTimestamp"] {
        if let Some(value) = meta.get(field) {
            scale_meta[field] = value.clone();
        }
    }
    let mut status = json!({"replicas": object["status"]["replicas"].as_i64().unwrap_or(0)});
    let selector = selector_text(&object["spec"]["selector"]);
    if !selector.is_empty() {
        status["selector"] = selector.into();
    }
    let mut spec = json!({});
    if let Some(replicas) = object["spec"]["replicas"].as_i64().filter(|r| *r != 0) {
        spec["replicas"] = replicas.into();
    }
    json!({"kind": "Scale", "apiVersion": "autoscaling/v1", "metadata": scale_meta, "spec": spec, "status": status})
}

/// A label selector (or a plain label map) in its text form, keys in order.
fn selector_text(selector: &Value) -> String {
    let strings = |v: &Value| -> Vec<String> {
        let list = v.as_array().into_iter().flatten();
        let mut out: Vec<String> = list.filter_map(|s| s.as_str().map(str::to_owned)).collect();
        out.sort();
        out
    };
    let structured = selector.get("matchLabels").is_some() || selector.get("matchExpressions").is_some();
    let labels = if structured { &selector["matchLabels"] } else { selector };
    let mut terms: Vec<(String, String)> = labels
        .as_object()
        .into_iter()
        .flatten()
        .map(|(k, v)| (k.clone(), format!("{k}={}", v.as_str().unwrap_or_default())))
        .collect();
    for expression in selector["matchExpressions"].as_array().into_iter().flatten() {
        let key = expression["key"].as_str().unwrap_or_default().to_owned();
        let values = strings(&expression["values"]).join(",");
        let text = match expression["operator"].as_str().unwrap_or_default() {
            "In" => format!("{key} in ({values})"),
            "NotIn" => format!("{key} notin ({values})"),
            "Exists" => key.clone(),
            "DoesNotExist" => format!("!{key}"),
            _ => continue,
        };
        terms.push((key, text));
    }
    terms.sort();
    terms.into_iter().map(|(_, text)| text).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scale_shows_replicas_and_selector() {
        let scale = scale_of(&json!({"metadata": {"name": "a"}, "spec": {"replicas": 3, "selector": {
            "matchLabels": {"b": "1", "a": "2"}, "matchExpressions": [{"key": "c", "operator": "In", "values": ["y", "x"]}]}},
            "status": {"replicas": 2}}));
        assert_eq!(scale["spec"]["replicas"], 3);
        assert_eq!(scale["status"]["selector"], "a=2,b=1,c in (x,y)");
        assert_eq!(selector_text(&json!({"app": "x"})), "app=x");
    }
}
