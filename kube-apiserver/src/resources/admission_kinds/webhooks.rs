//! Validation of webhook configurations.

use serde_json::Value;

use super::matching;
use crate::resources::{
    checks,
    field::{ErrorList, Path},
    names,
    value::{at, int_at, list_at, same_at, str_at},
};

const QUIET: [&str; 2] = ["None", "NoneOnDryRun"];
const ANY_EFFECTS: [&str; 4] = ["None", "NoneOnDryRun", "Some", "Unknown"];
const REVIEWS: [&str; 2] = ["v1", "v1beta1"];

/// What an update lets pass because the stored configuration has it already.
#[derive(Default)]
struct Leniency {
    conditions: bool,
    side_effects: bool,
    review_versions: bool,
    repeated_names: bool,
    selector_values: bool,
}

impl Leniency {
    fn of(new: &Value, old: &Value) -> Leniency {
        let (hooks, now) = (list_at(old, "webhooks"), list_at(new, "webhooks"));
        let bad_selector = |hook: &Value| {
            let mut problems = ErrorList::new();
            selectors(hook, false, &Path::root(""), &mut problems);
            !problems.is_empty()
        };
        let unknown_review = |hook: &Value| {
            let versions = list_at(hook, "admissionReviewVersions");
            !versions.is_empty() && !versions.iter().any(|v| REVIEWS.iter().any(|known| v == known))
        };
        let name = |hook: &Value| str_at(hook, "name").to_owned();
        Leniency {
            conditions: hooks.len() == now.len()
                && hooks.iter().zip(now).all(|(old, new)| same_at(new, old, "matchConditions")),
            side_effects: hooks.iter().any(|hook| !QUIET.contains(&str_at(hook, "sideEffects"))),
            review_versions: hooks.iter().any(unknown_review),
            repeated_names: checks::repeats(hooks, name).contains(&true),
            selector_values: hooks.iter().any(bad_selector),
        }
    }
}

pub(super) fn validate(obj: &Value, old: Option<&Value>, errs: &mut ErrorList) {
    let lenient = old.map(|old| Leniency::of(obj, old)).unwrap_or_default();
    let root = Path::root("webhooks");
    let webhooks = list_at(obj, "webhooks");
    let repeated = checks::repeats(webhooks, |item| str_at(item, "name"));
    for (i, webhook) in webhooks.iter().enumerate() {
        let path = root.index(i);
        self::webhook(webhook, &lenient, &path, errs);
        review_versions(webhook, lenient.review_versions, &path.child("admissionReviewVersions"), errs);
        let name = str_at(webhook, "name");
        if !lenient.repeated_names && !name.is_empty() && repeated[i] {
            errs.duplicate(&path.child("name"), name);
        }
    }
}

fn selectors(webhook: &Value, any_value: bool, path: &Path<'_>, errs: &mut ErrorList) {
    for field in ["namespaceSelector", "objectSelector"] {
        if let Some(selector) = at(webhook, field) {
            checks::label_selector_with(selector, any_value, &path.child(field), errs);
        }
    }
}

fn webhook(webhook: &Value, lenient: &Leniency, path: &Path<'_>, errs: &mut ErrorList) {
    name(str_at(webhook, "name"), &path.child("name"), errs);
    let rules = path.child("rules");
    for (i, rule) in list_at(webhook, "rules").iter().enumerate() {
        matching::rule(rule, &rules.index(i), errs);
    }
    matching::choice(webhook, "failurePolicy", &["Fail", "Ignore"], path, errs);
    matching::choice(webhook, "matchPolicy", &["Equivalent", "Exact"], path, errs);
    let effects: &[&str] = if lenient.side_effects { &ANY_EFFECTS } else { &QUIET };
    if at(webhook, "sideEffects").is_none() {
        errs.required(&path.child("sideEffects"), format!("must specify one of {}", effects.join(", ")));
    }
    matching::choice(webhook, "sideEffects", effects, path, errs);
    if let Some(seconds) = int_at(webhook, "timeoutSeconds").filter(|s| !(1..=30).contains(s)) {
        errs.invalid(&path.child("timeoutSeconds"), seconds, "the timeout value must be between 1 and 30 seconds");
    }
    selectors(webhook, lenient.selector_values, path, errs);
    matching::choice(webhook, "reinvocationPolicy", &["IfNeeded", "Never"], path, errs);
    client_config(webhook, &path.child("clientConfig"), errs);
    if !lenient.conditions {
        matching::conditions(webhook, path, errs);
    }
}

