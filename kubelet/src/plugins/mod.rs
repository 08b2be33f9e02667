//! Plugins of the node: sockets below `plugins_registry` are asked what they are and handed to who takes their type.
//!
//! ```text
//!  socket appears ──> GetInfo ──> handler of the type: validate, register ──> told so ──> socket goes: deregister
//!                        └────────── fails: told so, again later ─────────┘
//! ```
//! Each socket has a task of its own: a plugin that hangs keeps no other from registering.

mod scan;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::RwLock;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::rpc::Socket;
use crate::wire::registration::{self as wire, InfoRequest, PluginInfo, RegistrationStatus};
use scan::{Identity, Watch};

/// How long a plugin may take to say what it is.
const INFO_PATIENCE: Duration = Duration::from_secs(1);
/// How long it may take to hear what came of it.
const NOTIFY_PATIENCE: Duration = Duration::from_secs(5);
const RETRY: Duration = Duration::from_millis(500);
const RETRY_MAX: Duration = Duration::from_secs(122);

/// A plugin as it describes itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Plugin {
    pub(crate) name: String,
    /// Socket that it serves on.
    pub(crate) endpoint: PathBuf,
    pub(crate) versions: Vec<String>,
}

/// Takes the plugins of one type.
#[async_trait]
pub(crate) trait Handler: Send + Sync {
    /// Whether it can be used at all.
    async fn validate(&self, plugin: &Plugin) -> Result<(), String>;
    /// From now on it may be used.
    async fn register(&self, plugin: &Plugin) -> Result<(), String>;
    /// It is gone.
    async fn deregister(&self, plugin: &Plugin);
}

/// Handlers by the type that they take: `CSIPlugin`, `DevicePlugin`, `DRAPlugin`.
#[derive(Default)]
pub(crate) struct Plugins {
    handlers: RwLock<HashMap<&'static str, Arc<dyn Handler>>>,
}

impl Plugins {
    /// Plugins of this type go to `handler`.
    pub(crate) fn handle(&self, kind: &'static str, handler: Arc<dyn Handler>) {
        self.handlers.write().insert(kind, handler);
    }

    fn handler(&self, kind: &str) -> Option<Arc<dyn Handler>> {
        self.handlers.read().get(kind).cloned()
    }
}

struct Known {
    identity: Identity,
    gone: CancellationToken,
    task: JoinHandle<()>,
}

/// Looks after the plugins of a directory until shutdown; they stay registered with who asks them next.
pub(crate) async fn run(plugins: Arc<Plugins>, directory: PathBuf, shutdown: CancellationToken) {
    if let Err(error) = std::fs::create_dir_all(&directory) {
        tracing::error!(directory = %directory.display(), %error, "cannot make the directory of plugins' sockets");
    }
    let mut watch = Watch::default();
    let mut known: HashMap<PathBuf, Known> = HashMap::new();
    loop {
        let found = watch.scan(&directory).await;
        let lost: Vec<PathBuf> = known.keys().filter(|path| !found.contains_key(*path)).cloned().collect();
        for path in lost {
            if let Some(known) = known.remove(&path) {
                tracing::info!(socket = %path.display(), "a plugin's socket is gone");
                known.gone.cancel();
            }
        }
        for (path, identity) in found {
            if known.get(&path).is_some_and(|known| known.identity == identity) {
                continue;
            }
            let before = known.remove(&path).map(|before| {
                before.gone.cancel();
                before.task
            });
            let gone = CancellationToken::new();
            let life = live(plugins.clone(), path.clone(), before, gone.clone());
            let until = shutdown.clone();
            let task = tokio::spawn(async move {
                tokio::select! {
                    () = life => {}
                    () = until.cancelled() => {}
                }
            });
            known.insert(path, Known { identity, gone, task });
        }
        tokio::select! {
            () = watch.changed() => {}
            () = shutdown.cancelled() => return,
        }
    }
}

/// One socket, from its appearance until it is gone.
async fn live(plugins: Arc<Plugins>, path: PathBuf, before: Option<JoinHandle<()>>, gone: CancellationToken) {
    if let Some(before) = before {
        let _ = before.await;
    }
    let mut pause = RETRY;
    loop {
        // Registered at the moment when the socket goes, the plugin must still be deregistered: not broken off.
        match register(&plugins, &path).await {
            Ok((plugin, handler)) => {
                tracing::info!(name = plugin.name, socket = %path.display(), "registered a plugin");
                gone.cancelled().await;
                handler.deregister(&plugin).await;
                return;
            }
            Err(error) => tracing::warn!(socket = %path.display(), error, "cannot register a plugin, will retry"),
        }
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = gone.cancelled() => return,
        }
        pause = (pause * 2).min(RETRY_MAX);
    }
}

async fn register(plugins: &Plugins, path: &Path) -> Result<(Plugin, Arc<dyn Handler>), String> {
    let socket = Socket::new(path);
    let info: PluginInfo = socket.call(wire::GET_INFO, InfoRequest {}, INFO_PATIENCE).await.map_err(|error| {
        let at = path.display();
        format!("RegisterPlugin error -- failed to get plugin info using RPC GetInfo at socket {at}, err: {error}")
    })?;
    let outcome = hand_over(plugins, path, info).await;
    let status = match &outcome {
        Ok(_) => RegistrationStatus { plugin_registered: true, error: String::new() },
        Err(error) => RegistrationStatus { plugin_registered: false, error: error.clone() },
    };
    let told: Result<wire::RegistrationStatusResponse, _> = socket.call(wire::NOTIFY, status, NOTIFY_PATIENCE).await;
    match (outcome, told) {
        (Ok((plugin, handler)), Err(error)) => {
            handler.deregister(&plugin).await;
            let at = path.display();
            Err(format!("RegisterPlugin error -- failed to send registration status at socket {at}, err: {error}"))
        }
        (outcome, _) => outcome,
    }
}

async fn hand_over(plugins: &Plugins, path: &Path, info: PluginInfo) -> Result<(Plugin, Arc<dyn Handler>), String> {
    let Some(handler) = plugins.handler(&info.r#type) else {
        let (kind, at) = (info.r#type, path.display());
        return Err(format!("RegisterPlugin error -- no handler registered for plugin type: {kind} at socket {at}"));
    };
    let endpoint = if info.endpoint.is_empty() { path.to_owned() } else { PathBuf::from(info.endpoint) };
    let plugin = Plugin { name: info.name, endpoint, versions: info.supported_versions };
    handler
        .validate(&plugin)
        .await
        .map_err(|error| format!("RegisterPlugin error -- plugin validation failed with err: {error}"))?;
    handler
        .register(&plugin)
        .await
        .map_err(|error| format!("RegisterPlugin error -- plugin registration failed with err: {error}"))?;
    Ok((plugin, handler))
}
