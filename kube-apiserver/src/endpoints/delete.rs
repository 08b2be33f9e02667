//! DELETE of one object or a collection: preconditions, grace periods, finalizers, propagation.

use async_trait::async_trait;
use http::Response;
use hyper::body::Incoming;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::{Target, convert, list, output, write};
use crate::{
    admission::{self, Operation},
    request::{
        ApiError, ApiResult, body, negotiate,
        options::{DeleteOptions, ListOptions},
    },
    resources::metadata::{self, DeletePlan},
    server::{Call, Change, Mutation, Outcome, Stored, response::Body},
};

const ORPHAN: &str = "orphan";
const FOREGROUND: &str = "foregroundDeletion";
/// Objects of a collection that are deleted at the same time.
const COLLECTION_WORKERS: usize = 10;
/// Kinds whose deletion answers the object instead of a Status.
const RETURNS_OBJECT: [&str; 15] = [
    "CSIDriver",
    "CSINode",
    "DeviceClass",
    "Namespace",
    "PersistentVolume",
    "PersistentVolumeClaim",
    "Pod",
    "PodTemplate",
    "ResourceClaim",
    "ResourceClaimTemplate",
    "ResourceQuota",
    "Service",
    "ServiceAccount",
    "StorageClass",
    "VolumeAttachment",
];

/// Serves DELETE of an object.
///
/// # Errors
/// What the client is to hear.
pub async fn serve(call: &Call, target: Target<'_>, incoming: Incoming) -> ApiResult<Response<Body>> {
    let wanted = negotiate::output(&call.headers, false)?;
    let options = read_options(call, incoming).await?;
    warn_of_orphans(call, target, &options);
    let outcome = delete(call, target, &call.info.namespace, &call.info.name, &options).await?;
    let (object, deleted) = match outcome {
        Outcome::Deleted(object) => (object, true),
        Outcome::Stored(object) => (object, false),
    };
    let code = if !deleted && options.orphan_dependents == Some(false) { 202 } else { 200 };
    if !deleted || RETURNS_OBJECT.contains(&target.store.resource.kind) {
        return output::one(call, target, code, convert::to_served(target, object), wanted);
    }
    call.reply(code, &success(target, &object))
}

/// Jobs leave their pods behind unless told otherwise.
fn warn_of_orphans(call: &Call, target: Target<'_>, options: &DeleteOptions) {
    let told = options.propagation_policy.is_some() || options.orphan_dependents.is_some();
    if target.store.resource.kind == "Job" && !told {
        call.warn(
            "child pods are preserved by default when jobs are deleted; set propagationPolicy=Background to remove them or set propagationPolicy=Orphan to suppress this warning",
        );
    }
}

fn success(target: Target<'_>, object: &Value) -> Value {
    let mut details = json!({
        "name": write::name_of(object),
        "kind": target.resource.plural,
        "uid": object["metadata"]["uid"],
    });
    if !target.resource.group.is_empty() {
        details["group"] = target.resource.group.into();
    }
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details})
}

/// Options from the body or, without one, from the query string.
///
/// # Errors
/// 400, 413, 415, 422.
pub async fn read_options(call: &Call, incoming: Incoming) -> ApiResult<DeleteOptions> {
    let bytes = body::read(incoming).await?;
    let options = if bytes.is_empty() {
        DeleteOptions::from_query(&call.query)?
    } else {
        let options = body::delete_options(&bytes, negotiate::input(&call.headers)?)?;
        if let Some(trail) = &call.trail {
            trail.request_object(&options);
        }
        serde_json::from_value(options).map_err(|error| ApiError::bad_request(error.to_string()))?
    };
    options.validate()?;
    Ok(options)
}

/// Deletes one object as far as its grace period and finalizers allow.
///
/// # Errors
/// What the client is to hear.
pub async fn delete(
    call: &Call,
    target: Target<'_>,
    namespace: &str,
    name: &str,
    options: &DeleteOptions,
) -> ApiResult<Outcome> {
    let namespace = if target.resource.namespaced { namespace } else { "" };
    let mut removal = Removal { call, target, name, options, now: Timestamp::now() };
    let outcome = target.modify(namespace, name, &mut removal).await?;
    if let (Outcome::Deleted(object), false) = (&outcome, options.is_dry_run()) {
        super::hooks::after_delete(call, target, object).await;
    }
    Ok(outcome)
}

