//! Webhook configurations and admission policies.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{
    rules::Rules,
    table::{AGE, NAME, Row, age, name, number, text},
    value::{at, each, existing, list_at, set_default, str_at},
};

mod matching;
mod policies;
mod webhooks;

const BASE: Rules = Rules {
    group: "admissionregistration.k8s.io",
    namespaced: false,
    generation: true,
    unconditional_update: false,
    warnings: |obj, _, _| static_suffix(obj),
    ..Rules::GENERIC
};

const WEBHOOK: Rules = Rules {
    columns: &[NAME, number("Webhooks"), AGE],
    row: |obj, now| vec![name(obj), list_at(obj, "webhooks").len().into(), age(obj, now)],
    validate: |obj, errs| webhooks::validate(obj, None, errs),
    validate_update: |new, old, _, errs| webhooks::validate(new, Some(old), errs),
    ..BASE
};

pub(crate) const RULES: &[Rules] = &[
    Rules {
        resource: "validatingwebhookconfigurations",
        kind: "ValidatingWebhookConfiguration",
        defaults: |obj| webhook_defaults(obj, false),
        ..WEBHOOK
    },
    Rules {
        resource: "mutatingwebhookconfigurations",
        kind: "MutatingWebhookConfiguration",
        defaults: |obj| webhook_defaults(obj, true),
        ..WEBHOOK
    },
    Rules {
        resource: "validatingadmissionpolicies",
        kind: "ValidatingAdmissionPolicy",
        status: true,
        prepare_update: |new, old, sub, _| {
            if sub.is_some() {
                super::metadata::keep_for_status(new, old);
            }
        },
        validate: |obj, errs| policies::validating(obj, None, errs),
        validate_update: |new, old, sub, errs| match sub {
            None => policies::validating(new, Some(old), errs),
            Some(_) => policies::status(new, errs),
        },
        defaults: policy_defaults,
        columns: &[NAME, number("Validations"), text("ParamKind"), AGE],
        row: |obj, now| policy_row(obj, "spec.validations", now),
        ..BASE
    },
    Rules {
        resource: "mutatingadmissionpolicies",
        kind: "MutatingAdmissionPolicy",
        validate: |obj, errs| policies::mutating(obj, None, errs),
        validate_update: |new, old, _, errs| policies::mutating(new, Some(old), errs),
        defaults: policy_defaults,
        columns: &[NAME, number("Mutations"), text("ParamKind"), AGE],
        row: |obj, now| policy_row(obj, "spec.mutations", now),
        ..BASE
    },
    Rules {
        resource: "validatingadmissionpolicybindings",
        kind: "ValidatingAdmissionPolicyBinding",
        validate: |obj, errs| policies::binding(obj, false, errs),
        validate_update: |new, _, _, errs| policies::binding(new, false, errs),
        defaults: binding_defaults,
        columns: &[NAME, text("PolicyName"), text("ParamRef"), AGE],
        row: binding_row,
        ..BASE
    },
    Rules {
        resource: "mutatingadmissionpolicybindings",
        kind: "MutatingAdmissionPolicyBinding",
        validate: |obj, errs| policies::binding(obj, true, errs),
        validate_update: |new, _, _, errs| policies::binding(new, true, errs),
        defaults: binding_defaults,
        columns: &[NAME, text("PolicyName"), text("ParamRef"), AGE],
        row: binding_row,
        ..BASE
    },
];

/// Names that manifests on disk will have one day (ManifestBasedAdmissionControlConfig).
fn static_suffix(obj: &Value) -> Vec<String> {
    const SUFFIX: &str = ".static.k8s.io";
    let text = format!(
        "metadata.name: names ending with {SUFFIX:?} are reserved for static manifest-based configurations and cannot be managed via the API"
    );
    if str_at(obj, "metadata.name").ends_with(SUFFIX) { vec![text] } else { Vec::new() }
}

fn selectors(holder: &mut Value) {
    set_default(holder, "matchPolicy", "Equivalent");
    set_default(holder, "namespaceSelector", json!({}));
    set_default(holder, "objectSelector", json!({}));
}

fn webhook_defaults(obj: &mut Value, mutating: bool) {
    for webhook in each(obj, "webhooks") {
        set_default(webhook, "failurePolicy", "Fail");
        selectors(webhook);
        set_default(webhook, "timeoutSeconds", 10);
        if mutating {
            set_default(webhook, "reinvocationPolicy", "Never");
        }
        each(webhook, "rules").for_each(|rule| set_default(rule, "scope", "*"));
        if let Some(service) = existing(webhook, "clientConfig").and_then(|config| existing(config, "service")) {
            set_default(service, "port", 443);
        }
    }
}

fn policy_defaults(obj: &mut Value) {
    let Some(spec) = existing(obj, "spec") else { return };
    set_default(spec, "failurePolicy", "Fail");
    if let Some(constraints) = existing(spec, "matchConstraints") {
        match_defaults(constraints);
    }
}

fn binding_defaults(obj: &mut Value) {
    if let Some(resources) = existing(obj, "spec").and_then(|spec| existing(spec, "matchResources")) {
        match_defaults(resources);
    }
}

fn match_defaults(constraints: &mut Value) {
    selectors(constraints);
    for list in ["resourceRules", "excludeResourceRules"] {
        each(constraints, list).for_each(|rule| set_default(rule, "scope", "*"));
    }
}

fn policy_row(obj: &Value, list: &str, now: Timestamp) -> Row {
    let param = at(obj, "spec.paramKind").map_or_else(
        || "<unset>".to_string(),
        |param| format!("{}/{}", str_at(param, "apiVersion"), str_at(param, "kind")),
    );
    vec![name(obj), list_at(obj, list).len().into(), param.into(), age(obj, now)]
}

fn binding_row(obj: &Value, now: Timestamp) -> Row {
    let param = at(obj, "spec.paramRef").map_or_else(
        || "<unset>".to_string(),
        |param| match (str_at(param, "namespace"), str_at(param, "name")) {
            ("", "") => "<unset>".to_string(),
            ("", name) => name.to_string(),
            (namespace, name) => format!("{namespace}/{name}"),
        },
    );
    vec![name(obj), str_at(obj, "spec.policyName").into(), param.into(), age(obj, now)]
}
