//! RuntimeClass: copies a runtime class's overhead and scheduling rules into pods that use it.

use async_trait::async_trait;
use serde_json::Value;

use super::{Attributes, Operation, Plugin, tolerations};
use crate::request::ApiResult;

pub(super) struct RuntimeClass;

#[async_trait]
impl Plugin for RuntimeClass {
    fn name(&self) -> &'static str {
        "RuntimeClass"
    }

    async fn admit(&self, request: &Attributes<'_>, pod: &mut Value) -> ApiResult<()> {
        if !request.is("", "pods") || request.operation != Operation::Create {
            return Ok(());
        }
        let has_overhead = pod["spec"]["overhead"].as_object().is_some_and(|o| !o.is_empty());
        let Some(name) = pod["spec"]["runtimeClassName"].as_str().map(str::to_owned) else {
            return if has_overhead {
                Err(request
                    .forbidden("pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead"))
            } else {
                Ok(())
            };
        };
        let store = request.call.registry.of("node.k8s.io", "runtimeclasses")?;
        let Some(class) = store.find("", &name).await? else {
            return Err(request.forbidden(format!("pod rejected: RuntimeClass {name:?} not found")));
        };
        if let Some(fixed) = class.object["overhead"].get("podFixed") {
            if has_overhead && pod["spec"]["overhead"] != *fixed {
                return Err(
                    request.forbidden("pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead")
                );
            }
            pod["spec"]["overhead"] = fixed.clone();
        }
        merge_scheduling(request, pod, &class.object["scheduling"])
    }
}

fn merge_scheduling(request: &Attributes<'_>, pod: &mut Value, scheduling: &Value) -> ApiResult<()> {
    for (key, value) in scheduling["nodeSelector"].as_object().into_iter().flatten() {
        match pod["spec"]["nodeSelector"].get(key) {
            Some(own) if own != value => {
                return Err(request.forbidden(format!(
                    "conflict: runtimeClass.scheduling.nodeSelector[{key}] = {}; pod.spec.nodeSelector[{key}] = {}",
                    value.as_str().unwrap_or_default(),
                    own.as_str().unwrap_or_default()
                )));
            }
            _ => pod["spec"]["nodeSelector"][key] = value.clone(),
        }
    }
    let list = |holder: &Value| holder["tolerations"].as_array().cloned().unwrap_or_default();
    let merged = tolerations::merge(&list(&pod["spec"]), &list(scheduling));
    if !merged.is_empty() {
        pod["spec"]["tolerations"] = merged.into();
    }
    Ok(())
}
