//! The feature gates that the controllers look at.

use common::config::{ConfigError, FeatureGates, Gate, Stage};

const fn gate(name: &'static str, stage: Stage, default: bool, locked: bool) -> Gate {
    Gate { name, stage, default, locked }
}

const KNOWN: &[Gate] = &[
    gate("APIServerIdentity", Stage::Beta, true, false),
    gate("ClusterTrustBundle", Stage::Beta, false, false),
    gate("DRADeviceTaintRules", Stage::Beta, false, false),
    gate("DRADeviceTaints", Stage::Beta, true, false),
    gate("DRAResourcePoolStatus", Stage::Alpha, false, false),
    gate("DynamicResourceAllocation", Stage::Stable, true, true),
    gate("GenericWorkload", Stage::Alpha, false, false),
    gate("MultiCIDRServiceAllocator", Stage::Stable, true, true),
    gate("PodCertificateRequest", Stage::Beta, false, false),
    gate("SELinuxChangePolicy", Stage::Stable, true, true),
    gate("SELinuxMount", Stage::Beta, false, false),
    gate("StorageVersionAPI", Stage::Alpha, false, false),
    gate("StorageVersionMigrator", Stage::Beta, false, false),
    gate("VolumeAttributesClass", Stage::Stable, true, true),
];

/// What `--feature-gates` sets.
pub(crate) fn resolve(values: &[String]) -> Result<FeatureGates, ConfigError> {
    FeatureGates::from_flags(KNOWN, values)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_set_gates() {
        let resolve = |values: &[&str]| resolve(&values.iter().map(|v| (*v).to_owned()).collect::<Vec<_>>());
        let gates = resolve(&["ClusterTrustBundle=true", "PodLevelResources=true"]).unwrap();
        assert!(gates.enabled("ClusterTrustBundle") && gates.enabled("DRADeviceTaints"));
        assert!(!gates.enabled("StorageVersionAPI"));
        assert!(resolve(&["AllAlpha=true"]).unwrap().enabled("StorageVersionAPI"));
        assert!(resolve(&["DynamicResourceAllocation=false"]).unwrap_err().to_string().contains("is locked to true"));
        assert!(resolve(&["ClusterTrustBundle"]).is_err() && resolve(&["SomethingElse=true"]).is_err());
    }
}
