//! Flags of the controllers that look after the cluster: certificates, tokens, volumes, mirrored endpoints.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use common::config::parse_go_duration;

use crate::shared::csr;

/// `--cluster-signing-*`.
#[derive(Debug, Clone, Default, Args)]
pub struct Signing {
    /// Filename containing a PEM-encoded X509 CA certificate used to issue cluster-scoped certificates. If specified, no more specific --cluster-signing-* flag may be specified.
    #[arg(long)]
    pub cluster_signing_cert_file: Option<PathBuf>,
    /// Filename containing a PEM-encoded RSA or ECDSA private key used to sign cluster-scoped certificates. If specified, no more specific --cluster-signing-* flag may be specified.
    #[arg(long)]
    pub cluster_signing_key_file: Option<PathBuf>,
    /// The max length of duration signed certificates will be given. Individual CSRs may request shorter certs by setting spec.expirationSeconds.
    #[arg(long, default_value = "8760h0m0s", value_parser = parse_go_duration)]
    pub cluster_signing_duration: Duration,
    /// Filename containing a PEM-encoded X509 CA certificate used to issue certificates for the kubernetes.io/kubelet-serving signer.
    #[arg(long)]
    pub cluster_signing_kubelet_serving_cert_file: Option<PathBuf>,
    /// Filename containing a PEM-encoded RSA or ECDSA private key used to sign certificates for the kubernetes.io/kubelet-serving signer.
    #[arg(long)]
    pub cluster_signing_kubelet_serving_key_file: Option<PathBuf>,
    /// Filename containing a PEM-encoded X509 CA certificate used to issue certificates for the kubernetes.io/kube-apiserver-client-kubelet signer.
    #[arg(long)]
    pub cluster_signing_kubelet_client_cert_file: Option<PathBuf>,
    /// Filename containing a PEM-encoded RSA or ECDSA private key used to sign certificates for the kubernetes.io/kube-apiserver-client-kubelet signer.
    #[arg(long)]
    pub cluster_signing_kubelet_client_key_file: Option<PathBuf>,
    /// Filename containing a PEM-encoded X509 CA certificate used to issue certificates for the kubernetes.io/kube-apiserver-client signer.
    #[arg(long)]
    pub cluster_signing_kube_apiserver_client_cert_file: Option<PathBuf>,
    /// Filename containing a PEM-encoded RSA or ECDSA private key used to sign certificates for the kubernetes.io/kube-apiserver-client signer.
    #[arg(long)]
    pub cluster_signing_kube_apiserver_client_key_file: Option<PathBuf>,
    /// Filename containing a PEM-encoded X509 CA certificate used to issue certificates for the kubernetes.io/legacy-unknown signer.
    #[arg(long)]
    pub cluster_signing_legacy_unknown_cert_file: Option<PathBuf>,
    /// Filename containing a PEM-encoded RSA or ECDSA private key used to sign certificates for the kubernetes.io/legacy-unknown signer.
    #[arg(long)]
    pub cluster_signing_legacy_unknown_key_file: Option<PathBuf>,
}

/// A certificate file and its key file.
pub(crate) type Files = (Option<PathBuf>, Option<PathBuf>);

impl Signing {
    /// The files of all signers that have none of their own, when both are given.
    pub(crate) fn default_files(&self) -> Option<Files> {
        let files = (given(&self.cluster_signing_cert_file), given(&self.cluster_signing_key_file));
        (files.0.is_some() && files.1.is_some()).then_some(files)
    }

    fn specific(&self) -> [(&'static str, Files); 4] {
        let pair = |cert: &Option<PathBuf>, key: &Option<PathBuf>| (given(cert), given(key));
        [
            (
                csr::KUBELET_SERVING,
                pair(&self.cluster_signing_kubelet_serving_cert_file, &self.cluster_signing_kubelet_serving_key_file),
            ),
            (
                csr::KUBELET_CLIENT,
                pair(&self.cluster_signing_kubelet_client_cert_file, &self.cluster_signing_kubelet_client_key_file),
            ),
            (
                csr::APISERVER_CLIENT,
                pair(
                    &self.cluster_signing_kube_apiserver_client_cert_file,
                    &self.cluster_signing_kube_apiserver_client_key_file,
                ),
            ),
            (
                csr::LEGACY_UNKNOWN,
                pair(&self.cluster_signing_legacy_unknown_cert_file, &self.cluster_signing_legacy_unknown_key_file),
            ),
        ]
    }

    /// Whether a signer has files of its own; then none uses the default ones.
    pub(crate) fn any_specific(&self) -> bool {
        self.specific().iter().any(|(_, (cert, key))| cert.is_some() || key.is_some())
    }

    /// The files of every signer.
    pub(crate) fn files(&self) -> [(&'static str, Files); 4] {
        let specific = self.specific();
        if self.any_specific() {
            return specific;
        }
        let default = self.default_files().unwrap_or_default();
        specific.map(|(name, _)| (name, default.clone()))
    }
}

/// An empty value is none, as upstream's.
fn given(path: &Option<PathBuf>) -> Option<PathBuf> {
    path.clone().filter(|path| !path.as_os_str().is_empty())
}

/// Flags about tokens of service accounts.
#[derive(Debug, Clone, Default, Args)]
pub struct Tokens {
    /// The period of time since the last usage of an legacy service account token before it can be deleted.
    #[arg(long, default_value = "8760h0m0s", value_parser = parse_go_duration)]
    pub legacy_service_account_token_clean_up_period: Duration,
}

/// `--mirroring-*`.
#[derive(Debug, Clone, Default, Args)]
pub struct Mirroring {
    /// The number of service endpoint syncing operations that will be done concurrently by the endpointslice-mirroring-controller.
    #[arg(long, default_value_t = 5)]
    pub mirroring_concurrent_service_endpoint_syncs: usize,
    /// The length of EndpointSlice updates batching period for endpointslice-mirroring-controller.
    #[arg(long, default_value = "0s", value_parser = parse_go_duration)]
    pub mirroring_endpointslice_updates_batch_period: Duration,
    /// The maximum number of endpoints that will be added to an EndpointSlice by the endpointslice-mirroring-controller.
    #[arg(long, default_value_t = 1000)]
    pub mirroring_max_endpoints_per_subset: usize,
}

/// Flags about volumes.
#[derive(Debug, Clone, Default, Args)]
pub struct Volumes {
    /// The period for syncing persistent volumes and persistent volume claims.
    #[arg(long, default_value = "15s", value_parser = parse_go_duration)]
    pub pvclaimbinder_sync_period: Duration,
    /// Enable dynamic provisioning for environments that support it.
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set)]
    pub enable_dynamic_provisioning: bool,
    /// Enable HostPath PV provisioning when running without a cloud provider (accepted, without effect: no provisioner is built in).
    #[arg(long)]
    pub enable_hostpath_provisioner: bool,
    /// Prevent force detaching volumes based on maximum unmount time and node status.
    #[arg(long)]
    pub disable_force_detach_on_timeout: bool,
    /// The number of ephemeral volume syncing operations that will be done concurrently.
    #[arg(long, default_value_t = 5)]
    pub concurrent_ephemeralvolume_syncs: usize,
    /// The number of resource claim syncing operations that will be done concurrently.
    #[arg(long, default_value_t = 10)]
    pub concurrent_resourceclaim_syncs: usize,
}
