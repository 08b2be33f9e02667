//! Small kinds of the cluster's machinery: leases, priority and runtime classes, flow control, custom resource definitions.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{
    checks,
    field::{ErrorKind, ErrorList, Path},
    flow, metadata,
    metadata::NameRule,
    names,
    pod::{containers, scheduling},
    rules::Rules,
    table::{AGE, Column, NAME, Row, age, boolean, count, name, number, or_none, text, wide},
    value::{
        at, bool_at, each, existing, int_at, is_set, list_at, member, set, set_default, set_if_zero, str_at, strings_at,
    },
};

const SPEC: Path<'static> = Path::root("spec");
/// Priorities above this belong to the system.
const HIGHEST_USER_PRIORITY: i64 = 1_000_000_000;

const FLOW: Rules = Rules {
    group: "flowcontrol.apiserver.k8s.io",
    namespaced: false,
    generation: true,
    status: true,
    prepare_create: |obj, _| set(obj, "status", json!({})),
    ..Rules::GENERIC
};

pub(crate) const RULES: &[Rules] = &[
    Rules {
        resource: "componentstatuses",
        kind: "ComponentStatus",
        namespaced: false,
        columns: &[NAME, text("Status"), text("Message"), text("Error")],
        row: component_status_row,
        ..Rules::GENERIC
    },
    Rules {
        group: "coordination.k8s.io",
        resource: "leases",
        kind: "Lease",
        create_on_update: true,
        unconditional_update: false,
        // CoordinatedLeaderElection is off.
        gated: &[("spec", &["strategy", "preferredHolder"])],
        validate: lease,
        validate_update: |new, _, _, errs| lease(new, errs),
        columns: &[NAME, text("Holder"), AGE],
        row: |obj, now| vec![name(obj), str_at(obj, "spec.holderIdentity").into(), age(obj, now)],
        ..Rules::GENERIC
    },
    Rules {
        group: "scheduling.k8s.io",
        resource: "priorityclasses",
        kind: "PriorityClass",
        namespaced: false,
        prepare_create: |obj, _| {
            if let Some(meta) = member(obj, "metadata") {
                set(meta, "generation", 1);
            }
        },
        defaults: |obj| set_default(obj, "preemptionPolicy", "PreemptLowerPriority"),
        validate: priority_class,
        validate_update: |new, old, _, errs| {
            if int_at(new, "value").unwrap_or_default() != int_at(old, "value").unwrap_or_default() {
                errs.forbidden(&Path::root("value"), "may not be changed in an update.");
            }
            checks::immutable(new, old, "preemptionPolicy", errs);
        },
        columns: &[NAME, number("Value"), boolean("Global-Default"), AGE, wide("PreemptionPolicy")],
        row: |obj, now| {
            vec![
                name(obj),
                count(obj, "value"),
                bool_at(obj, "globalDefault").into(),
                age(obj, now),
                str_at(obj, "preemptionPolicy").into(),
            ]
        },
        ..Rules::GENERIC
    },
    Rules {
        group: "node.k8s.io",
        resource: "runtimeclasses",
        kind: "RuntimeClass",
        warnings: |obj, _, _| super::warnings::runtime_class(obj),
        namespaced: false,
        create_on_update: true,
        unconditional_update: false,
        validate: runtime_class,
        validate_update: |new, old, _, errs| {
            runtime_class(new, errs);
            checks::immutable(new, old, "handler", errs);
        },
        columns: &[NAME, text("Handler"), AGE],
        row: |obj, now| vec![name(obj), str_at(obj, "handler").into(), age(obj, now)],
        ..Rules::GENERIC
    },
    Rules {
        resource: "flowschemas",
        kind: "FlowSchema",
        defaults: |obj| {
            if let Some(spec) = member(obj, "spec") {
                set_if_zero(spec, "matchingPrecedence", 1000);
            }
        },
        validate: flow::schema,
        validate_update: |new, _, sub, errs| {
            if sub.is_none() { flow::schema(new, errs) } else { flow::conditions(new, errs) }
        },
        columns: &[
            NAME,
            text("PriorityLevel"),
            text("MatchingPrecedence"),
            text("DistinguisherMethod"),
            AGE,
            text("MissingPL"),
        ],
        row: flow_schema_row,
        ..FLOW
    },
    Rules {
        resource: "prioritylevelconfigurations",
        kind: "PriorityLevelConfiguration",
        defaults: priority_level_defaults,
        validate: flow::level,
        validate_update: |new, _, sub, errs| {
            if sub.is_none() { flow::level(new, errs) } else { flow::conditions(new, errs) }
        },
        columns: PRIORITY_LEVEL_COLUMNS,
        row: priority_level_row,
        ..FLOW
    },
    Rules {
        group: "apiextensions.k8s.io",
        resource: "customresourcedefinitions",
        kind: "CustomResourceDefinition",
        namespaced: false,
        generation: true,
        status: true,
        defaults: crd_defaults,
        columns: super::table::NAME_CREATED,
        ..Rules::GENERIC
    },
    Rules {
        group: "apiregistration.k8s.io",
        resource: "apiservices",
        kind: "APIService",
        namespaced: false,
        status: true,
        defaults: |obj| {
            if let Some(service) = existing(obj, "spec").and_then(|spec| existing(spec, "service")) {
                set_default(service, "port", 443);
            }
        },
        prepare_create: |obj, _| set(obj, "status", json!({})),
        name: NameRule::PathSegment,
        validate: api_service,
        validate_update: |new, _, sub, errs| {
            if sub.is_none() {
                api_service(new, errs);
            } else {
                api_service_status(new, errs);
            }
        },
        columns: &[NAME, text("Service"), text("Available"), AGE],
        row: api_service_row,
        ..Rules::GENERIC
    },
];

