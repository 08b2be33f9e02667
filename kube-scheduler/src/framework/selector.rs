//! Label selectors, compiled once per template.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1 as meta;

use super::nodeselector::{Operator, Requirement};

/// A compiled label selector.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LabelSelector {
    requirements: Vec<Requirement>,
    nothing: bool,
}

impl LabelSelector {
    /// Compiles; no selector (and a malformed one) matches nothing, an empty one everything.
    pub fn compile_or_nothing(selector: Option<&meta::LabelSelector>) -> Self {
        let Some(selector) = selector else { return Self { nothing: true, ..Self::default() } };
        let mut requirements: Vec<_> =
            selector.match_labels.iter().flatten().map(|(key, value)| Self::equals(key, value)).collect();
        for expression in selector.match_expressions.iter().flatten() {
            let values = expression.values.clone().unwrap_or_default();
            let operator = match expression.operator.as_str() {
                "In" => Operator::In(values),
                "NotIn" => Operator::NotIn(values),
                "Exists" => Operator::Exists,
                "DoesNotExist" => Operator::DoesNotExist,
                _ => return Self { nothing: true, ..Self::default() },
            };
            requirements.push(Requirement { key: expression.key.clone(), operator });
        }
        Self { requirements, nothing: false }
    }

    fn equals(key: &str, value: &str) -> Requirement {
        Requirement { key: key.to_owned(), operator: Operator::In(vec![value.to_owned()]) }
    }

    /// Selects exactly these labels; an empty map matches nothing.
    pub fn from_labels(labels: &BTreeMap<String, String>) -> Self {
        let requirements: Vec<_> = labels.iter().map(|(key, value)| Self::equals(key, value)).collect();
        Self { nothing: requirements.is_empty(), requirements }
    }

    /// Also demands what the other demands.
    pub fn and(mut self, other: Self) -> Self {
        self.nothing |= other.nothing;
        self.requirements.extend(other.requirements);
        self
    }

    /// Whether the labels satisfy every requirement.
    pub fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        !self.nothing && self.requirements.iter().all(|r| r.matches(labels.get(&r.key).map(String::as_str)))
    }

    /// Whether no labels can match.
    pub fn matches_nothing(&self) -> bool {
        self.nothing
    }
}
