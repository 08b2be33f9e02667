//! Node selectors and affinity terms, parsed once per pod template.

use k8s_openapi::api::core::v1::{NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, PreferredSchedulingTerm};

/// How a requirement compares a node's value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operator {
    /// The value is one of these.
    In(Vec<String>),
    /// The value is none of these, or absent.
    NotIn(Vec<String>),
    /// The key is present.
    Exists,
    /// The key is absent.
    DoesNotExist,
    /// The value is an integer greater than this.
    Gt(i64),
    /// The value is an integer less than this.
    Lt(i64),
}

/// One requirement on a label or field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Requirement {
    /// Label key or field path.
    pub key: String,
    /// The comparison.
    pub operator: Operator,
}

/// A conjunction of label and field requirements. A term that does not parse matches nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Term {
    /// On labels.
    pub labels: Vec<Requirement>,
    /// On fields (`metadata.name` only).
    pub fields: Vec<Requirement>,
    /// Set when the term is malformed or empty: it matches no node.
    pub never: bool,
}

impl Requirement {
    /// Parses one requirement; `None` when malformed.
    pub fn parse(requirement: &NodeSelectorRequirement) -> Option<Self> {
        let values = requirement.values.clone().unwrap_or_default();
        let single = || (values.len() == 1).then(|| values[0].parse::<i64>().ok()).flatten();
        let operator = match requirement.operator.as_str() {
            "In" if !values.is_empty() => Operator::In(values),
            "NotIn" if !values.is_empty() => Operator::NotIn(values),
            "Exists" if values.is_empty() => Operator::Exists,
            "DoesNotExist" if values.is_empty() => Operator::DoesNotExist,
            "Gt" => Operator::Gt(single()?),
            "Lt" => Operator::Lt(single()?),
            _ => return None,
        };
        Some(Self { key: requirement.key.clone(), operator })
    }

    /// Whether a node's value for the key satisfies the requirement.
    pub fn matches(&self, value: Option<&str>) -> bool {
        match &self.operator {
            Operator::In(values) => value.is_some_and(|value| values.iter().any(|v| v == value)),
            Operator::NotIn(values) => value.is_none_or(|value| values.iter().all(|v| v != value)),
            Operator::Exists => value.is_some(),
            Operator::DoesNotExist => value.is_none(),
            Operator::Gt(bound) => value.and_then(|v| v.parse::<i64>().ok()).is_some_and(|v| v > *bound),
            Operator::Lt(bound) => value.and_then(|v| v.parse::<i64>().ok()).is_some_and(|v| v < *bound),
        }
    }
}

impl Term {
    /// Parses a term; empty terms match nothing, as upstream's.
    pub fn parse(term: &NodeSelectorTerm) -> Self {
        let labels: Option<Vec<_>> = term.match_expressions.iter().flatten().map(Requirement::parse).collect();
        let fields: Option<Vec<_>> = term
            .match_fields
            .iter()
            .flatten()
            .map(|field| {
                Requirement::parse(field).filter(|parsed| {
                    parsed.key == "metadata.name"
                        && match &parsed.operator {
                            Operator::In(values) | Operator::NotIn(values) => values.len() == 1,
                            _ => false,
                        }
                })
            })
            .collect();
        match (labels, fields) {
            (Some(labels), Some(fields)) if !labels.is_empty() || !fields.is_empty() => {
                Self { labels, fields, never: false }
            }
            _ => Self { never: true, ..Self::default() },
        }
    }

    /// Parses the terms of a required node selector.
    pub fn parse_all(selector: &NodeSelector) -> Vec<Self> {
        selector.node_selector_terms.iter().map(Self::parse).collect()
    }

    /// Whether a node with this name and these labels satisfies the whole term.
    pub fn matches<'a>(&self, name: &str, label: impl Fn(&str) -> Option<&'a str>) -> bool {
        !self.never
            && self.fields.iter().all(|requirement| requirement.matches(Some(name)))
            && self.labels.iter().all(|requirement| requirement.matches(label(&requirement.key)))
    }
}

/// A preferred term and its weight.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WeightedTerm {
    /// 1-100; zero-weight terms are dropped.
    pub weight: i64,
    /// The term. An empty preferred term matches every node in the API but scores nothing, as upstream's.
    pub term: Term,
}

impl WeightedTerm {
    /// Parses preferred scheduling terms.
    pub fn parse_all(terms: &[PreferredSchedulingTerm]) -> Vec<Self> {
        terms
            .iter()
            .filter(|preferred| preferred.weight != 0)
            .map(|preferred| Self { weight: i64::from(preferred.weight), term: Term::parse(&preferred.preference) })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn operators() {
        let cases = [
            (json!({"key": "k", "operator": "In", "values": ["a", "b"]}), Some("b"), true),
            (json!({"key": "k", "operator": "In", "values": ["a"]}), None, false),
            (json!({"key": "k", "operator": "NotIn", "values": ["a"]}), None, true),
            (json!({"key": "k", "operator": "NotIn", "values": ["a"]}), Some("a"), false),
            (json!({"key": "k", "operator": "Exists"}), Some(""), true),
            (json!({"key": "k", "operator": "DoesNotExist"}), Some(""), false),
            (json!({"key": "k", "operator": "Gt", "values": ["4"]}), Some("5"), true),
            (json!({"key": "k", "operator": "Gt", "values": ["4"]}), Some("x"), false),
            (json!({"key": "k", "operator": "Lt", "values": ["4"]}), Some("3"), true),
        ];
        for (requirement, value, expected) in cases {
            let parsed = Requirement::parse(&serde_json::from_value(requirement.clone()).unwrap()).unwrap();
            assert_eq!(parsed.matches(value), expected, "{requirement} {value:?}");
        }
        for malformed in [
            json!({"key": "k", "operator": "In"}),
            json!({"key": "k", "operator": "Gt", "values": ["x"]}),
            json!({"key": "k", "operator": "Exists", "values": ["x"]}),
            json!({"key": "k", "operator": "Near"}),
        ] {
            assert!(Requirement::parse(&serde_json::from_value(malformed).unwrap()).is_none());
        }
    }

    #[test]
    fn empty_and_malformed_terms_match_nothing() {
        for term in [
            json!({}),
            json!({"matchExpressions": [{"key": "k", "operator": "Near"}]}),
            json!({"matchFields": [{"key": "spec.x", "operator": "In", "values": ["a"]}]}),
        ] {
            let term = Term::parse(&serde_json::from_value(term).unwrap());
            assert!(!term.matches("a", |_| Some("v")));
        }
        let term = json!({"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["a"]}]});
        let term = Term::parse(&serde_json::from_value(term).unwrap());
        assert!(term.matches("a", |_| None) && !term.matches("b", |_| None));
    }
}