fn component_status_row(obj: &Value, _: Timestamp) -> Row {
    let healthy = list_at(obj, "conditions").iter().find(|c| str_at(c, "type") == "Healthy");
    let part = |field: &str| healthy.map(|c| str_at(c, field)).unwrap_or_default();
    let status = match part("status") {
        "True" => "Healthy",
        "False" => "Unhealthy",
        _ => "Unknown",
    };
    vec![name(obj), status.into(), part("message").into(), part("error").into()]
}

fn lease(obj: &Value, errs: &mut ErrorList) {
    if let Some(seconds) = int_at(obj, "spec.leaseDurationSeconds").filter(|seconds| *seconds <= 0) {
        errs.invalid(&SPEC.child("leaseDurationSeconds"), seconds, "must be greater than 0");
    }
    checks::non_negative(obj, "spec.leaseTransitions", &SPEC.child("leaseTransitions"), errs);
    if let Some(strategy) = at(obj, "spec.strategy").and_then(Value::as_str) {
        lease_strategy(strategy, &SPEC.child("strategy"), errs);
    }
    if is_set(obj, "spec.preferredHolder") && !is_set(obj, "spec.strategy") {
        errs.forbidden(&SPEC.child("preferredHolder"), "may only be specified if `strategy` is defined");
    }
}

/// Upstream names the field twice in the path.
pub(super) fn lease_strategy(strategy: &str, path: &Path<'_>, errs: &mut ErrorList) {
    if strategy.contains('/') {
        checks::qualified(strategy, &path.child("strategy"), errs);
    } else if strategy != "OldestEmulationVersion" {
        errs.not_supported(&path.child("strategy"), strategy, &["OldestEmulationVersion"]);
    }
}

fn priority_class(obj: &Value, errs: &mut ErrorList) {
    let class = str_at(obj, "metadata.name");
    let value = int_at(obj, "value").unwrap_or_default();
    if class.starts_with("system-") {
        let known = [("system-node-critical", 2_000_001_000), ("system-cluster-critical", 2_000_000_000)];
        let reserved = "priority class names with 'system-' prefix are reserved for system use only. error: ";
        match known.iter().find(|(name, _)| *name == class) {
            None => errs.forbidden(
                &Path::root("metadata.name"),
                format!("{reserved}{class} is not a known system priority class"),
            ),
            Some((_, known)) if *known != value => errs.forbidden(
                &Path::root("metadata.name"),
                format!("{reserved}value of {class} PriorityClass must be {known}"),
            ),
            Some(_) if bool_at(obj, "globalDefault") => errs.forbidden(
                &Path::root("metadata.name"),
                format!("{reserved}globalDefault of {class} PriorityClass must be false"),
            ),
            Some(_) => {}
        }
    } else if value > HIGHEST_USER_PRIORITY {
        errs.forbidden(
            &Path::root("value"),
            format!("maximum allowed value of a user defined priority is {HIGHEST_USER_PRIORITY}"),
        );
    }
    if let Some(policy) = at(obj, "preemptionPolicy").and_then(Value::as_str) {
        checks::one_of(policy, &["PreemptLowerPriority", "Never"], &Path::root("preemptionPolicy"), errs);
    }
}

