//! The configuration as `/configz` tells it: upstream's `KubeControllerManagerConfiguration`, as it came out of the flags.

use std::path::PathBuf;
use std::time::Duration;

use common::config::duration::format_go_duration;
use serde_json::{Value, json};

use crate::migration::Migration;
use crate::options::Options;
use crate::registry::Descriptor;

fn time(duration: Duration) -> String {
    format_go_duration(duration)
}

fn path(path: &Option<PathBuf>) -> String {
    path.as_ref().map(|path| path.display().to_string()).unwrap_or_default()
}

/// What is served, and which controllers that enables.
pub(crate) fn configz(options: &Options, enabled: &[&'static Descriptor]) -> Value {
    let names: Vec<&str> = enabled.iter().map(|controller| controller.name).collect();
    let mut config = json!({
        "Generic": generic(options),
        "KubeCloudShared": cloud_shared(options),
        "CSRSigningController": signing(options),
        "NodeIPAMController": node_ipam(options),
        "NodeLifecycleController": node_lifecycle(options),
        "PersistentVolumeBinderController": volume_binder(options),
        "EnabledControllers": names,
    });
    if let (Some(all), Value::Object(single)) = (config.as_object_mut(), single(options)) {
        all.extend(single);
    }
    json!({ "kubecontrollermanager.config.k8s.io": config })
}

fn generic(options: &Options) -> Value {
    let generic = &options.generic;
    let (client, election) = (&generic.client, &generic.election);
    json!({
        "Port": generic.serving.secure_port.unwrap_or(crate::PORT),
        "Address": generic.serving.bind_address,
        "ClientConnection": {
            "Kubeconfig": path(&client.kubeconfig),
            "ContentType": client.kube_api_content_type.as_deref().unwrap_or("application/json"),
            "QPS": client.kube_api_qps,
            "Burst": client.kube_api_burst,
        },
        "LeaderElection": {
            "LeaderElect": election.leader_elect,
            "LeaseDuration": time(election.leader_elect_lease_duration),
            "RenewDeadline": time(election.leader_elect_renew_deadline),
            "RetryPeriod": time(election.leader_elect_retry_period),
            "ResourceLock": election.leader_elect_resource_lock,
            "ResourceName": election.leader_elect_resource_name.as_deref().unwrap_or(crate::NAME),
            "ResourceNamespace": election.leader_elect_resource_namespace,
        },
        "Controllers": generic.controllers,
        "Debugging": {
            "EnableProfiling": generic.serving.profiling,
            "EnableContentionProfiling": generic.serving.contention_profiling,
        },
        "LeaderMigrationEnabled": options.migration.enable_leader_migration,
        // What cannot be read has kept the daemon from starting.
        "LeaderMigration": Migration::of(&options.migration, election).ok().flatten(),
    })
}

fn cloud_shared(options: &Options) -> Value {
    let generic = &options.generic;
    json!({
        "UseServiceAccountCredentials": generic.use_service_account_credentials,
        "NodeMonitorPeriod": time(generic.node_monitor_period),
        "ClusterName": generic.cluster_name,
        "ClusterCIDR": options.cluster_cidr,
        "AllocateNodeCIDRs": generic.allocate_node_cidrs,
        "CIDRAllocatorType": "RangeAllocator",
    })
}

fn signing(options: &Options) -> Value {
    let flags = &options.signing;
    let pair = |cert: &Option<PathBuf>, key: &Option<PathBuf>| json!({"CertFile": path(cert), "KeyFile": path(key)});
    json!({
        "ClusterSigningCertFile": path(&flags.cluster_signing_cert_file),
        "ClusterSigningKeyFile": path(&flags.cluster_signing_key_file),
        "ClusterSigningDuration": time(flags.cluster_signing_duration),
        "KubeletServingSignerConfiguration": pair(
            &flags.cluster_signing_kubelet_serving_cert_file,
            &flags.cluster_signing_kubelet_serving_key_file,
        ),
        "KubeletClientSignerConfiguration": pair(
            &flags.cluster_signing_kubelet_client_cert_file,
            &flags.cluster_signing_kubelet_client_key_file,
        ),
        "KubeAPIServerClientSignerConfiguration": pair(
            &flags.cluster_signing_kube_apiserver_client_cert_file,
            &flags.cluster_signing_kube_apiserver_client_key_file,
        ),
        "LegacyUnknownSignerConfiguration": pair(
            &flags.cluster_signing_legacy_unknown_cert_file,
            &flags.cluster_signing_legacy_unknown_key_file,
        ),
    })
}

fn node_ipam(options: &Options) -> Value {
    let mut ranges = options.service_cluster_ip_range.split(',');
    json!({
        "ServiceCIDR": ranges.next().unwrap_or_default(),
        "SecondaryServiceCIDR": ranges.next().unwrap_or_default(),
        "NodeCIDRMaskSize": options.node_cidr_mask_size,
        "NodeCIDRMaskSizeIPv4": options.node_cidr_mask_size_ipv4,
        "NodeCIDRMaskSizeIPv6": options.node_cidr_mask_size_ipv6,
    })
}

fn node_lifecycle(options: &Options) -> Value {
    json!({
        "NodeEvictionRate": options.node_eviction_rate,
        "SecondaryNodeEvictionRate": options.secondary_node_eviction_rate,
        "NodeStartupGracePeriod": time(options.node_startup_grace_period),
        "NodeMonitorGracePeriod": time(options.node_monitor_grace_period),
        "LargeClusterSizeThreshold": options.large_cluster_size_threshold,
        "UnhealthyZoneThreshold": options.unhealthy_zone_threshold,
    })
}

fn volume_binder(options: &Options) -> Value {
    let flags = &options.volumes;
    json!({
        "PVClaimBinderSyncPeriod": time(flags.pvclaimbinder_sync_period),
        "VolumeConfiguration": {
            "EnableHostPathProvisioning": flags.enable_hostpath_provisioner,
            "EnableDynamicProvisioning": flags.enable_dynamic_provisioning,
        },
    })
}

/// Controllers with a flag or three.
fn single(options: &Options) -> Value {
    let (mirroring, volumes) = (&options.mirroring, &options.volumes);
    json!({
        "AttachDetachController": {"DisableForceDetachOnTimeout": volumes.disable_force_detach_on_timeout},
        "DaemonSetController": {"ConcurrentDaemonSetSyncs": options.concurrent_daemonset_syncs},
        "DeploymentController": {"ConcurrentDeploymentSyncs": options.concurrent_deployment_syncs},
        "EndpointController": {
            "ConcurrentEndpointSyncs": options.concurrent_endpoint_syncs,
            "EndpointUpdatesBatchPeriod": time(options.endpoint_updates_batch_period),
        },
        "EndpointSliceController": {
            "ConcurrentServiceEndpointSyncs": options.concurrent_service_endpoint_syncs,
            "MaxEndpointsPerSlice": options.max_endpoints_per_slice,
            "EndpointUpdatesBatchPeriod": time(options.endpointslice_updates_batch_period),
        },
        "EndpointSliceMirroringController": {
            "MirroringConcurrentServiceEndpointSyncs": mirroring.mirroring_concurrent_service_endpoint_syncs,
            "MirroringMaxEndpointsPerSubset": mirroring.mirroring_max_endpoints_per_subset,
            "MirroringEndpointUpdatesBatchPeriod": time(mirroring.mirroring_endpointslice_updates_batch_period),
        },
        "EphemeralVolumeController": {"ConcurrentEphemeralVolumeSyncs": volumes.concurrent_ephemeralvolume_syncs},
        "GarbageCollectorController": {
            "EnableGarbageCollector": options.enable_garbage_collector,
            "ConcurrentGCSyncs": options.concurrent_gc_syncs,
        },
        "JobController": {"ConcurrentJobSyncs": options.concurrent_job_syncs},
        "LegacySATokenCleaner": {"CleanUpPeriod": time(options.tokens.legacy_service_account_token_clean_up_period)},
        "NamespaceController": {"ConcurrentNamespaceSyncs": options.concurrent_namespace_syncs},
        "PodGCController": {"TerminatedPodGCThreshold": options.terminated_pod_gc_threshold},
        "ReplicaSetController": {"ConcurrentRSSyncs": options.concurrent_replicaset_syncs},
        "ReplicationController": {"ConcurrentRCSyncs": options.concurrent_rc_syncs},
        "ResourceClaimController": {"ConcurrentSyncs": volumes.concurrent_resourceclaim_syncs},
        "ResourceQuotaController": {
            "ResourceQuotaSyncPeriod": time(options.resource_quota_sync_period),
            "ConcurrentResourceQuotaSyncs": options.concurrent_resource_quota_syncs,
        },
        "SAController": {
            "ServiceAccountKeyFile": path(&options.service_account_private_key_file),
            "ConcurrentSATokenSyncs": options.concurrent_serviceaccount_token_syncs,
            "RootCAFile": path(&options.root_ca_file),
        },
        "StatefulSetController": {"ConcurrentStatefulSetSyncs": options.concurrent_statefulset_syncs},
        "TTLAfterFinishedController": {"ConcurrentTTLSyncs": options.concurrent_ttl_after_finished_syncs},
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use common::config::try_parse_from;

    #[test]
    fn flags_are_told_under_upstreams_names() {
        let flags = [
            "kube-controller-manager",
            "--cluster-signing-duration=1h",
            "--service-cluster-ip-range=10.96.0.0/16,fd00::/108",
        ];
        let options: Options = try_parse_from(flags).unwrap();
        let enabled = crate::registry::enabled(&["ttl".to_owned()]).unwrap();
        let config = configz(&options, &enabled)["kubecontrollermanager.config.k8s.io"].take();
        assert_eq!(config["CSRSigningController"]["ClusterSigningDuration"], "1h0m0s");
        assert_eq!(config["NodeIPAMController"]["SecondaryServiceCIDR"], "fd00::/108");
        assert_eq!(config["Generic"]["LeaderElection"]["ResourceName"], "kube-controller-manager");
        assert_eq!(config["Generic"]["ClientConnection"]["Burst"], 30);
        assert_eq!(config["ReplicaSetController"]["ConcurrentRSSyncs"], 5);
        assert_eq!(config["EnabledControllers"], json!(["ttl-controller"]));
    }
}
