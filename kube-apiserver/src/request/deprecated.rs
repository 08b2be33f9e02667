//! Served kinds that are deprecated: clients are warned.

use common::api::Resource;

/// (group, version, plural or `*`, deprecated in, gone in or 0, what to use instead): minors of 1.x.
const DEPRECATED: &[(&str, &str, &str, u32, u32, &str)] = &[
    ("", "v1", "componentstatuses", 19, 0, ""),
    ("", "v1", "endpoints", 33, 0, "discovery.k8s.io/v1 EndpointSlice"),
    ("admissionregistration.k8s.io", "v1alpha1", "*", 35, 38, ""),
    ("certificates.k8s.io", "v1alpha1", "clustertrustbundles", 34, 37, ""),
    ("coordination.k8s.io", "v1alpha2", "leasecandidates", 35, 38, ""),
    ("coordination.k8s.io", "v1beta1", "leasecandidates", 36, 39, ""),
    ("networking.k8s.io", "v1beta1", "*", 34, 37, ""),
    ("resource.k8s.io", "v1alpha3", "devicetaintrules", 36, 39, ""),
    ("resource.k8s.io", "v1beta1", "*", 35, 38, ""),
    ("resource.k8s.io", "v1beta2", "deviceclasses", 36, 39, ""),
    ("resource.k8s.io", "v1beta2", "resourceclaims", 36, 39, ""),
    ("resource.k8s.io", "v1beta2", "resourceclaimtemplates", 36, 39, ""),
    ("resource.k8s.io", "v1beta2", "resourceslices", 36, 39, ""),
    ("storage.k8s.io", "v1beta1", "volumeattributesclasses", 34, 37, "storage.k8s.io/v1 VolumeAttributesClass"),
];

/// How long a deprecated kind is still there.
#[derive(Debug, PartialEq, Eq)]
pub struct Deprecation {
    /// Upstream's warning.
    pub warning: String,
    /// `1.38`, empty when it stays.
    pub removed_release: String,
}

/// The deprecation of a served resource, if it is deprecated.
#[must_use]
pub fn deprecation(resource: &Resource) -> Option<Deprecation> {
    let (.., since, until, instead) = DEPRECATED.iter().find(|(group, version, plural, ..)| {
        *group == resource.group && *version == resource.version && (*plural == "*" || *plural == resource.plural)
    })?;
    let mut warning = format!("{} {} is deprecated in v1.{since}+", resource.api_version(), resource.kind);
    let mut removed_release = String::new();
    if *until > 0 {
        warning.push_str(&format!(", unavailable in v1.{until}+"));
        removed_release = format!("1.{until}");
    }
    if !instead.is_empty() {
        warning.push_str(&format!("; use {instead}"));
    }
    Some(Deprecation { warning, removed_release })
}

#[cfg(test)]
mod tests {
    use common::api::catalog;

    use super::*;

    #[test]
    fn warnings_are_upstreams() {
        for (group, version, plural, warning) in [
            ("", "v1", "endpoints", "v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice"),
            ("", "v1", "componentstatuses", "v1 ComponentStatus is deprecated in v1.19+"),
            (
                "resource.k8s.io",
                "v1beta1",
                "resourceslices",
                "resource.k8s.io/v1beta1 ResourceSlice is deprecated in v1.35+, unavailable in v1.38+",
            ),
        ] {
            let resource = catalog().by_plural(group, version, plural).unwrap();
            assert_eq!(deprecation(resource).unwrap().warning, warning);
        }
        assert_eq!(deprecation(catalog().by_plural("", "v1", "pods").unwrap()), None);
    }

    #[test]
    fn every_row_names_a_served_resource() {
        for (group, version, plural, ..) in DEPRECATED {
            let found = catalog()
                .resources()
                .any(|r| r.group == *group && r.version == *version && (*plural == "*" || r.plural == *plural));
            assert!(found, "{group}/{version} {plural}");
        }
    }
}
