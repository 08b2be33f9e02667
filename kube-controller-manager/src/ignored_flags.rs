//! Upstream's flags of controllers that are not here yet: accepted so that existing manifests start, without effect.

use clap::Args;

macro_rules! ignored {
    ($($(#[$attribute:meta])* $name:ident),* $(,)?) => {
        /// Flags that are accepted and without effect; values are not looked at.
        #[derive(Debug, Clone, Default, Args)]
        #[expect(missing_docs, reason = "every flag has the same help: accepted, without effect")]
        pub struct Ignored {
            $(#[arg(long, hide = true, num_args = 0..=1, default_missing_value = "true", allow_hyphen_values = true)]
            $(#[$attribute])* pub $name: Option<String>,)*
        }
    };
}

ignored! {
    allow_untagged_cloud,
    attach_detach_reconcile_sync_period,
    cidr_allocator_type,
    cloud_config,
    cloud_provider,
    concurrent_device_taint_eviction_syncs,
    concurrent_service_syncs,
    concurrent_validating_admission_policy_status_syncs,
    configure_cloud_routes,
    controller_shutdown_timeout,
    controller_start_interval,
    disable_attach_detach_reconcile_sync,
    disable_http2_serving,
    emulated_version,
    emulation_forward_compatible,
    external_cloud_volume_plugin,
    flex_volume_plugin_dir,
    http2_max_streams_per_connection,
    kube_api_disable_http2,
    max_requests_inflight,
    min_resync_period,
    namespace_sync_period,
    permit_address_sharing,
    permit_port_sharing,
    pv_recycler_increment_timeout_nfs,
    pv_recycler_minimum_timeout_hostpath,
    pv_recycler_minimum_timeout_nfs,
    pv_recycler_pod_template_filepath_hostpath,
    pv_recycler_pod_template_filepath_nfs,
    pv_recycler_timeout_increment_hostpath,
    requestheader_allowed_names,
    requestheader_extra_headers_prefix,
    requestheader_group_headers,
    requestheader_uid_headers,
    requestheader_username_headers,
    route_reconciliation_period,
    shutdown_delay_duration,
    tls_sni_cert_key,
    volume_host_allow_local_loopback,
    volume_host_cidr_denylist,
}