fn runtime_class(obj: &Value, errs: &mut ErrorList) {
    match str_at(obj, "handler") {
        "" => errs.required(&Path::root("handler"), ""),
        handler => checks::label(handler, &Path::root("handler"), errs),
    }
    if let Some(fixed) = at(obj, "overhead.podFixed") {
        containers::requirements(&json!({"limits": fixed}), false, &Path::root("overhead"), errs);
    }
    let path = Path::root("scheduling");
    metadata::labels(strings_at(obj, "scheduling.nodeSelector"), &path.child("nodeSelector"), errs);
    let tolerations = list_at(obj, "scheduling.tolerations");
    let root = path.child("tolerations");
    scheduling::tolerations(tolerations, &root, errs);
    let repeated = checks::repeats(tolerations, |item| ["key", "operator", "value", "effect"].map(|f| str_at(item, f)));
    for (i, toleration) in tolerations.iter().enumerate() {
        if repeated[i] {
            let members = [("Key", "key"), ("Operator", "operator"), ("Value", "value"), ("Effect", "effect")];
            let mut shown = checks::internal(toleration, &members, &"".into());
            shown.push(("TolerationSeconds", checks::shown(toleration, "tolerationSeconds")));
            errs.of_struct(ErrorKind::Duplicate, &root.index(i), &shown, "");
        }
    }
}

/// An APIService: named after what it serves, local or by a service.
fn api_service(obj: &Value, errs: &mut ErrorList) {
    let (group, version) = (str_at(obj, "spec.group"), str_at(obj, "spec.version"));
    let (own, wanted) = (str_at(obj, "metadata.name"), format!("{version}.{group}"));
    if own != wanted {
        let text = format!("must be `spec.version+\".\"+spec.group`: {wanted:?}");
        errs.invalid(&Path::root("metadata.name"), own, text);
    }
    match group {
        "" if version != "v1" => {
            errs.required(&SPEC.child("group"), "only v1 may have an empty group and it better be legacy kube");
        }
        "" => {}
        group => checks::subdomain(group, &SPEC.child("group"), errs),
    }
    names::dns1035_label(version).into_iter().for_each(|text| errs.invalid(&SPEC.child("version"), version, text));
    for (field, max) in [("groupPriorityMinimum", 20000), ("versionPriority", 1000)] {
        let value = int_at(obj, &format!("spec.{field}")).unwrap_or_default();
        if !(1..=max).contains(&value) {
            errs.invalid(&SPEC.child(field), value, format!("must be positive and less than {max}"));
        }
    }
    let (bundle, insecure) = (str_at(obj, "spec.caBundle"), bool_at(obj, "spec.insecureSkipTLSVerify"));
    let insecure_path = SPEC.child("insecureSkipTLSVerify");
    let Some(service) = at(obj, "spec.service") else {
        if !bundle.is_empty() {
            let shown = format!("{} bytes", bundle.trim_end_matches('=').len() * 3 / 4);
            errs.invalid(&SPEC.child("caBundle"), shown, "local APIServices may not have a caBundle");
        }
        if insecure {
            errs.invalid(&insecure_path, true, "local APIServices may not have insecureSkipTLSVerify");
        }
        return;
    };
    let path = SPEC.child("service");
    for field in ["namespace", "name"] {
        if str_at(service, field).is_empty() {
            errs.required(&path.child(field), "");
        }
    }
    let port = int_at(service, "port").unwrap_or_default();
    if let Some(text) = names::port_number(port) {
        errs.invalid(&path.child("port"), port, format!("port is not valid: {text}"));
    }
    if insecure && !bundle.is_empty() {
        errs.invalid(&insecure_path, true, "may not be true if caBundle is present");
    }
}

