//! Builds the server from its configuration: opens the store, loads keys, wires the parts.

use std::{path::Path, sync::Arc};

use anyhow::{Context, anyhow};
use arc_swap::ArcSwap;
use common::serving::{Health, Ops};
use tokio_util::sync::CancellationToken;

use super::{ApiServer, Registry, edge::Edge, inflight::Inflight};
use crate::{
    admission::Chain,
    authn::{
        Authenticator,
        keys::{SigningKey, load_public},
        request_header::RequestHeader,
        service_account::{Issuer, TokenVerifier},
        token_file::TokenFile,
    },
    authz::{Authorizer, Mode},
    bootstrap,
    discovery::{self, Discovery},
    openapi::OpenApi,
    options::{Config, Options},
    proxy::{Backends, KubeletOptions},
    storage::{
        Store,
        codec::StorageMediaType,
        embedded::{self, EmbeddedOptions},
        encryption::{Encrypted, Reloader, Ring},
        etcd::{self, EtcdOptions},
    },
};

/// Opens the store that the flags ask for.
pub async fn open_store(options: &Options) -> anyhow::Result<Arc<dyn Store>> {
    let storage = &options.storage;
    if storage.etcd_servers.is_empty() {
        let embedded = EmbeddedOptions {
            directory: storage.data_dir.clone(),
            compaction_interval: storage.etcd_compaction_interval,
        };
        return Ok(embedded::open(embedded).await?);
    }
    let etcd = EtcdOptions {
        prefix: storage.etcd_prefix.clone(),
        ca_file: storage.etcd_cafile.clone(),
        cert_file: storage.etcd_certfile.clone(),
        key_file: storage.etcd_keyfile.clone(),
        compaction_interval: storage.etcd_compaction_interval,
        ..EtcdOptions::new(storage.etcd_servers.clone())
    };
    Ok(etcd::connect(etcd).await?)
}

/// Upstream's default in etcd; the embedded store keeps the form that the cache needs.
fn storage_media_type(options: &Options) -> anyhow::Result<StorageMediaType> {
    let embedded = options.storage.etcd_servers.is_empty();
    match options.storage.storage_media_type.as_deref().unwrap_or_default() {
        "" if embedded => Ok(StorageMediaType::Json),
        "" | "application/vnd.kubernetes.protobuf" => Ok(StorageMediaType::Protobuf),
        "application/json" => Ok(StorageMediaType::Json),
        other => Err(anyhow!(
            "--storage-media-type {other:?} invalid, allowed values: application/json, application/vnd.kubernetes.protobuf"
        )),
    }
}

/// Puts encryption at rest in front of a store if the flags ask for it; hands back what to ask for its health.
pub async fn encrypted(
    options: &Options,
    store: Arc<dyn Store>,
    shutdown: &CancellationToken,
) -> anyhow::Result<(Arc<dyn Store>, Option<Arc<ArcSwap<Ring>>>)> {
    let storage = &options.storage;
    let Some(path) = &storage.encryption_provider_config else { return Ok((store, None)) };
    let reloader = Reloader::load(path.clone()).await.context("--encryption-provider-config")?;
    let ring = Arc::clone(&reloader.ring);
    if storage.encryption_provider_config_automatic_reload {
        tokio::spawn(reloader.run(shutdown.clone()));
    }
    Ok((Arc::new(Encrypted::new(store, &storage.etcd_prefix, Arc::clone(&ring))), Some(ring)))
}

