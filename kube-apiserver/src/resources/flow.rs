//! Rules of FlowSchemas and PriorityLevelConfigurations.

use serde_json::Value;

use super::{
    checks,
    field::{ErrorList, Path},
    names,
    value::{at, bool_at, int_at, list_at, str_at},
};

const SPEC: Path<'static> = Path::root("spec");
const MAX_PRECEDENCE: i64 = 10_000;
const MAX_QUEUES: i64 = 10_000_000;
/// Bits of the hash that deals hands of queues.
const HASH_BITS: u32 = 60;
const VERBS: [&str; 9] = ["create", "delete", "deletecollection", "get", "list", "patch", "proxy", "update", "watch"];
const SUBJECTS: [(&str, &str); 3] = [("ServiceAccount", "serviceAccount"), ("User", "user"), ("Group", "group")];

/// A FlowSchema.
pub(super) fn schema(obj: &Value, errs: &mut ErrorList) {
    let precedence = int_at(obj, "spec.matchingPrecedence").unwrap_or_default();
    let path = SPEC.child("matchingPrecedence");
    if precedence <= 0 {
        errs.invalid(&path, precedence, "must be a positive value");
    }
    if precedence > MAX_PRECEDENCE {
        errs.invalid(&path, precedence, format!("must not be greater than {MAX_PRECEDENCE}"));
    }
    if precedence == 1 && str_at(obj, "metadata.name") != "exempt" {
        errs.invalid(&path, precedence, "only the schema named 'exempt' may have matchingPrecedence 1");
    }
    if let Some(method) = at(obj, "spec.distinguisherMethod") {
        let methods = ["ByNamespace", "ByUser"];
        if !methods.contains(&str_at(method, "type")) {
            let shown = serde_json::json!({"Type": str_at(method, "type")});
            errs.not_supported(&SPEC.child("distinguisherMethod.type"), shown, &methods);
        }
    }
    let level = SPEC.child("priorityLevelConfiguration.name");
    match str_at(obj, "spec.priorityLevelConfiguration.name") {
        "" => errs.required(&level, "must reference a priority level"),
        name => checks::subdomain(name, &level, errs),
    }
    let rules = SPEC.child("rules");
    for (i, rule) in list_at(obj, "spec.rules").iter().enumerate() {
        schema_rule(rule, &rules.index(i), errs);
    }
    conditions(obj, errs);
}

fn schema_rule(rule: &Value, path: &Path<'_>, errs: &mut ErrorList) {
    let subjects = list_at(rule, "subjects");
    if subjects.is_empty() {
        errs.required(&path.child("subjects"), "subjects must contain at least one value");
    }
    for (i, subject) in subjects.iter().enumerate() {
        self::subject(subject, &path.child("subjects").index(i), errs);
    }
    let (resources, urls) = (list_at(rule, "resourceRules"), list_at(rule, "nonResourceRules"));
    if resources.is_empty() && urls.is_empty() {
        errs.required(path, "at least one of resourceRules and nonResourceRules has to be non-empty");
    }
    for (i, rule) in resources.iter().enumerate() {
        resource_rule(rule, &path.child("resourceRules").index(i), errs);
    }
    for (i, rule) in urls.iter().enumerate() {
        url_rule(rule, &path.child("nonResourceRules").index(i), errs);
    }
}

fn subject(subject: &Value, path: &Path<'_>, errs: &mut ErrorList) {
    let kind = str_at(subject, "kind");
    let Some((_, own)) = SUBJECTS.iter().find(|(name, _)| *name == kind) else {
        errs.not_supported(&path.child("kind"), kind, &["Group", "ServiceAccount", "User"]);
        return;
    };
    match at(subject, own) {
        None => errs.required(&path.child(own), format!("{own} is required when subject kind is '{kind}'")),
        Some(holder) => named(holder, kind == "ServiceAccount", &path.child(own), errs),
    }
    for (other_kind, other) in SUBJECTS.iter().filter(|(_, other)| other != own) {
        if at(subject, other).is_some() {
            errs.forbidden(&path.child(other), format!("{other} is forbidden when subject kind is not '{other_kind}'"));
        }
    }
}

