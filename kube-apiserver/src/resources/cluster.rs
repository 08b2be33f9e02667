//! Small kinds of the cluster's machinery: leases, priority and runtime classes, flow control, custom resource definitions.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{
    checks,
    field::{ErrorList, Path},
    rules::Rules,
    table::{AGE, Column, NAME, Row, age, boolean, count, name, number, or_none, text, wide},
    value::{at, bool_at, each, existing, int_at, is_set, list_at, member, set, set_default, set_if_zero, str_at},
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
        generation: true,
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
    if is_set(obj, "spec.preferredHolder") && !is_set(obj, "spec.strategy") {
        errs.forbidden(&SPEC.child("preferredHolder"), "may only be specified if `strategy` is defined");
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
    let policy = str_at(obj, "preemptionPolicy");
    let supported = ["PreemptLowerPriority", "Never"];
    if !policy.is_empty() && !supported.contains(&policy) {
        errs.not_supported(&Path::root("preemptionPolicy"), policy, &supported);
    }
}

fn runtime_class(obj: &Value, errs: &mut ErrorList) {
    checks::label(str_at(obj, "handler"), &Path::root("handler"), errs);
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
