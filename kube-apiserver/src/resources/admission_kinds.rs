//! Webhook configurations and admission policies.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{
    checks,
    field::{ErrorList, Path},
    rules::Rules,
    table::{AGE, NAME, Row, age, name, number, text},
    value::{at, each, existing, int_at, is_set, list_at, set_default, str_at},
};

const BASE: Rules = Rules {
    group: "admissionregistration.k8s.io",
    namespaced: false,
    generation: true,
    unconditional_update: false,
    ..Rules::GENERIC
};

const WEBHOOK: Rules = Rules {
    columns: &[NAME, number("Webhooks"), AGE],
    row: |obj, now| vec![name(obj), list_at(obj, "webhooks").len().into(), age(obj, now)],
    validate: webhooks,
    validate_update: |new, _, _, errs| webhooks(new, errs),
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
        defaults: policy_defaults,
        columns: &[NAME, number("Validations"), text("ParamKind"), AGE],
        row: |obj, now| policy_row(obj, "spec.validations", now),
        ..BASE
    },
    Rules {
        resource: "mutatingadmissionpolicies",
        kind: "MutatingAdmissionPolicy",
        defaults: policy_defaults,
        columns: &[NAME, number("Mutations"), text("ParamKind"), AGE],
        row: |obj, now| policy_row(obj, "spec.mutations", now),
        ..BASE
    },
    Rules {
        resource: "validatingadmissionpolicybindings",
        kind: "ValidatingAdmissionPolicyBinding",
        defaults: binding_defaults,
        columns: &[NAME, text("PolicyName"), text("ParamRef"), AGE],
        row: binding_row,
        ..BASE
    },
    Rules {
        resource: "mutatingadmissionpolicybindings",
        kind: "MutatingAdmissionPolicyBinding",
        defaults: binding_defaults,
        columns: &[NAME, text("PolicyName"), text("ParamRef"), AGE],
        row: binding_row,
        ..BASE
    },
];

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

fn webhooks(obj: &Value, errs: &mut ErrorList) {
    let root = Path::root("webhooks");
    let webhooks = list_at(obj, "webhooks");
    for (i, webhook) in webhooks.iter().enumerate() {
        let path = root.index(i);
        let name = str_at(webhook, "name");
        if name.is_empty() {
            errs.required(&path.child("name"), "");
        } else {
            let before = errs.0.len();
            checks::subdomain(name, &path.child("name"), errs);
            if errs.0.len() == before && name.split('.').count() < 3 {
                errs.invalid(
                    &path.child("name"),
                    name,
                    "should be a domain with at least three segments separated by dots",
                );
            }
        }
        if webhooks[..i].iter().any(|other| str_at(other, "name") == name) {
            errs.duplicate(&path.child("name"), name);
        }
        let effects = str_at(webhook, "sideEffects");
        let supported = ["None", "NoneOnDryRun"];
        if effects.is_empty() {
            errs.required(&path.child("sideEffects"), "must specify one of None, NoneOnDryRun");
        } else if !supported.contains(&effects) {
            errs.not_supported(&path.child("sideEffects"), effects, &supported);
        }
        if !is_set(webhook, "admissionReviewVersions") {
            errs.required(&path.child("admissionReviewVersions"), "must specify one of v1, v1beta1");
        }
        let policy = str_at(webhook, "failurePolicy");
        if !matches!(policy, "Fail" | "Ignore") {
            errs.not_supported(&path.child("failurePolicy"), policy, &["Fail", "Ignore"]);
        }
        if let Some(seconds) = int_at(webhook, "timeoutSeconds").filter(|s| !(1..=30).contains(s)) {
            errs.invalid(&path.child("timeoutSeconds"), seconds, "the timeout value must be between 1 and 30 seconds");
        }
        for selector in ["namespaceSelector", "objectSelector"] {
            if let Some(value) = at(webhook, selector) {
                checks::label_selector(value, &path.child(selector), errs);
            }
        }
        client_config(webhook, &path.child("clientConfig"), errs);
    }
}

fn client_config(webhook: &Value, path: &Path<'_>, errs: &mut ErrorList) {
    let url = str_at(webhook, "clientConfig.url");
    match (url, at(webhook, "clientConfig.service")) {
        ("", None) => errs.required(path, "exactly one of url or service is required"),
        ("", Some(service)) => {
            for field in ["name", "namespace"] {
                if str_at(service, field).is_empty() {
                    errs.required(&path.child("service").child(field), format!("service {field} is required"));
                }
            }
            checks::port(int_at(service, "port").unwrap_or(443), &path.child("service.port"), errs);
        }
        (_, Some(_)) => errs.required(path, "exactly one of url or service is required"),
        (url, None) if !url.starts_with("https://") => {
            let scheme = url.split_once("://").map_or("", |(scheme, _)| scheme);
            errs.invalid(
                &path.child("url"),
                scheme,
                "'https' is the only allowed URL scheme; desired format: https://host[/path]",
            );
        }
        (_, None) => {}
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
