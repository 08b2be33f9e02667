//! The feature gates that the controllers look at; other gates of upstream are accepted without effect.

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
    let known = |pair: &&String| match pair.split_once('=') {
        Some((name, _)) => {
            let name = name.trim();
            let ours = name.starts_with("All") || KNOWN.iter().any(|gate| gate.name == name);
            if !ours {
                tracing::warn!(gate = name, "feature gate without effect here");
            }
            ours
        }
        None => true,
    };
    let ours: Vec<String> = values.iter().filter(known).cloned().collect();
    FeatureGates::from_flags(KNOWN, &ours)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_set_gates() {
        let resolve = |values: &[&str]| resolve(&values.iter().map(|v| (*v).to_owned()).collect::<Vec<_>>());
        let gates = resolve(&["ClusterTrustBundle=true", "SomethingElse=true"]).unwrap();
        assert!(gates.enabled("ClusterTrustBundle") && gates.enabled("DRADeviceTaints"));
        assert!(!gates.enabled("StorageVersionAPI"));
        assert!(resolve(&["AllAlpha=true"]).unwrap().enabled("StorageVersionAPI"));
        assert!(resolve(&["DynamicResourceAllocation=false"]).unwrap_err().to_string().contains("is locked to true"));
        assert!(resolve(&["ClusterTrustBundle"]).is_err());
    }
}
