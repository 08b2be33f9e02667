//! Short ways to a quantity's number. A quantity that does not parse counts as zero: the apiserver let none through,
//! and static pods are checked when they are read.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

/// A list of resources.
pub(crate) type Resources = BTreeMap<String, Quantity>;

fn parse(quantity: &Quantity) -> Option<common::meta::quantity::Quantity> {
    quantity.0.parse().ok()
}

/// Whole units, rounded up.
pub(crate) fn value(quantity: &Quantity) -> i64 {
    parse(quantity).map_or(0, |quantity| quantity.value())
}

/// Thousandths, rounded up.
pub(crate) fn milli(quantity: &Quantity) -> i64 {
    parse(quantity).map_or(0, |quantity| quantity.milli_value())
}

/// A resource of a list in whole units; 0 when absent.
pub(crate) fn of(list: Option<&Resources>, name: &str) -> i64 {
    list.and_then(|list| list.get(name)).map_or(0, value)
}

/// A resource of a list in thousandths; 0 when absent.
pub(crate) fn milli_of(list: Option<&Resources>, name: &str) -> i64 {
    list.and_then(|list| list.get(name)).map_or(0, milli)
}
