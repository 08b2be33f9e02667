//! Roles and bindings.

use jiff::Timestamp;
use serde_json::Value;

use super::{
    checks,
    field::{ErrorKind, ErrorList, Path},
    metadata::NameRule,
    names,
    rules::Rules,
    table::{AGE, Column, NAME, NAME_CREATED, Row, age, name, name_created, text, wide},
    value::{at, each, is_set, list_at, member, same_at, set_if_zero, str_at},
};

const GROUP: &str = "rbac.authorization.k8s.io";

const BASE: Rules = Rules {
    group: GROUP,
    name: NameRule::PathSegment,
    create_on_update: true,
    columns: NAME_CREATED,
    row: name_created,
    ..Rules::GENERIC
};

pub(crate) const RULES: &[Rules] = &[
    Rules {
        resource: "roles",
        kind: "Role",
        validate: |obj, errs| policy_rules(obj, true, errs),
        validate_update: |new, _, _, errs| policy_rules(new, true, errs),
        ..BASE
    },
    Rules {
        resource: "clusterroles",
        kind: "ClusterRole",
        namespaced: false,
        validate: |obj, errs| cluster_role(obj, false, errs),
        validate_update: |new, old, _, errs| cluster_role(new, has_bad_selector(old), errs),
        ..BASE
    },
    Rules {
        resource: "rolebindings",
        kind: "RoleBinding",
        defaults: binding_defaults,
        validate: |obj, errs| binding(obj, true, errs),
        validate_update: |new, old, _, errs| binding_update(new, old, true, errs),
        columns: BINDING_COLUMNS,
        row: binding_row,
        ..BASE
    },
    Rules {
        resource: "clusterrolebindings",
        kind: "ClusterRoleBinding",
        namespaced: false,
        defaults: binding_defaults,
        validate: |obj, errs| binding(obj, false, errs),
        validate_update: |new, old, _, errs| binding_update(new, old, false, errs),
        columns: BINDING_COLUMNS,
        row: binding_row,
        ..BASE
    },
];

fn binding_defaults(obj: &mut Value) {
    if let Some(role) = member(obj, "roleRef") {
        set_if_zero(role, "apiGroup", GROUP);
    }
    for subject in each(obj, "subjects") {
        if matches!(str_at(subject, "kind"), "User" | "Group") {
            set_if_zero(subject, "apiGroup", GROUP);
        }
    }
}

fn policy_rules(obj: &Value, namespaced: bool, errs: &mut ErrorList) {
    let root = Path::root("rules");
    for (i, rule) in list_at(obj, "rules").iter().enumerate() {
        let path = root.index(i);
        let has = |list: &str| is_set(rule, list);
        if !has("verbs") {
            errs.required(&path.child("verbs"), "verbs must contain at least one value");
        }
        if has("nonResourceURLs") {
            let urls = list_at(rule, "nonResourceURLs").to_vec();
            let path = path.child("nonResourceURLs");
            if namespaced {
                errs.invalid(&path, urls.clone(), "namespaced rules cannot apply to non-resource URLs");
            }
            if has("apiGroups") || has("resources") || has("resourceNames") {
                errs.invalid(&path, urls, "rules cannot apply to both regular resources and non-resource URLs");
            }
            continue;
        }
        if !has("apiGroups") {
            errs.required(&path.child("apiGroups"), "resource rules must supply at least one api group");
        }
        if !has("resources") {
            errs.required(&path.child("resources"), "resource rules must supply at least one resource");
        }
    }
}

/// Whether a stored role has a selector that breaks rules of today.
fn has_bad_selector(role: &Value) -> bool {
    let mut problems = ErrorList::new();
    let selectors = list_at(role, "aggregationRule.clusterRoleSelectors");
    selectors.iter().for_each(|selector| checks::label_selector(selector, &Path::root(""), &mut problems));
    !problems.is_empty()
}

