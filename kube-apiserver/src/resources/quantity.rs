//! Quantities in JSON trees: reading them, and writing them canonically as every stored object has them.

use std::cmp::Ordering;

use common::meta::quantity;
use serde_json::Value;

use super::value::each_value;

/// An exact quantity.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Quantity(quantity::Quantity);

impl Quantity {
    /// Parses upstream's syntax.
    pub(crate) fn parse(text: &str) -> Option<Quantity> {
        text.parse().ok().map(Quantity)
    }

    /// A quantity from a JSON string or number.
    pub(crate) fn of(value: &Value) -> Option<Quantity> {
        match value {
            Value::String(text) => Quantity::parse(text),
            Value::Number(number) => Quantity::parse(&number.to_string()),
            _ => None,
        }
    }

    /// -1, 0 or 1.
    pub(crate) fn sign(self) -> i32 {
        self.0.sign()
    }

    /// True when it is a whole number.
    pub(crate) fn is_whole(self) -> bool {
        let mut rounded = self.0;
        rounded.round_up(0)
    }

    /// The amount in whole units, rounded up.
    pub(crate) fn whole(self) -> i64 {
        self.0.value()
    }

    /// Numeric order, whatever the notation.
    pub(crate) fn compare(self, other: Quantity) -> Ordering {
        self.0.cmp(&other.0)
    }

    /// The sum, in this quantity's notation.
    pub(crate) fn plus(mut self, other: Quantity) -> Quantity {
        self.0.add(&other.0);
        self
    }

    /// Rounds up to thousandths, as every resource list is.
    pub(crate) fn round_up_milli(mut self) -> Quantity {
        self.0.round_up(-3);
        self
    }

    /// Upstream's canonical text.
    pub(crate) fn canonical(self) -> String {
        self.0.to_string()
    }
}

/// Writes every quantity of a resource list canonically and rounded up to thousandths.
pub(crate) fn canonicalize_list(list: Option<&mut Value>) {
    for value in list.into_iter().flat_map(each_value) {
        if let Some(quantity) = Quantity::of(value) {
            *value = Value::from(quantity.round_up_milli().canonical());
        }
    }
}

/// Canonical `limits` and `requests` of a `resources` object.
pub(crate) fn canonicalize_requirements(resources: Option<&mut Value>) {
    if let Some(resources) = resources {
        canonicalize_list(resources.get_mut("limits"));
        canonicalize_list(resources.get_mut("requests"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn canonical_text_is_upstreams() {
        for (text, want) in [
            ("0.5", "500m"),
            ("1000m", "1"),
            ("1024Mi", "1Gi"),
            ("100Mi", "100Mi"),
            ("1.5Gi", "1536Mi"),
            ("1Ki", "1Ki"),
            ("0.5Ki", "512"),
            ("1000", "1k"),
            ("1e3", "1e3"),
            ("12E", "12E"),
            ("0", "0"),
            ("-5m", "-5m"),
            ("100u", "100u"),
            ("1500000", "1500k"),
        ] {
            assert_eq!(Quantity::parse(text).map(Quantity::canonical).as_deref(), Some(want), "{text}");
        }
        for bad in ["", "abc", "1.2.3", "1Kii", "1 "] {
            assert!(Quantity::parse(bad).is_none(), "{bad}");
        }
        assert_eq!(Quantity::parse("100u").map(|q| q.round_up_milli().canonical()).as_deref(), Some("1m"));
    }
}
