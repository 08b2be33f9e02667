//! Builds the server from its configuration: opens the store, loads keys, wires the parts.

use std::{collections::HashMap, path::Path, sync::Arc};

use anyhow::{Context, anyhow};
use arc_swap::ArcSwap;
use common::serving::{Health, Ops, ZPages};
use tokio_util::sync::CancellationToken;

use super::{ApiServer, Registry, edge::Edge, inflight::Inflight, registry::Backends as Stores};
use crate::{
    admission::{Chain, configuration::Configurations},
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
    flowcontrol::FlowControl,
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

/// Paths that are no API.
const PATHS: [&str; 12] = [
    "/.well-known/openid-configuration",
    "/debug/api_priority_and_fairness/dump_priority_levels",
    "/flagz",
    "/healthz",
    "/livez",
    "/metrics",
    "/openapi/v2",
    "/openapi/v3",
    "/openid/v1/jwks",
    "/readyz",
    "/statusz",
    "/version",
];

/// Opens the stores that the flags ask for.
pub async fn open_stores(options: &Options) -> anyhow::Result<Stores> {
    let storage = &options.storage;
    let main = if storage.etcd_servers.is_empty() {
        let embedded = EmbeddedOptions {
            directory: storage.data_dir.clone(),
            compaction_interval: storage.etcd_compaction_interval,
        };
        embedded::open(embedded).await?
    } else {
        connect(options, storage.etcd_servers.clone()).await?
    };
    let mut overrides = HashMap::new();
    let mut connected: HashMap<Vec<String>, Arc<dyn Store>> = HashMap::new();
    for (group, plural, servers) in options.etcd_overrides().map_err(|e| anyhow!(e))? {
        let store = match connected.get(&servers) {
            Some(store) => Arc::clone(store),
            None => connect(options, servers.clone()).await?,
        };
        connected.insert(servers, Arc::clone(&store));
        overrides.insert((group, plural), store);
    }
    Ok(Stores { main, overrides })
}

async fn connect(options: &Options, servers: Vec<String>) -> anyhow::Result<Arc<dyn Store>> {
    let storage = &options.storage;
    let etcd = EtcdOptions {
        prefix: storage.etcd_prefix.clone(),
        ca_file: storage.etcd_cafile.clone(),
        cert_file: storage.etcd_certfile.clone(),
        key_file: storage.etcd_keyfile.clone(),
        compaction_interval: storage.etcd_compaction_interval,
        ..EtcdOptions::new(servers)
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
        "application/yaml" => Ok(StorageMediaType::Yaml),
        other => Err(anyhow!(
            "--storage-media-type {other:?} invalid, allowed values: application/json, application/yaml, application/vnd.kubernetes.protobuf"
        )),
    }
}

/// Puts encryption at rest in front of the stores if the flags ask for it; hands back what to ask for its health.
pub async fn encrypted(
    options: &Options,
    stores: Stores,
    shutdown: &CancellationToken,
) -> anyhow::Result<(Stores, Option<Arc<ArcSwap<Ring>>>)> {
    let storage = &options.storage;
    let Some(path) = &storage.encryption_provider_config else { return Ok((stores, None)) };
    let reloader = Reloader::load(path.clone()).await.context("--encryption-provider-config")?;
    let ring = Arc::clone(&reloader.ring);
    if storage.encryption_provider_config_automatic_reload {
        tokio::spawn(reloader.run(shutdown.clone()));
    }
    let encrypt = |store: Arc<dyn Store>| -> Arc<dyn Store> {
        Arc::new(Encrypted::new(store, &storage.etcd_prefix, Arc::clone(&ring)))
    };
    let overrides = stores.overrides.into_iter().map(|(resource, store)| (resource, encrypt(store))).collect();
    Ok((Stores { main: encrypt(stores.main), overrides }, Some(ring)))
}

/// Wires the server.
pub async fn build(
    config: Config,
    stores: Stores,
    health: Health,
    shutdown: CancellationToken,
) -> anyhow::Result<ApiServer> {
    let config = Arc::new(config);
    let stopped = CancellationToken::new();
    let options = &config.options;
    let modes = Mode::parse_all(&options.authorization.authorization_mode).map_err(|e| anyhow!(e))?;
    let plugins = &options.admission;
    let configurations = plugins.admission_control_config_file.as_deref().map(Configurations::read).transpose();
    let configurations = configurations.map_err(|e| anyhow!(e))?.unwrap_or_default();
    let admission = Chain::new(&plugins.enable_admission_plugins, &plugins.disable_admission_plugins, &configurations)
        .map_err(|e| anyhow!(e))?;
    let registry = Registry::new(
        stores,
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
        ops: Ops { zpages: Some(ZPages::new("apiserver", &PATHS)), ..Ops::new(health.clone()) },
        health,
        edge: Edge::new(options).map_err(|e| anyhow!(e))?,
        audit: options.audit.open().await?.map(Arc::new),
        flow_control: flow_control(options),
        inflight: if options.limits.enable_priority_and_fairness {
            Inflight::new(0, 0)
        } else {
            Inflight::new(options.limits.max_requests_inflight, options.limits.max_mutating_requests_inflight)
        },
        shutdown,
        draining: CancellationToken::new(),
        ending: CancellationToken::new(),
        ended: std::sync::OnceLock::new(),
        stopped,
        config: Arc::clone(&config),
    })
}

fn flow_control(options: &Options) -> Option<Arc<FlowControl>> {
    let limits = &options.limits;
    let seats = limits.max_requests_inflight.saturating_add(limits.max_mutating_requests_inflight);
    let seats = u32::try_from(seats).unwrap_or(u32::MAX);
    limits.enable_priority_and_fairness.then(|| Arc::new(FlowControl::new(seats)))
}

fn discovery(config: &Arc<Config>) -> Discovery {
    let (versions, resources) = (Arc::clone(config), Arc::clone(config));
    Discovery::new(discovery::Options {
        group_version: Arc::new(move |version| versions.serves(version)),
        resource: Arc::new(move |resource| resources.serves_resource(resource)),
        server_address: format!("{}:{}", config.advertise_address, config.options.serving.secure_port),
        paths: PATHS.map(str::to_owned).to_vec(),
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