fn api_service_status(obj: &Value, errs: &mut ErrorList) {
    for (i, condition) in list_at(obj, "status.conditions").iter().enumerate() {
        let status = str_at(condition, "status");
        if !matches!(status, "True" | "False" | "Unknown") {
            let path = Path::root("status.conditions");
            errs.not_supported(&path.index(i).child("status"), status, &["True", "False", "Unknown"]);
        }
    }
}

fn flow_schema_row(obj: &Value, now: Timestamp) -> Row {
    let dangling = list_at(obj, "status.conditions").iter().find(|c| str_at(c, "type") == "Dangling");
    vec![
        name(obj),
        str_at(obj, "spec.priorityLevelConfiguration.name").into(),
        count(obj, "spec.matchingPrecedence"),
        or_none(str_at(obj, "spec.distinguisherMethod.type")),
        age(obj, now),
        dangling.map_or("?", |c| str_at(c, "status")).into(),
    ]
}

fn priority_level_defaults(obj: &mut Value) {
    let Some(spec) = member(obj, "spec") else { return };
    if let Some(exempt) = existing(spec, "exempt") {
        set_default(exempt, "nominalConcurrencyShares", 0);
        set_default(exempt, "lendablePercent", 0);
    }
    if let Some(limited) = existing(spec, "limited") {
        set_default(limited, "nominalConcurrencyShares", 30);
        set_default(limited, "lendablePercent", 0);
        if let Some(queuing) = existing(limited, "limitResponse").and_then(|response| existing(response, "queuing")) {
            set_if_zero(queuing, "handSize", 8);
            set_if_zero(queuing, "queues", 64);
            set_if_zero(queuing, "queueLengthLimit", 50);
        }
    }
}

const PRIORITY_LEVEL_COLUMNS: &[Column] = &[
    NAME,
    text("Type"),
    text("NominalConcurrencyShares"),
    text("Queues"),
    text("HandSize"),
    text("QueueLengthLimit"),
    AGE,
];

fn priority_level_row(obj: &Value, now: Timestamp) -> Row {
    let cell = |path: &str| at(obj, &format!("spec.limited.{path}")).cloned().unwrap_or_else(|| "<none>".into());
    vec![
        name(obj),
        str_at(obj, "spec.type").into(),
        cell("nominalConcurrencyShares"),
        cell("limitResponse.queuing.queues"),
        cell("limitResponse.queuing.handSize"),
        cell("limitResponse.queuing.queueLengthLimit"),
        age(obj, now),
    ]
}

fn crd_defaults(obj: &mut Value) {
    let Some(spec) = member(obj, "spec") else { return };
    if let Some(names) = member(spec, "names") {
        let kind = str_at(names, "kind").to_string();
        set_if_zero(names, "singular", kind.to_lowercase());
        if !kind.is_empty() {
            set_if_zero(names, "listKind", format!("{kind}List"));
        }
    }
    set_default(spec, "conversion", json!({"strategy": "None"}));
    let mut stored = None;
    for version in each(spec, "versions") {
        if bool_at(version, "storage") {
            stored.get_or_insert_with(|| str_at(version, "name").to_string());
        }
    }
    if let (Some(stored), Some(status)) = (stored, member(obj, "status")) {
        set_if_zero(status, "storedVersions", vec![stored]);
    }
}

fn api_service_row(obj: &Value, now: Timestamp) -> Row {
    let service = at(obj, "spec.service")
        .map_or_else(|| "Local".to_string(), |s| format!("{}/{}", str_at(s, "namespace"), str_at(s, "name")));
    let condition = list_at(obj, "status.conditions").iter().find(|c| str_at(c, "type") == "Available");
    let available = condition.map_or_else(String::new, |c| match (str_at(c, "status"), str_at(c, "reason")) {
        ("True", _) => "True".to_string(),
        (status, reason) => format!("{status} ({reason})"),
    });
    vec![name(obj), service.into(), available.into(), age(obj, now)]
}