struct Removal<'a> {
    call: &'a Call,
    target: Target<'a>,
    name: &'a str,
    options: &'a DeleteOptions,
    now: Timestamp,
}

#[async_trait]
impl Mutation for Removal<'_> {
    async fn attempt(&mut self, current: &Stored) -> ApiResult<Change> {
        // Upstream says the kind here where it means the resource.
        let resource = (self.target.resource.group, self.target.resource.kind);
        check_preconditions(resource, self.name, self.options, current)?;
        let request = admission::Attributes {
            delete: Some(self.options),
            ..write::attributes(
                self.call,
                self.target,
                Operation::Delete,
                self.name,
                Some(&current.object),
                self.options.is_dry_run(),
            )
        };
        self.call.admission.validate(&request, None).await?;
        let change = self.decide(current);
        if self.options.is_dry_run() {
            return Ok(Change::Keep(match change {
                Change::Put(object) | Change::Keep(object) | Change::Expire(object) => object,
                Change::Delete => current.object.clone(),
            }));
        }
        Ok(change)
    }
}

/// Checks the uid and version that the options demand.
///
/// # Errors
/// 409.
pub fn check_preconditions(
    (group, resource): (&str, &str),
    name: &str,
    options: &DeleteOptions,
    current: &Stored,
) -> ApiResult<()> {
    let Some(wanted) = &options.preconditions else { return Ok(()) };
    let uid = current.object["metadata"]["uid"].as_str().unwrap_or_default();
    if let Some(wanted) = wanted.uid.as_deref().filter(|w| *w != uid) {
        let why = format!(
            "the UID in the precondition ({wanted}) does not match the UID in record ({uid}). The object might have been deleted and then recreated"
        );
        return Err(ApiError::conflict(group, resource, name, why));
    }
    let version = current.revision.to_string();
    if let Some(wanted) = wanted.resource_version.as_deref().filter(|w| *w != version) {
        let why = format!(
            "the ResourceVersion in the precondition ({wanted}) does not match the ResourceVersion in record ({version}). The object might have been modified"
        );
        return Err(ApiError::conflict(group, resource, name, why));
    }
    Ok(())
}

impl Removal<'_> {
    fn decide(&self, current: &Stored) -> Change {
        let mut object = current.object.clone();
        if self.is_namespace() {
            return self.decide_namespace(object);
        }
        let requested = self.options.grace_period_seconds;
        let plan = metadata::before_delete(self.target.store.strategy, &mut object, requested, self.now);
        if plan == DeletePlan::Pending {
            return Change::Keep(object);
        }
        let pending = self.settle_finalizers(&mut object);
        let seconds = object["metadata"]["deletionGracePeriodSeconds"].as_i64().unwrap_or(0);
        match plan {
            DeletePlan::Marked if seconds > 0 || pending => Change::Put(object),
            DeletePlan::Immediate if pending => {
                mark(&mut object, self.now);
                Change::Put(object)
            }
            // As upstream: whoever watches sees that no time is left before the object is gone.
            DeletePlan::Marked => Change::Expire(object),
            _ => Change::Delete,
        }
    }

    fn is_namespace(&self) -> bool {
        self.target.store.resource.kind == "Namespace" && self.target.store.resource.group.is_empty()
    }

    /// Namespaces stay until the namespace controller has emptied them and taken `spec.finalizers`.
    fn decide_namespace(&self, mut object: Value) -> Change {
        let pending = self.settle_finalizers(&mut object);
        let deleting = !object["metadata"]["deletionTimestamp"].is_null();
        let spec = object["spec"]["finalizers"].as_array().map_or(0, Vec::len);
        if !deleting {
            mark(&mut object, self.now);
            if let Some(meta) = object["metadata"].as_object_mut() {
                meta.remove("deletionGracePeriodSeconds");
            }
            object["status"]["phase"] = "Terminating".into();
            return Change::Put(object);
        }
        if spec > 0 || pending { Change::Keep(object) } else { Change::Delete }
    }

    /// Applies the propagation policy; says whether finalizers remain.
    fn settle_finalizers(&self, object: &mut Value) -> bool {
        let old: Vec<String> = object["metadata"]["finalizers"]
            .as_array()
            .map(|l| l.iter().filter_map(|v| v.as_str().map(str::to_owned)).collect())
            .unwrap_or_default();
        let kind = self.target.store.resource.kind;
        if kind == "Event" {
            return !old.is_empty();
        }
        let policy = effective_policy(self.options, &old, matches!(kind, "ReplicationController" | "Job"));
        let mut new: Vec<String> = old.iter().filter(|f| !matches!(f.as_str(), ORPHAN | FOREGROUND)).cloned().collect();
        match policy {
            "Orphan" => new.push(ORPHAN.to_owned()),
            "Foreground" => new.push(FOREGROUND.to_owned()),
            _ => {}
        }
        if new.iter().any(|f| !old.contains(f)) || old.iter().any(|f| !new.contains(f)) {
            write::ensure_metadata(object)["finalizers"] = new.clone().into();
        }
        !new.is_empty()
    }
}