fn named(holder: &Value, is_account: bool, path: &Path<'_>, errs: &mut ErrorList) {
    match str_at(holder, "name") {
        "" => errs.required(&path.child("name"), ""),
        name if is_account && name != "*" => checks::subdomain(name, &path.child("name"), errs),
        _ => {}
    }
    if !is_account {
        return;
    }
    match str_at(holder, "namespace") {
        "" => errs.required(&path.child("namespace"), "must specify namespace for service account"),
        namespace => checks::label(namespace, &path.child("namespace"), errs),
    }
}

/// A list that is not empty and holds `*` alone or not at all. Says whether its members are to be looked at.
fn wildcard(rule: &Value, field: &str, missing: &str, others: &str, path: &Path<'_>, errs: &mut ErrorList) -> bool {
    let list = list_at(rule, field);
    let any = list.iter().any(|v| v == "*");
    if list.is_empty() {
        errs.required(&path.child(field), missing);
    } else if any && list.len() > 1 {
        let text = format!("if '*' is present, must not specify other {others}");
        errs.invalid(&path.child(field), list.to_vec(), text);
    }
    !any && !list.is_empty()
}

fn verbs(rule: &Value, path: &Path<'_>, errs: &mut ErrorList) {
    let list = list_at(rule, "verbs");
    if wildcard(rule, "verbs", "verbs must contain at least one value", "verbs", path, errs)
        && !list.iter().filter_map(Value::as_str).all(|verb| VERBS.contains(&verb))
    {
        errs.not_supported(&path.child("verbs"), list.to_vec(), &VERBS);
    }
}

fn resource_rule(rule: &Value, path: &Path<'_>, errs: &mut ErrorList) {
    verbs(rule, path, errs);
    let missing = "resource rules must supply at least one api group";
    wildcard(rule, "apiGroups", missing, "api groups", path, errs);
    wildcard(rule, "resources", "resource rules must supply at least one resource", "resources", path, errs);
    let namespaces = list_at(rule, "namespaces");
    if namespaces.is_empty() && bool_at(rule, "clusterScope") {
        return;
    }
    let missing = "resource rules that are not cluster scoped must supply at least one namespace";
    if wildcard(rule, "namespaces", missing, "namespaces", path, errs) {
        for (i, namespace) in namespaces.iter().filter_map(Value::as_str).enumerate() {
            for text in names::dns1123_label(namespace) {
                let text = format!("each member of this list must be '*' or a DNS-1123 label; {text}");
                errs.invalid(&path.child("namespaces").index(i), namespace, text);
            }
        }
    }
}

fn url_rule(rule: &Value, path: &Path<'_>, errs: &mut ErrorList) {
    verbs(rule, path, errs);
    let missing = "nonResourceURLs must contain at least one value";
    if wildcard(rule, "nonResourceURLs", missing, "non-resource URLs", path, errs) {
        for (i, url) in list_at(rule, "nonResourceURLs").iter().filter_map(Value::as_str).enumerate() {
            if let Some(text) = url_complaint(url) {
                errs.invalid(&path.child("nonResourceURLs").index(i), url, text);
            }
        }
    }
}

fn url_complaint(url: &str) -> Option<&'static str> {
    let stars = url.matches('*').count();
    match url {
        "" => Some("must not be empty"),
        "/" => None,
        _ if !url.starts_with('/') => Some("must start with slash"),
        _ if url.contains(' ') => Some("must not contain white-space"),
        _ if url.contains("//") => Some("must not contain double slash"),
        _ if stars > 1 || stars == 1 && !url.ends_with("/*") => Some("wildcard can only do suffix matching"),
        _ => None,
    }
}