fn cluster_role(obj: &Value, lenient: bool, errs: &mut ErrorList) {
    policy_rules(obj, false, errs);
    if at(obj, "aggregationRule").is_none() {
        return;
    }
    let path = Path::root("aggregationRule.clusterRoleSelectors");
    let selectors = list_at(obj, "aggregationRule.clusterRoleSelectors");
    if selectors.is_empty() {
        errs.required(&path, "at least one clusterRoleSelector required if aggregationRule is non-nil");
    }
    for (i, selector) in selectors.iter().enumerate() {
        checks::label_selector_with(selector, lenient, &path.index(i), errs);
        let mut problems = ErrorList::new();
        checks::label_selector(selector, &path, &mut problems);
        if !problems.is_empty() {
            errs.invalid(&path.index(i), Value::Null, "invalid label selector.");
        }
    }
}

fn binding(obj: &Value, namespaced: bool, errs: &mut ErrorList) {
    let path = Path::root("roleRef");
    let group = str_at(obj, "roleRef.apiGroup");
    if group != GROUP {
        errs.not_supported(&path.child("apiGroup"), group, &[GROUP]);
    }
    let kinds: &[&str] = if namespaced { &["Role", "ClusterRole"] } else { &["ClusterRole"] };
    let kind = str_at(obj, "roleRef.kind");
    if !kinds.contains(&kind) {
        errs.not_supported(&path.child("kind"), kind, kinds);
    }
    let role = str_at(obj, "roleRef.name");
    if role.is_empty() {
        errs.required(&path.child("name"), "");
    }
    for text in names::path_segment(role, false) {
        errs.invalid(&path.child("name"), role, text);
    }
    let subjects = Path::root("subjects");
    for (i, subject) in list_at(obj, "subjects").iter().enumerate() {
        self::subject(subject, namespaced, &subjects.index(i), errs);
    }
}

fn subject(subject: &Value, namespaced: bool, path: &Path<'_>, errs: &mut ErrorList) {
    let (name, group) = (str_at(subject, "name"), str_at(subject, "apiGroup"));
    if name.is_empty() {
        errs.required(&path.child("name"), "");
    }
    match str_at(subject, "kind") {
        "ServiceAccount" => {
            if !name.is_empty() {
                checks::subdomain(name, &path.child("name"), errs);
            }
            if !group.is_empty() {
                errs.not_supported(&path.child("apiGroup"), group, &[""]);
            }
            if !namespaced && str_at(subject, "namespace").is_empty() {
                errs.required(&path.child("namespace"), "");
            }
        }
        "User" | "Group" if group != GROUP => errs.not_supported(&path.child("apiGroup"), group, &[GROUP]),
        "User" | "Group" => {}
        kind => errs.not_supported(&path.child("kind"), kind, &["ServiceAccount", "User", "Group"]),
    }
}

fn binding_update(new: &Value, old: &Value, namespaced: bool, errs: &mut ErrorList) {
    binding(new, namespaced, errs);
    if !same_at(new, old, "roleRef") {
        let members = [("APIGroup", "apiGroup"), ("Kind", "kind"), ("Name", "name")];
        let role = checks::internal(&checks::shown(new, "roleRef"), &members, &"".into());
        errs.of_struct(ErrorKind::Invalid, &Path::root("roleRef"), &role, "cannot change roleRef");
    }
}

const BINDING_COLUMNS: &[Column] = &[NAME, text("Role"), AGE, wide("Users"), wide("Groups"), wide("ServiceAccounts")];

fn binding_row(obj: &Value, now: Timestamp) -> Row {
    let of = |kind: &str| -> Value {
        let names: Vec<String> = list_at(obj, "subjects")
            .iter()
            .filter(|subject| str_at(subject, "kind") == kind)
            .map(|subject| match (kind, str_at(subject, "namespace")) {
                ("ServiceAccount", namespace) if !namespace.is_empty() => {
                    format!("{namespace}/{}", str_at(subject, "name"))
                }
                _ => str_at(subject, "name").to_string(),
            })
            .collect();
        names.join(", ").into()
    };
    let role = format!("{}/{}", str_at(obj, "roleRef.kind"), str_at(obj, "roleRef.name"));
    vec![name(obj), role.into(), age(obj, now), of("User"), of("Group"), of("ServiceAccount")]
}