/// Wires the server.
pub fn build(
    config: Config,
    store: Arc<dyn Store>,
    health: Health,
    shutdown: CancellationToken,
) -> anyhow::Result<ApiServer> {
    let config = Arc::new(config);
    let stopped = CancellationToken::new();
    let options = &config.options;
    let modes = Mode::parse_all(&options.authorization.authorization_mode).map_err(|e| anyhow!(e))?;
    let admission =
        Chain::new(&options.admission.enable_admission_plugins, &options.admission.disable_admission_plugins)
            .map_err(|e| anyhow!(e))?;
    let registry = Registry::new(
        store,
        &options.storage.etcd_prefix,
        storage_media_type(options)?,
        options.storage.event_ttl,
        |resource| config.serves_resource(resource),
        &stopped,
    );
    let (authenticator, issuer) = authentication(options, &config.api_audiences)?;
    let backends = Backends::new(&KubeletOptions {
        certificate_authority: options.kubelet.kubelet_certificate_authority.clone(),
        client_certificate: options.kubelet.kubelet_client_certificate.clone(),
        client_key: options.kubelet.kubelet_client_key.clone(),
        preferred_address_types: options.kubelet.kubelet_preferred_address_types.clone(),
    })?;
    Ok(ApiServer {
        registry: Arc::new(registry),
        allocators: tokio::sync::OnceCell::new(),
        authenticator,
        authorizer: Authorizer::new(modes, bootstrap::node_rules()),
        admission,
        issuer,
        discovery: discovery(&config),
        openapi: {
            let config = Arc::clone(&config);
            OpenApi::new(Arc::new(move |version| config.serves(version)))
        },
        backends,
        ops: Ops::new(health.clone()),
        health,
        edge: Edge::new(options).map_err(|e| anyhow!(e))?,
        inflight: Inflight::new(options.limits.max_requests_inflight, options.limits.max_mutating_requests_inflight),
        shutdown,
        draining: CancellationToken::new(),
        ending: CancellationToken::new(),
        ended: std::sync::OnceLock::new(),
        stopped,
        config: Arc::clone(&config),
    })
}

fn discovery(config: &Arc<Config>) -> Discovery {
    let (versions, resources) = (Arc::clone(config), Arc::clone(config));
    let paths =
        ["/healthz", "/livez", "/readyz", "/metrics", "/openapi/v2", "/openapi/v3", "/openid/v1/jwks", "/version"];
    Discovery::new(discovery::Options {
        group_version: Arc::new(move |version| versions.serves(version)),
        resource: Arc::new(move |resource| resources.serves_resource(resource)),
        server_address: format!("{}:{}", config.advertise_address, config.options.serving.secure_port),
        paths: paths.map(str::to_owned).to_vec(),
    })
}

fn authentication(options: &Options, audiences: &[String]) -> anyhow::Result<(Authenticator, Option<Issuer>)> {
    let flags = &options.authentication;
    let mut keys = Vec::new();
    for path in &flags.service_account_key_file {
        keys.extend(load_public(path).context("failed to parse --service-account-key-file")?);
    }
    let signing = flags.service_account_signing_key_file.as_deref().map(load_signing).transpose()?;
    if let (true, Some(key)) = (keys.is_empty(), &signing) {
        keys.push(key.public.clone());
    }
    let issuers = flags.service_account_issuer.clone();
    let issuer = match (signing, issuers.first()) {
        (Some(key), Some(issuer)) => Some(Issuer { issuer: issuer.clone(), key }),
        (Some(_), None) => return Err(anyhow!("service-account-issuer is a required flag")),
        _ => None,
    };
    let token_file = flags.token_auth_file.as_deref().map(TokenFile::load).transpose();
    let authenticator = Authenticator {
        request_header: flags.requestheader_client_ca_file.as_ref().map(|_| RequestHeader {
            allowed_names: flags.requestheader_allowed_names.clone(),
            username_headers: flags.requestheader_username_headers.clone(),
            uid_headers: flags.requestheader_uid_headers.clone(),
            group_headers: flags.requestheader_group_headers.clone(),
            extra_prefixes: flags.requestheader_extra_headers_prefix.clone(),
        }),
        token_file: token_file.map_err(|e| anyhow!("--token-auth-file: {e}"))?,
        service_accounts: (!keys.is_empty()).then(|| TokenVerifier { issuers, keys, audiences: audiences.to_vec() }),
        bootstrap_tokens: flags.enable_bootstrap_token_auth,
        anonymous: flags.anonymous_auth,
    };
    Ok((authenticator, issuer))
}

fn load_signing(path: &Path) -> anyhow::Result<SigningKey> {
    SigningKey::load(path).context("failed to parse --service-account-signing-key-file")
}