/// Condition types are given, each once.
pub(super) fn conditions(obj: &Value, errs: &mut ErrorList) {
    let root = Path::root("status.conditions");
    let conditions = list_at(obj, "status.conditions");
    let repeated = checks::repeats(conditions, |item| str_at(item, "type"));
    for (i, condition) in conditions.iter().enumerate() {
        let kind = str_at(condition, "type");
        if repeated[i] {
            errs.duplicate(&root.index(i).child("type"), kind);
        }
        if kind.is_empty() {
            errs.required(&root.index(i).child("type"), "");
        }
    }
}

/// A PriorityLevelConfiguration.
pub(super) fn level(obj: &Value, errs: &mut ErrorList) {
    let kind = str_at(obj, "spec.type");
    if (str_at(obj, "metadata.name") == "exempt") != (kind == "Exempt") {
        errs.invalid(&SPEC.child("type"), kind, "must be 'Exempt' if and only if `name` is 'exempt'");
    }
    let (limited, exempt) = (at(obj, "spec.limited"), at(obj, "spec.exempt"));
    match kind {
        "Exempt" => {
            if limited.is_some() {
                errs.forbidden(&SPEC.child("limited"), "must be nil if the type is not Limited");
            }
            exempt.into_iter().for_each(|exempt| shares(exempt, &SPEC.child("exempt"), errs));
        }
        "Limited" => {
            if exempt.is_some() {
                errs.forbidden(&SPEC.child("exempt"), "must be nil if the type is Limited");
            }
            match limited {
                None => errs.required(&SPEC.child("limited"), "must not be empty when type is Limited"),
                Some(limited) => self::limited(limited, &SPEC.child("limited"), errs),
            }
        }
        other => errs.not_supported(&SPEC.child("type"), other, &["Exempt", "Limited"]),
    }
    conditions(obj, errs);
}

fn shares(holder: &Value, path: &Path<'_>, errs: &mut ErrorList) {
    if let Some(shares) = int_at(holder, "nominalConcurrencyShares").filter(|n| *n < 0) {
        errs.invalid(&path.child("nominalConcurrencyShares"), shares, "must be a non-negative integer");
    }
    if let Some(percent) = int_at(holder, "lendablePercent").filter(|n| !(0..=100).contains(n)) {
        errs.invalid(&path.child("lendablePercent"), percent, "must be between 0 and 100, inclusive");
    }
}

fn limited(limited: &Value, path: &Path<'_>, errs: &mut ErrorList) {
    shares(limited, path, errs);
    if let Some(percent) = int_at(limited, "borrowingLimitPercent").filter(|n| *n < 0) {
        let text = "if specified, must be a non-negative integer";
        errs.invalid(&path.child("borrowingLimitPercent"), percent, text);
    }
    let path = path.child("limitResponse");
    let queuing = at(limited, "limitResponse.queuing");
    match (str_at(limited, "limitResponse.type"), queuing) {
        ("Reject", Some(_)) => {
            errs.forbidden(&path.child("queuing"), "must be nil if limited.limitResponse.type is not Limited");
        }
        ("Queue", None) => {
            errs.required(&path.child("queuing"), "must not be empty if limited.limitResponse.type is Limited");
        }
        ("Queue", Some(queuing)) => queues(queuing, &path.child("queuing"), errs),
        ("Reject", None) => {}
        (other, _) => errs.not_supported(&path.child("type"), other, &["Queue", "Reject"]),
    }
}

fn queues(queuing: &Value, path: &Path<'_>, errs: &mut ErrorList) {
    let number = |field: &str| int_at(queuing, field).unwrap_or_default();
    let (length, queues, hand) = (number("queueLengthLimit"), number("queues"), number("handSize"));
    if length <= 0 {
        errs.invalid(&path.child("queueLengthLimit"), length, "must be positive");
    }
    if queues <= 0 {
        errs.invalid(&path.child("queues"), queues, "must be positive");
    } else if queues > MAX_QUEUES {
        errs.invalid(&path.child("queues"), queues, format!("must not be greater than {MAX_QUEUES}"));
    }
    let path = path.child("handSize");
    if hand <= 0 {
        errs.invalid(&path, hand, "must be positive");
    } else if hand > queues {
        errs.invalid(&path, hand, format!("should not be greater than queues ({queues})"));
    } else {
        let bits = entropy_bits(queues, hand);
        if bits > HASH_BITS {
            errs.invalid(
                &path,
                hand,
                format!("required entropy bits of deckSize {queues} and handSize {hand} should not be greater than {HASH_BITS}"),
            );
        }
    }
}

