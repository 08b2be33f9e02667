//! OwnerReferencesPermissionEnforcement: who sets owners may delete the object, and who blocks an owner's deletion may finalize it.

use async_trait::async_trait;
use common::api::{catalog, catalog::split_api_version};
use serde_json::Value;

use super::{Attributes, Operation, Plugin};
use crate::{
    authz,
    request::ApiResult,
    resources::value::{bool_at, list_at, same_at, str_at},
};

pub(super) struct OwnerReferencesPermissionEnforcement;

#[async_trait]
impl Plugin for OwnerReferencesPermissionEnforcement {
    fn name(&self) -> &'static str {
        "OwnerReferencesPermissionEnforcement"
    }

    async fn validate(&self, request: &Attributes<'_>, object: Option<&Value>) -> ApiResult<()> {
        let Some(object) = object.filter(|_| request.operation != Operation::Delete) else { return Ok(()) };
        // Status writes of pods are guarded by their strategy.
        if (request.group, request.resource, request.subresource) == ("", "pods", "status") {
            return Ok(());
        }
        let nothing = Value::Null;
        let old = request.old.unwrap_or(&nothing);
        if same_at(object, old, "metadata.ownerReferences") {
            return Ok(());
        }
        if request.operation == Operation::Update {
            let own = authz::Attributes {
                subresource: request.subresource,
                ..question(request, "delete", (request.group, request.resource), request.namespace, request.name)
            };
            let decision = request.call.authorizer.decide(&own);
            if !decision.allowed {
                return Err(request.forbidden(format!(
                    "cannot set an ownerRef on a resource you can't delete: {}, <nil>",
                    decision.reason
                )));
            }
        }
        newly_blocking(object, old).try_for_each(|owner| check_owner(request, owner))
    }
}

fn question<'a>(
    request: &'a Attributes<'_>,
    verb: &'a str,
    what: (&'a str, &'a str),
    namespace: &'a str,
    name: &'a str,
) -> authz::Attributes<'a> {
    authz::Attributes::resource(&request.call.user, verb, what, namespace, name)
}

/// Owners whose deletion waits for this object, and did not before.
fn newly_blocking<'a>(new: &'a Value, old: &'a Value) -> impl Iterator<Item = &'a Value> {
    let before = list_at(old, "metadata.ownerReferences");
    list_at(new, "metadata.ownerReferences").iter().filter(move |owner| {
        bool_at(owner, "blockOwnerDeletion")
            && !before.iter().any(|o| str_at(o, "uid") == str_at(owner, "uid") && bool_at(o, "blockOwnerDeletion"))
    })
}

fn check_owner(request: &Attributes<'_>, owner: &Value) -> ApiResult<()> {
    let everything =
        authz::Attributes { subresource: "finalizers", ..question(request, "update", ("*", "*"), "", "*") };
    if request.call.authorizer.allows(&everything) {
        return Ok(());
    }
    let (api_version, kind) = (str_at(owner, "apiVersion"), str_at(owner, "kind"));
    let (group, version) = split_api_version(api_version);
    let Some(resource) = catalog().by_kind(group, version, kind) else {
        return Err(request.forbidden(format!(
            "cannot set blockOwnerDeletion in this case because cannot find RESTMapping for APIVersion {api_version} Kind {kind}: no matches for kind {kind:?} in version {api_version:?}"
        )));
    };
    let namespace = if resource.namespaced { request.namespace } else { "" };
    let finalize = authz::Attributes {
        subresource: "finalizers",
        ..question(request, "update", (group, resource.plural), namespace, str_at(owner, "name"))
    };
    let decision = request.call.authorizer.decide(&finalize);
    if decision.allowed {
        return Ok(());
    }
    Err(request.forbidden(format!(
        "cannot set blockOwnerDeletion if an ownerReference refers to a resource you can't set finalizers on: {}, <nil>",
        decision.reason
    )))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_new_blockers_count() {
        let object = |block| json!({"metadata": {"ownerReferences": [{"uid": "u", "blockOwnerDeletion": block}]}});
        assert_eq!(newly_blocking(&object(true), &object(false)).count(), 1);
        assert_eq!(newly_blocking(&object(true), &object(true)).count(), 0);
        assert_eq!(newly_blocking(&object(true), &Value::Null).count(), 1);
    }
}
