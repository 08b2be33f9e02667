//! RBAC escalation: nobody hands out permissions that he does not hold, unless he may `escalate` or `bind`.

use serde_json::Value;

use super::super::{Target, write};
use crate::{
    authn::MASTERS,
    authz::{Attributes, Mode, rbac::rules_of},
    request::{ApiError, ApiResult},
    server::Call,
};

const GROUP: &str = "rbac.authorization.k8s.io";

/// Refuses writes of roles and bindings that grant more than the writer has.
///
/// # Errors
/// 403 with what is missing.
pub fn rbac_guard(call: &Call, target: Target<'_>, new: &Value, old: Option<&Value>) -> ApiResult<()> {
    let resource = target.store.resource;
    if resource.group != GROUP
        || !call.authorizer.has(Mode::Rbac)
        || call.user.groups.iter().any(|g| g == MASTERS)
        || old.is_some_and(|old| same_grant(old, new))
    {
        return Ok(());
    }
    match resource.plural {
        "roles" | "clusterroles" => guard_role(call, target, new),
        "rolebindings" | "clusterrolebindings" => guard_binding(call, target, new),
        _ => Ok(()),
    }
}

/// Only metadata that garbage collection needs was changed.
fn same_grant(old: &Value, new: &Value) -> bool {
    let grant = ["rules", "aggregationRule", "subjects", "roleRef"];
    let meta = ["labels", "annotations"];
    grant.iter().all(|f| old.get(*f) == new.get(*f))
        && meta.iter().all(|f| old["metadata"].get(*f) == new["metadata"].get(*f))
}

fn guard_role(call: &Call, target: Target<'_>, role: &Value) -> ApiResult<()> {
    let (plural, name, namespace) = (target.resource.plural, write::name_of(role), namespace(call, target));
    if call.authorizer.allows(&Attributes::resource(
        &call.user,
        "escalate",
        (GROUP, plural),
        namespace,
        &call.info.name,
    )) {
        return Ok(());
    }
    let mut wanted = rules_of(role);
    if role.get("aggregationRule").is_some_and(|a| !a.is_null()) {
        // Whoever aggregates may come to hold anything.
        wanted.push(crate::authz::rules::Rule {
            verbs: vec!["*".into()],
            api_groups: vec!["*".into()],
            resources: vec!["*".into()],
            ..Default::default()
        });
        wanted.push(crate::authz::rules::Rule {
            verbs: vec!["*".into()],
            non_resource_urls: vec!["*".into()],
            ..Default::default()
        });
    }
    call.authorizer
        .rbac
        .confirm_no_escalation(&call.user, namespace, &wanted)
        .map_err(|why| ApiError::forbidden(GROUP, plural, name, why))
}

fn guard_binding(call: &Call, target: Target<'_>, binding: &Value) -> ApiResult<()> {
    let namespace = namespace(call, target);
    let text = |v: &'_ Value| v.as_str().unwrap_or_default().to_owned();
    let (kind, role) = (text(&binding["roleRef"]["kind"]), text(&binding["roleRef"]["name"]));
    let plural = if kind == "Role" { "roles" } else { "clusterroles" };
    if call.authorizer.allows(&Attributes::resource(&call.user, "bind", (GROUP, plural), namespace, &role)) {
        return Ok(());
    }
    let rules = call
        .authorizer
        .rbac
        .role_rules(&kind, &role, namespace)
        .map_err(|_| ApiError::not_found(GROUP, plural, &role))?;
    call.authorizer
        .rbac
        .confirm_no_escalation(&call.user, namespace, &rules)
        .map_err(|why| ApiError::forbidden(GROUP, target.resource.plural, write::name_of(binding), why))
}

fn namespace<'a>(call: &'a Call, target: Target<'_>) -> &'a str {
    if target.resource.namespaced { &call.info.namespace } else { "" }
}
