//! `pods/eviction`: deletes a pod on behalf of somebody who drains a node, as far as disruption budgets allow it.

use async_trait::async_trait;
use http::Response;
use hyper::body::Incoming;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::super::{Target, delete, write};
use crate::{
    admission::Operation,
    request::{
        ApiError, ApiResult,
        body::Expected,
        options::{DeleteOptions, WriteOptions},
        status::StatusCause,
    },
    resources::{
        budget::{self, Refusal},
        pod,
    },
    server::{Call, Change, Mutation, Stored, response::Body},
    storage::cache::{ListQuery, Selection},
};

const EVICTION: Expected<'static> = Expected { group: "policy", version: "v1", kind: "Eviction" };
/// Attempts when the pod changes meanwhile.
const ATTEMPTS: u32 = 20;

/// Serves POST.
///
/// # Errors
/// What the client is to hear.
pub async fn serve(call: &Call, target: Target<'_>, body: Incoming) -> ApiResult<Response<Body>> {
    let options = WriteOptions::parse(&call.query, "CreateOptions")?;
    let mut eviction = write::read_object(call, body, EVICTION, &options).await?;
    let (name, own) = (call.info.name.as_str(), write::name_of(&eviction).to_owned());
    if own != name {
        return Err(ApiError::bad_request("name in URL does not match name in Eviction object"));
    }
    write::settle_namespace(&mut eviction, true, &call.info.namespace)?;
    let request = write::attributes(call, target, Operation::Create, name, None, options.dry_run);
    call.admission.admit(&request, &mut eviction).await?;
    call.admission.validate(&request, Some(&eviction)).await?;
    let delete_options = delete_options(&eviction, name, options.dry_run)?;
    evict(call, target, name, &delete_options).await?;
    call.reply(201, &super::success(201))
}

fn delete_options(eviction: &Value, name: &str, dry_run: bool) -> ApiResult<DeleteOptions> {
    if eviction["deleteOptions"]["ignoreStoreReadErrorWithClusterBreakingPotential"] == true {
        let cause = StatusCause {
            cause_type: "FieldValueInvalid".to_owned(),
            message: "Invalid value: true: can not be set for pod eviction, try after removing the option".to_owned(),
            field: "deleteOptions.ignoreStoreReadErrorWithClusterBreakingPotential".to_owned(),
        };
        return Err(ApiError::invalid("policy", "Eviction", name, vec![cause]));
    }
    let mut options: DeleteOptions = match eviction.get("deleteOptions") {
        Some(options) => serde_json::from_value(options.clone()).map_err(|e| ApiError::bad_request(e.to_string()))?,
        None => DeleteOptions::default(),
    };
    options.validate()?;
    if dry_run && !options.is_dry_run() {
        options.dry_run = vec!["All".to_owned()];
    }
    Ok(options)
}

async fn evict(call: &Call, target: Target<'_>, name: &str, options: &DeleteOptions) -> ApiResult<()> {
    let pinned = options.preconditions.as_ref().is_some_and(|p| p.resource_version.is_some());
    for attempt in 1.. {
        let pod = target.store.get(&call.info.namespace, name).await?;
        if !budget::is_harmless(&pod.object) {
            return evict_guarded(call, target, &pod, options).await;
        }
        // A pod that has not begun may become healthy meanwhile: then its budget counts.
        let pin = !pinned && !budget::is_over(&pod.object);
        match remove(call, target, &pod, options, pin).await {
            Err(error) if error.is_conflict() && !pinned && attempt < ATTEMPTS => {}
            result => return result,
        }
    }
    Ok(())
}

/// Evicts a pod that budgets may guard.
async fn evict_guarded(call: &Call, target: Target<'_>, pod: &Stored, options: &DeleteOptions) -> ApiResult<()> {
    let budgets = budgets_of(call, &pod.object).await?;
    let name = write::name_of(&pod.object);
    let pinned = options.preconditions.as_ref().is_some_and(|p| p.resource_version.is_some());
    let (free, budget_name) = match budgets.as_slice() {
        [] => (false, String::new()),
        [one] => {
            let budget_name = write::name_of(one).to_owned();
            let free = budget::frees_unhealthy(one, &pod.object);
            if !free {
                charge(call, &budget_name, name, options.is_dry_run()).await?;
            }
            (free, budget_name)
        }
        _ => {
            let text =
                "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.";
            return Err(ApiError::new(500, "", text, None));
        }
    };
    match remove(call, target, pod, options, free && !pinned).await {
        Err(error) if error.is_conflict() && free && !pinned => {
            Err(refused(&budget_name, budget::still_processed(&budget_name)))
        }
        result => result,
    }
}