/// A domain of at least three segments.
fn name(name: &str, path: &Path<'_>, errs: &mut ErrorList) {
    let complaints = names::dns1123_subdomain(name);
    if name.is_empty() {
        errs.required(path, "");
    } else if !complaints.is_empty() {
        errs.invalid(path, name, complaints.join(","));
    } else if name.split('.').count() < 3 {
        errs.invalid(path, name, "should be a domain with at least three segments separated by dots");
    }
}

fn review_versions(webhook: &Value, any: bool, path: &Path<'_>, errs: &mut ErrorList) {
    let versions = list_at(webhook, "admissionReviewVersions");
    if versions.is_empty() {
        return errs.required(path, format!("must specify one of {}", REVIEWS.join(", ")));
    }
    for (i, version) in versions.iter().enumerate() {
        let text = version.as_str().unwrap_or_default();
        if versions[..i].contains(version) {
            errs.invalid(&path.index(i), text, "duplicate version");
        } else {
            checks::complain(text, names::dns1035_label(text), &path.index(i), errs);
        }
    }
    if !any && !versions.iter().any(|version| REVIEWS.iter().any(|known| version == known)) {
        let text = format!("must include at least one of {}", REVIEWS.join(", "));
        errs.invalid(path, versions.to_vec(), text);
    }
}

fn client_config(webhook: &Value, path: &Path<'_>, errs: &mut ErrorList) {
    let url = at(webhook, "clientConfig.url").and_then(Value::as_str);
    match (url, at(webhook, "clientConfig.service")) {
        (Some(url), None) => self::url(url, &path.child("url"), errs),
        (None, Some(service)) => self::service(service, &path.child("service"), errs),
        _ => errs.required(path, "exactly one of url or service is required"),
    }
}

fn url(text: &str, path: &Path<'_>, errs: &mut ErrorList) {
    const FORM: &str = "; desired format: https://host[/path]";
    let (rest, fragment) = text.split_once('#').unwrap_or((text, ""));
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (scheme, rest) = rest.split_once(':').unwrap_or(("", rest));
    let authority = rest.strip_prefix("//").map_or("", |rest| rest.split('/').next().unwrap_or_default());
    let (user, host) = authority.rsplit_once('@').map_or((None, authority), |(user, host)| (Some(user), host));
    if !scheme.eq_ignore_ascii_case("https") {
        errs.invalid(path, scheme.to_lowercase(), format!("'https' is the only allowed URL scheme{FORM}"));
    }
    if host.is_empty() {
        errs.invalid(path, host, format!("host must be specified{FORM}"));
    }
    if let Some(user) = user {
        errs.invalid(path, user, "user information is not permitted in the URL");
    }
    if !fragment.is_empty() {
        errs.invalid(path, fragment, "fragments are not permitted in the URL");
    }
    if !query.is_empty() {
        errs.invalid(path, query, "query parameters are not permitted in the URL");
    }
}

fn service(service: &Value, path: &Path<'_>, errs: &mut ErrorList) {
    // Upstream confuses the two: who leaves the name out hears of the namespace.
    for (field, told) in [("namespace", "name"), ("name", "namespace")] {
        if str_at(service, field).is_empty() {
            errs.required(&path.child(told), "");
        }
    }
    let port = int_at(service, "port").unwrap_or_default();
    if let Some(text) = names::port_number(port) {
        errs.invalid(&path.child("port"), port, format!("port is not valid: {text}"));
    }
    let url = str_at(service, "path");
    let path = path.child("path");
    match url {
        "" | "/" => return,
        "//" => return errs.invalid(&path, url, "segment[0] may not be empty"),
        _ if !url.starts_with('/') => errs.invalid(&path, url, "must start with a '/'"),
        _ => {}
    }
    let mut characters = url.chars();
    characters.next();
    let steps = characters.as_str();
    for (i, step) in steps.strip_suffix('/').unwrap_or(steps).split('/').enumerate() {
        if step.is_empty() {
            errs.invalid(&path, url, format!("segment[{i}] may not be empty"));
            continue;
        }
        for text in names::dns1123_subdomain(step) {
            errs.invalid(&path, url, format!("segment[{i}]: {text}"));
        }
    }
}
