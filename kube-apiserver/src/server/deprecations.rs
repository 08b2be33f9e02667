//! Warns clients of deprecated kinds and remembers that they were asked for.

use std::sync::OnceLock;

use common::telemetry::register;
use prometheus::{IntGaugeVec, Opts};

use super::Call;
use crate::request::deprecated;

fn requested() -> &'static IntGaugeVec {
    static FAMILY: OnceLock<IntGaugeVec> = OnceLock::new();
    FAMILY.get_or_init(|| {
        let opts = Opts::new(
            "apiserver_requested_deprecated_apis",
            "Gauge of deprecated APIs that have been requested, broken out by API group, version, resource, subresource, and removed_release.",
        );
        let labels = &["group", "version", "resource", "subresource", "removed_release"];
        register(IntGaugeVec::new(opts, labels).expect("constant metric"))
    })
}

/// Adds the warning of the resource that is asked for, if there is one.
pub fn tell(call: &Call) {
    let info = &call.info;
    let Some(resource) = call.registry.resolve(&info.group, &info.version, &info.resource) else { return };
    let Some(deprecation) = deprecated::deprecation(resource) else { return };
    let sub = resource.subresource(&info.subresource).map_or("", |sub| sub.name);
    let labels = [resource.group, resource.version, resource.plural, sub, deprecation.removed_release.as_str()];
    requested().with_label_values(&labels).set(1);
    call.warn(deprecation.warning);
}