/// The policy of the options, else what finalizers on the object say, else the kind's default.
fn effective_policy<'a>(options: &'a DeleteOptions, finalizers: &[String], orphan_by_default: bool) -> &'a str {
    if let Some(orphan) = options.orphan_dependents {
        return if orphan { "Orphan" } else { "Background" };
    }
    if let Some(policy) = &options.propagation_policy {
        return policy;
    }
    let has = |name: &str| finalizers.iter().any(|f| f == name);
    match () {
        () if has(ORPHAN) => "Orphan",
        () if has(FOREGROUND) => "Foreground",
        () if orphan_by_default => "Orphan",
        () => "Background",
    }
}

/// Marks an object that waits for its finalizers only.
fn mark(object: &mut Value, now: Timestamp) {
    let meta = write::ensure_metadata(object);
    if meta["deletionTimestamp"].is_null() {
        if let Some(generation) = meta["generation"].as_i64().filter(|g| *g > 0) {
            meta["generation"] = (generation + 1).into();
        }
        meta["deletionTimestamp"] = metadata::time(now).into();
    }
    meta["deletionGracePeriodSeconds"] = 0.into();
}

/// Serves DELETE of a collection.
///
/// # Errors
/// What the client is to hear.
pub async fn collection(call: &Call, target: Target<'_>, incoming: Incoming) -> ApiResult<Response<Body>> {
    let list_options = ListOptions::parse(&call.query, false)?;
    let options = read_options(call, incoming).await?;
    let wanted = negotiate::output(&call.headers, false)?;
    let whole = list_options.limit == 0;
    let mut page = list::read(call, target, &list_options).await?;
    warn_of_orphans(call, target, &options);
    let keys: Vec<(String, String)> =
        page.items.iter().map(|item| (item.namespace().to_owned(), item.name().to_owned())).collect();
    for batch in keys.chunks(COLLECTION_WORKERS) {
        let deletions = batch.iter().map(|(namespace, name)| delete(call, target, namespace, name, &options));
        for result in futures::future::join_all(deletions).await {
            match result {
                Ok(_) => {}
                Err(error) if error.is_not_found() => {}
                Err(error) => return Err(error),
            }
        }
    }
    if whole {
        (page.continue_token, page.remaining) = (None, None);
    }
    list::answer(call, target, page, wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_override_finalizers_override_defaults() {
        let options = |policy: Option<&str>, orphan| DeleteOptions {
            propagation_policy: policy.map(str::to_owned),
            orphan_dependents: orphan,
            ..Default::default()
        };
        let finalizers = |f: &str| vec![f.to_owned()];
        assert_eq!(effective_policy(&options(Some("Background"), None), &finalizers(ORPHAN), true), "Background");
        assert_eq!(effective_policy(&options(None, None), &finalizers(FOREGROUND), false), "Foreground");
        assert_eq!(effective_policy(&options(None, None), &[], true), "Orphan");
        assert_eq!(effective_policy(&options(None, Some(true)), &[], false), "Orphan");
        assert_eq!(effective_policy(&options(None, None), &[], false), "Background");
    }
}
