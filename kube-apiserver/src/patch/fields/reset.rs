//! What a write cannot change whoever makes it: nobody comes to own it.

use super::element::Element;
use super::set::{Node, Set};

/// Which paths of a request count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reset {
    /// All but what is at or below these.
    Except(&'static [&'static [&'static str]]),
    /// Only what is below these; `*` stands for any element.
    Only(&'static [&'static [&'static str]]),
}

/// Every path counts.
pub const NOTHING: Reset = Reset::Except(&[]);
const STATUS: Reset = Reset::Except(&[&["status"]]);
const SPEC: Reset = Reset::Except(&[&["spec"]]);
const SPEC_AND_METADATA: Reset = Reset::Except(&[&["spec"], &["metadata"]]);

/// Kinds whose writes differ from the rule: plural, subresource, what it resets.
const SPECIAL: [(&str, &str, Reset); 20] = [
    ("apiservices", "status", SPEC_AND_METADATA),
    ("certificatesigningrequests", "", Reset::Except(&[&["spec"], &["status"]])),
    ("certificatesigningrequests", "approval", Reset::Except(&[&["spec"], &["status", "certificate"]])),
    ("certificatesigningrequests", "status", Reset::Except(&[&["spec"], &["status", "conditions"]])),
    ("deployments", "status", Reset::Except(&[&["spec"], &["metadata", "labels"]])),
    ("devicetaintrules", "status", SPEC_AND_METADATA),
    ("flowschemas", "status", SPEC_AND_METADATA),
    ("podcertificaterequests", "", NOTHING),
    ("podgroups", "status", SPEC_AND_METADATA),
    (
        "pods",
        "status",
        Reset::Except(&[&["spec"], &["metadata", "deletionTimestamp"], &["metadata", "ownerReferences"]]),
    ),
    ("pods", "ephemeralcontainers", Reset::Only(&[&["spec", "ephemeralContainers"]])),
    (
        "pods",
        "resize",
        Reset::Only(&[
            &["spec", "containers", "*", "resources"],
            &["spec", "containers", "*", "resizePolicy"],
            &["spec", "initContainers", "*", "resources"],
            &["spec", "initContainers", "*", "resizePolicy"],
        ]),
    ),
    ("prioritylevelconfigurations", "status", SPEC_AND_METADATA),
    ("resourceclaims", "status", SPEC_AND_METADATA),
    ("servicecidrs", "", NOTHING),
    ("servicecidrs", "status", SPEC_AND_METADATA),
    ("storageversionmigrations", "status", SPEC_AND_METADATA),
    ("storageversions", "status", SPEC_AND_METADATA),
    ("validatingadmissionpolicies", "status", SPEC_AND_METADATA),
    ("volumeattachments", "status", SPEC_AND_METADATA),
];

impl Reset {
    /// What a write of a resource (`subresource` empty) or a subresource resets. `has_status` says whether the resource
    /// has a status of its own.
    pub fn of(plural: &str, subresource: &str, has_status: bool) -> Self {
        if let Some((.., reset)) = SPECIAL.iter().find(|(of, sub, _)| *of == plural && *sub == subresource) {
            return *reset;
        }
        match subresource {
            "" if has_status => STATUS,
            "finalize" => STATUS,
            "status" => SPEC,
            _ => NOTHING,
        }
    }

    /// The paths of a set that count.
    pub(super) fn filter<'a>(self, set: Set<'a>) -> Set<'a> {
        match self {
            Self::Except([]) => set,
            Self::Except(paths) => set.recursive_difference(&Set::of_fields(paths)),
            Self::Only(patterns) => only(&set, patterns),
        }
    }
}

/// What is at or below a pattern's end, and the parents on the way there.
fn only<'a>(set: &Set<'a>, patterns: &[&[&str]]) -> Set<'a> {
    let nodes = set.nodes.iter().filter_map(|node| {
        let matches = |step: &str| step == "*" || node.element == Element::field(step);
        let rest: Vec<&[&str]> = patterns
            .iter()
            .filter_map(|pattern| pattern.split_first().filter(|(first, _)| matches(first)).map(|(_, rest)| rest))
            .collect();
        if rest.iter().any(|rest| rest.is_empty()) {
            return Some(node.clone());
        }
        let below = only(&node.below, &rest);
        let member = node.member && !rest.is_empty();
        (member || !below.is_empty()).then(|| Node { element: node.element.clone(), member, below })
    });
    Set { nodes: nodes.collect() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn filtered(reset: Reset, fields: &serde_json::Value) -> serde_json::Value {
        reset.filter(Set::decode(fields).unwrap()).encode()
    }

    #[test]
    fn main_writes_reset_status_and_status_writes_reset_spec() {
        let fields =
            json!({"f:metadata": {"f:labels": {"f:a": {}}}, "f:spec": {"f:x": {}}, "f:status": {".": {}, "f:y": {}}});
        assert_eq!(
            filtered(Reset::of("nodes", "", true), &fields),
            json!({"f:metadata": {"f:labels": {"f:a": {}}}, "f:spec": {"f:x": {}}})
        );
        assert_eq!(
            filtered(Reset::of("deployments", "status", true), &fields),
            json!({"f:status": {".": {}, "f:y": {}}})
        );
        assert_eq!(filtered(Reset::of("configmaps", "", false), &fields), fields);
    }

    #[test]
    fn some_subresources_write_little() {
        let fields = json!({"f:metadata": {"f:labels": {}}, "f:spec": {"f:nodeName": {}, "f:containers": {
            r#"k:{"name":"a"}"#: {".": {}, "f:image": {}, "f:resources": {"f:limits": {}}}}}});
        assert_eq!(
            filtered(Reset::of("pods", "resize", true), &fields),
            json!({"f:spec": {"f:containers": {r#"k:{"name":"a"}"#: {".": {}, "f:resources": {"f:limits": {}}}}}})
        );
        assert_eq!(filtered(Reset::of("pods", "ephemeralcontainers", true), &fields), json!({}));
    }
}
