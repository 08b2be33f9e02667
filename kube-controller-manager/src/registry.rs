//! Every controller under its upstream name, and which of them `--controllers` asks for.

use common::config::FeatureGates;

use crate::context::{Context, Task};
use crate::controllers as c;
use crate::options::Options;

/// Requests informers, registers handlers; what it returns runs once the caches are in sync.
pub(crate) type Start = fn(&Context) -> anyhow::Result<Task>;

/// One line of the table.
pub(crate) struct Descriptor {
    pub(crate) name: &'static str,
    /// Names of older releases.
    pub(crate) aliases: &'static [&'static str],
    /// Runs under `*`.
    pub(crate) on_by_default: bool,
    /// Absent: known to upstream, not built yet.
    pub(crate) start: Option<Start>,
    /// Runs only if all of these feature gates are on.
    pub(crate) gates: &'static [&'static str],
    /// Why it has nothing to do under these flags, if so.
    pub(crate) idle: fn(&Options) -> Option<&'static str>,
}

impl Descriptor {
    const fn gated(self, gates: &'static [&'static str]) -> Self {
        Self { gates, ..self }
    }

    const fn idle_if(self, idle: fn(&Options) -> Option<&'static str>) -> Self {
        Self { idle, ..self }
    }

    const fn on_request(self) -> Self {
        Self { on_by_default: false, ..self }
    }

    /// Why an enabled controller does not run, if so.
    pub(crate) fn skipped(&self, options: &Options, gates: &FeatureGates) -> Option<&'static str> {
        match self.gates.iter().all(|gate| gates.enabled(gate)) {
            false => Some("it is disabled by a feature gate"),
            true if self.start.is_none() => Some("it is not built yet"),
            true => (self.idle)(options),
        }
    }
}