async fn budgets_of(call: &Call, pod: &Value) -> ApiResult<Vec<Value>> {
    let store = call.registry.of("policy", "poddisruptionbudgets")?;
    let selection = Selection::namespace(Some(&call.info.namespace));
    let page = store.cache.list(ListQuery { selection, ..ListQuery::default() }).await;
    let mut budgets = Vec::new();
    for item in page.map_err(|e| store.cache_error(e))?.items {
        let budget: Value = serde_json::from_slice(item.bytes()).map_err(ApiError::internal)?;
        if budget::selects(&budget, pod) {
            budgets.push(budget);
        }
    }
    Ok(budgets)
}

async fn charge(call: &Call, budget: &str, pod: &str, dry_run: bool) -> ApiResult<()> {
    let store = call.registry.of("policy", "poddisruptionbudgets")?;
    store.modify(&call.info.namespace, budget, &mut Charge { budget, pod, dry_run }).await.map(|_| ())
}

struct Charge<'a> {
    budget: &'a str,
    pod: &'a str,
    dry_run: bool,
}

#[async_trait]
impl Mutation for Charge<'_> {
    async fn attempt(&mut self, current: &Stored) -> ApiResult<Change> {
        let mut budget = current.object.clone();
        budget::charge(&mut budget, self.pod, Timestamp::now()).map_err(|why| refused(self.budget, why))?;
        Ok(if self.dry_run { Change::Keep(current.object.clone()) } else { Change::Put(budget) })
    }
}

fn refused(budget: &str, why: Refusal) -> ApiError {
    match why {
        Refusal::Forbidden(text) => ApiError::forbidden("policy", "poddisruptionbudget", budget, text),
        Refusal::Budget(cause, seconds) => {
            let text = "Cannot evict pod as it would violate the pod's disruption budget.";
            ApiError::too_many_requests(text, seconds).with_cause("DisruptionBudget", "", cause)
        }
    }
}

/// Notes on the pod that it is evicted, then deletes it. `pin`: only if it is still as it was seen.
async fn remove(call: &Call, target: Target<'_>, pod: &Stored, options: &DeleteOptions, pin: bool) -> ApiResult<()> {
    let (target, name) = (Target { sub: None, ..target }, write::name_of(&pod.object));
    let mut options = options.clone();
    if pin {
        options.preconditions.get_or_insert_default().resource_version = Some(pod.revision.to_string());
    }
    if !options.is_dry_run() {
        let mut mark = Mark { name, options: &options };
        let outcome = target.store.modify(&call.info.namespace, name, &mut mark).await?;
        let marked = super::super::update::into_object(outcome);
        if let Some(version) = options.preconditions.as_mut().and_then(|p| p.resource_version.as_mut()) {
            *version = marked["metadata"]["resourceVersion"].as_str().unwrap_or_default().to_owned();
        }
    }
    delete::delete(call, target, &call.info.namespace, name, &options).await.map(|_| ())
}

struct Mark<'a> {
    name: &'a str,
    options: &'a DeleteOptions,
}

#[async_trait]
impl Mutation for Mark<'_> {
    async fn attempt(&mut self, current: &Stored) -> ApiResult<Change> {
        delete::check_preconditions(("", "pods"), self.name, self.options, current)?;
        let mut pod = current.object.clone();
        let condition = json!({"type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI",
            "message": "Eviction API: evicting"});
        let status = &mut pod["status"];
        if !status.is_object() {
            *status = json!({});
        }
        pod::update_condition(status, condition, Timestamp::now());
        Ok(Change::Put(pod))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_names_its_cause() {
        let error = refused("b", budget::still_processed("b"));
        assert_eq!((error.code(), error.reason()), (429, "TooManyRequests"));
        let details = error.status().details.clone().unwrap();
        assert_eq!((details.retry_after_seconds, details.causes[0].cause_type.as_str()), (10, "DisruptionBudget"));
        assert_eq!(refused("b", Refusal::Forbidden("no")).code(), 403);
    }
}
