//! Priority: turns a pod's priority class into its priority; one class at most is the default.

use async_trait::async_trait;
use serde_json::Value;

use super::{Attributes, Operation, Plugin};
use crate::{request::ApiResult, storage::cache::ListQuery};

const GROUP: &str = "scheduling.k8s.io";

pub(super) struct Priority;

#[async_trait]
impl Plugin for Priority {
    fn name(&self) -> &'static str {
        "Priority"
    }

    async fn admit(&self, request: &Attributes<'_>, object: &mut Value) -> ApiResult<()> {
        if !request.is("", "pods") {
            return Ok(());
        }
        match (request.operation, request.old) {
            (Operation::Create, _) => admit_pod(request, object).await,
            (Operation::Update, Some(old)) => {
                for field in ["priority", "preemptionPolicy"] {
                    if object["spec"].get(field).is_none()
                        && let Some(value) = old["spec"].get(field)
                    {
                        object["spec"][field] = value.clone();
                    }
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    async fn validate(&self, request: &Attributes<'_>, object: Option<&Value>) -> ApiResult<()> {
        let Some(class) = object.filter(|_| request.is(GROUP, "priorityclasses")) else { return Ok(()) };
        if class["globalDefault"] != true {
            return Ok(());
        }
        match default_class(request).await? {
            Some(other) if other["metadata"]["name"] != class["metadata"]["name"] => {
                let name = other["metadata"]["name"].as_str().unwrap_or_default();
                Err(request.forbidden(format!(
                    "PriorityClass {name} is already marked as default. Only one default can exist"
                )))
            }
            _ => Ok(()),
        }
    }
}

async fn classes(request: &Attributes<'_>) -> ApiResult<Vec<Value>> {
    let store = request.call.registry.of(GROUP, "priorityclasses")?;
    let page = store.cache.list(ListQuery::default()).await.map_err(|e| store.cache_error(e))?;
    Ok(page.items.iter().filter_map(|i| serde_json::from_slice(i.bytes()).ok()).collect())
}

/// The default class of the lowest value, as upstream chooses should there be several.
async fn default_class(request: &Attributes<'_>) -> ApiResult<Option<Value>> {
    let mut found: Vec<Value> = classes(request).await?.into_iter().filter(|c| c["globalDefault"] == true).collect();
    found.sort_by_key(|c| c["value"].as_i64());
    Ok(found.into_iter().next())
}

async fn admit_pod(request: &Attributes<'_>, pod: &mut Value) -> ApiResult<()> {
    let wanted = pod["spec"]["priorityClassName"].as_str().unwrap_or_default().to_owned();
    let class = if wanted.is_empty() {
        default_class(request).await?
    } else {
        let store = request.call.registry.of(GROUP, "priorityclasses")?;
        let found = store.find("", &wanted).await?;
        let found = found.ok_or_else(|| request.forbidden(format!("no PriorityClass with name {wanted} was found")))?;
        Some(found.object)
    };
    let priority = class.as_ref().and_then(|c| c["value"].as_i64()).unwrap_or(0);
    let policy =
        class.as_ref().and_then(|c| c["preemptionPolicy"].as_str()).unwrap_or("PreemptLowerPriority").to_owned();
    let spec = &mut pod["spec"];
    if let Some(given) = spec["priority"].as_i64().filter(|p| *p != priority) {
        return Err(request.forbidden(format!(
            "the integer value of priority ({given}) must not be provided in pod spec; priority admission controller computed {priority} from the given PriorityClass name"
        )));
    }
    if let Some(given) = spec["preemptionPolicy"].as_str().filter(|p| *p != policy) {
        return Err(request.forbidden(format!(
            "the string value of PreemptionPolicy ({given}) must not be provided in pod spec; priority admission controller computed {policy} from the given PriorityClass name"
        )));
    }
    if let (true, Some(class)) = (wanted.is_empty(), &class) {
        spec["priorityClassName"] = class["metadata"]["name"].clone();
    }
    spec["priority"] = priority.into();
    spec["preemptionPolicy"] = policy.into();
    Ok(())
}