const fn on(name: &'static str, aliases: &'static [&'static str], start: Start) -> Descriptor {
    Descriptor { name, aliases, on_by_default: true, start: Some(start), gates: &[], idle: |_| None }
}

const fn later(name: &'static str, aliases: &'static [&'static str], on_by_default: bool) -> Descriptor {
    Descriptor { name, aliases, on_by_default, start: None, gates: &[], idle: |_| None }
}

/// All of upstream's.
pub(crate) static CONTROLLERS: &[Descriptor] = &[
    on("serviceaccount-token-controller", &["serviceaccount-token"], c::serviceaccount_token::start)
        .idle_if(c::serviceaccount_token::idle),
    on("endpoints-controller", &["endpoint"], c::endpoints::start),
    on("endpointslice-controller", &["endpointslice"], c::endpointslice::start),
    on("endpointslice-mirroring-controller", &["endpointslicemirroring"], c::endpointslice_mirroring::start),
    on("replicationcontroller-controller", &["replicationcontroller"], c::replicaset::start_replication),
    on("pod-garbage-collector-controller", &["podgc"], c::podgc::start),
    on("resourcequota-controller", &["resourcequota"], c::resourcequota::start),
    on("namespace-controller", &["namespace"], c::namespace::start),
    on("serviceaccount-controller", &["serviceaccount"], c::serviceaccount::start),
    on("garbage-collector-controller", &["garbagecollector"], c::garbage_collector::start),
    on("daemonset-controller", &["daemonset"], c::daemonset::start),
    on("job-controller", &["job"], c::job::start),
    on("deployment-controller", &["deployment"], c::deployment::start),
    on("replicaset-controller", &["replicaset"], c::replicaset::start_replicaset),
    on("horizontal-pod-autoscaler-controller", &["horizontalpodautoscaling"], c::horizontal_pod_autoscaler::start),
    on("disruption-controller", &["disruption"], c::disruption::start),
    on("statefulset-controller", &["statefulset"], c::statefulset::start),
    on("cronjob-controller", &["cronjob"], c::cronjob::start),
    on("certificatesigningrequest-signing-controller", &["csrsigning"], c::csr_signing::start)
        .idle_if(|options| c::csr_signing::idle(&options.signing)),
    on("certificatesigningrequest-approving-controller", &["csrapproving"], c::csr_approving::start),
    on("certificatesigningrequest-cleaner-controller", &["csrcleaner"], c::csr_cleaner::start),
    on("podcertificaterequest-cleaner-controller", &[], c::pod_certificate_request_cleaner::start)
        .gated(&["PodCertificateRequest"]),
    on("ttl-controller", &["ttl"], c::ttl::start),
    on("bootstrap-signer-controller", &["bootstrapsigner"], c::bootstrap_signer::start).on_request(),
    on("token-cleaner-controller", &["tokencleaner"], c::token_cleaner::start).on_request(),
    on("node-ipam-controller", &["nodeipam"], c::node_ipam::start).idle_if(c::node_ipam::idle),
    on("node-lifecycle-controller", &["nodelifecycle"], c::node_lifecycle::start),
    on("taint-eviction-controller", &[], c::taint_eviction::start),
    on("device-taint-eviction-controller", &[], c::device_taint_eviction::start)
        .gated(&["DynamicResourceAllocation", "DRADeviceTaints"]),
    on("persistentvolume-binder-controller", &["persistentvolume-binder"], c::pv_binder::start),
    on("persistentvolume-attach-detach-controller", &["attachdetach"], c::attach_detach::start),
    on("persistentvolume-expander-controller", &["persistentvolume-expander"], c::pv_expander::start),
    on("clusterrole-aggregation-controller", &["clusterrole-aggregation"], c::clusterrole_aggregation::start),
    on("persistentvolumeclaim-protection-controller", &["pvc-protection"], c::pvc_protection::start),
    on("persistentvolume-protection-controller", &["pv-protection"], c::pv_protection::start),
    on("podgroup-protection-controller", &[], c::podgroup_protection::start).gated(&["GenericWorkload"]),
    on("ttl-after-finished-controller", &["ttl-after-finished"], c::ttl_after_finished::start),
    on("root-ca-certificate-publisher-controller", &["root-ca-cert-publisher"], c::root_ca_publisher::start),
    on("kube-apiserver-serving-clustertrustbundle-publisher-controller", &[], c::trust_bundle_publisher::start)
        .gated(&["ClusterTrustBundle"]),
    on("ephemeral-volume-controller", &["ephemeral-volume"], c::ephemeral_volume::start),
    on("storageversion-garbage-collector-controller", &["storage-version-gc"], c::storage_version_gc::start)
        .gated(&["APIServerIdentity", "StorageVersionAPI"]),
    on("resourceclaim-controller", &["resource-claim-controller"], c::resource_claim::start)
        .gated(&["DynamicResourceAllocation"]),
    later("resourcepoolstatusrequest-controller", &[], true).gated(&["DRAResourcePoolStatus"]),
    on(
        "legacy-serviceaccount-token-cleaner-controller",
        &["legacy-service-account-token-cleaner"],
        c::legacy_token_cleaner::start,
    ),
    later("validatingadmissionpolicy-status-controller", &["validatingadmissionpolicy-status"], true),
    on("volumeattributesclass-protection-controller", &[], c::vac_protection::start),
    on("service-cidr-controller", &[], c::service_cidr::start).gated(&["MultiCIDRServiceAllocator"]),
    on("storage-version-migrator-controller", &["svm"], c::storage_version_migrator::start)
        .gated(&["StorageVersionMigrator"]),
    later("selinux-warning-controller", &[], false),
    // Loops that upstream moved to the cloud-controller-manager; old manifests still name them.
    later("cloud-node-lifecycle-controller", &["cloud-node-lifecycle"], false),
    later("service-lb-controller", &["service"], false),
    later("node-route-controller", &["route"], false),
];

/// The controllers that `--controllers` asks for. A name nobody knows is an error.
pub(crate) fn enabled(requested: &[String]) -> anyhow::Result<Vec<&'static Descriptor>> {
    common::controlplane::select_controllers(CONTROLLERS, |d| (d.name, d.aliases, d.on_by_default), requested)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(flag: &str) -> Result<Vec<&'static str>, String> {
        let items: Vec<String> = flag.split(',').map(str::to_owned).collect();
        enabled(&items).map(|l| l.into_iter().map(|d| d.name).collect()).map_err(|e| e.to_string())
    }

    #[test]
    fn selection() {
        assert!(names("*").unwrap().contains(&"deployment-controller"));
        assert!(!names("*").unwrap().contains(&"token-cleaner-controller"));
        assert!(names("*,tokencleaner").unwrap().contains(&"token-cleaner-controller"));
        assert!(!names("*,-deployment").unwrap().contains(&"deployment-controller"));
        assert_eq!(
            names("replicaset,namespace-controller").unwrap(),
            ["namespace-controller", "replicaset-controller"]
        );
        assert_eq!(names("*,-nope").unwrap_err(), "\"nope\" is not in the list of known controllers");
    }

    #[test]
    fn every_name_is_known_once() {
        let mut all: Vec<&str> = CONTROLLERS.iter().flat_map(|d| d.aliases.iter().copied().chain([d.name])).collect();
        all.sort_unstable();
        let count = all.len();
        all.dedup();
        assert_eq!(all.len(), count);
    }
}