/// Bits to choose `hand` of `deck` cards in order; counting ends once it is clear that there are too many.
fn entropy_bits(deck: i64, hand: i64) -> u32 {
    let mut bits = 0.0;
    for taken in 0..hand {
        bits += ((deck - taken) as f64).log2();
        if bits > f64::from(HASH_BITS) + 1.0 {
            break;
        }
    }
    bits.ceil() as u32
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn complaints(check: fn(&Value, &mut ErrorList), obj: Value) -> Vec<String> {
        let mut errs = ErrorList::new();
        check(&obj, &mut errs);
        errs.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn schemas() {
        let good = json!({"metadata": {"name": "s"}, "spec": {"matchingPrecedence": 50, "distinguisherMethod": {"type": "ByUser"},
            "priorityLevelConfiguration": {"name": "l"}, "rules": [{"subjects": [{"kind": "User", "user": {"name": "*"}}],
            "resourceRules": [{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"], "namespaces": ["*"]}],
            "nonResourceRules": [{"verbs": ["get"], "nonResourceURLs": ["/healthz", "/api/*"]}]}]}});
        assert_eq!(complaints(schema, good), Vec::<String>::new());
        let bad = json!({"metadata": {"name": "s"}, "spec": {"matchingPrecedence": 1, "rules": [{"subjects": [{"kind": "User", "group": {"name": "g"}}],
            "resourceRules": [{"verbs": ["feed"], "apiGroups": ["*", "x"], "resources": ["*"]}]}]}});
        assert_eq!(
            complaints(schema, bad),
            [
                "spec.matchingPrecedence: Invalid value: 1: only the schema named 'exempt' may have matchingPrecedence 1",
                "spec.priorityLevelConfiguration.name: Required value: must reference a priority level",
                "spec.rules[0].subjects[0].user: Required value: user is required when subject kind is 'User'",
                "spec.rules[0].subjects[0].group: Forbidden: group is forbidden when subject kind is not 'Group'",
                "spec.rules[0].resourceRules[0].verbs: Unsupported value: [\"feed\"]: supported values: \"create\", \"delete\", \"deletecollection\", \"get\", \"list\", \"patch\", \"proxy\", \"update\", \"watch\"",
                "spec.rules[0].resourceRules[0].apiGroups: Invalid value: [\"*\",\"x\"]: if '*' is present, must not specify other api groups",
                "spec.rules[0].resourceRules[0].namespaces: Required value: resource rules that are not cluster scoped must supply at least one namespace",
            ]
        );
    }

    #[test]
    fn levels() {
        let queue = |hand: i64| {
            json!({"metadata": {"name": "l"}, "spec": {"type": "Limited", "limited": {"nominalConcurrencyShares": 30,
            "lendablePercent": 0, "limitResponse": {"type": "Queue", "queuing": {"queues": 64, "handSize": hand, "queueLengthLimit": 50}}}}})
        };
        assert_eq!(complaints(level, queue(8)), Vec::<String>::new());
        assert_eq!(
            complaints(level, queue(12)),
            [
                "spec.limited.limitResponse.queuing.handSize: Invalid value: 12: required entropy bits of deckSize 64 and handSize 12 should not be greater than 60"
            ]
        );
        assert_eq!(
            complaints(level, json!({"metadata": {"name": "l"}, "spec": {"type": "Exempt"}})),
            ["spec.type: Invalid value: \"Exempt\": must be 'Exempt' if and only if `name` is 'exempt'"]
        );
    }
}
