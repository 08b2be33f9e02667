//! Plugins come and go: the socket that they register on, and a task that follows each.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use prometheus::{IntCounterVec, Opts};
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::Devices;
use super::plugin::Plugin;
use super::state::Registered;
use super::wire::{self, Empty, RegisterRequest};
use crate::grpc::{self, Methods};

/// Told with the UIDs of pods whose devices changed, and when the node's capacity did.
pub(crate) trait Listener: Send + Sync + 'static {
    /// A pod's devices are in another state.
    fn pod_changed(&self, uid: &str);
    /// There are more devices or fewer.
    fn capacity_changed(&self);
}

struct Registry {
    devices: Arc<Devices>,
    listener: Box<dyn Listener>,
    next: AtomicU64,
    shutdown: CancellationToken,
    registrations: IntCounterVec,
}

/// Serves the registration socket until shutdown.
pub(crate) async fn run(devices: Arc<Devices>, listener: Box<dyn Listener>, shutdown: CancellationToken) {
    let directory = devices.directory.clone();
    if let Err(error) = std::fs::create_dir_all(&directory) {
        tracing::error!(directory = %directory.display(), %error, "cannot make the device plugins' directory");
    }
    // A plugin whose socket goes registers again.
    remove_sockets(&directory);
    let socket = match grpc::listen(&directory.join("kubelet.sock")) {
        Ok(socket) => socket,
        Err(error) => {
            tracing::error!(error = %format!("{error:#}"), "device plugins cannot register");
            return;
        }
    };
    let opts = Opts::new(
        "kubelet_device_plugin_registration_total",
        "Cumulative number of device plugin registrations. Broken down by resource name.",
    );
    #[allow(clippy::expect_used, reason = "constant metric")]
    let registrations = IntCounterVec::new(opts, &["resource_name"]).expect("constant metric");
    let registrations = common::telemetry::register(registrations);
    let registry =
        Arc::new(Registry { devices, listener, next: AtomicU64::new(1), shutdown: shutdown.clone(), registrations });
    let methods = Methods::default().unary(wire::REGISTER, move |request: RegisterRequest| {
        let registry = registry.clone();
        async move { registry.register(request) }
    });
    grpc::serve(socket, methods, shutdown).await;
}

fn remove_sockets(directory: &Path) {
    use std::os::unix::fs::FileTypeExt;
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_socket())
            && let Err(error) = std::fs::remove_file(entry.path())
        {
            tracing::warn!(socket = %entry.path().display(), %error, "cannot remove an old socket");
        }
    }
}

/// A name such as `example.com/gpu`.
fn is_extended_resource(name: &str) -> bool {
    let valid = |part: &str| {
        let inner = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        !part.is_empty()
            && part.chars().all(inner)
            && part.starts_with(|c: char| c.is_ascii_alphanumeric())
            && part.ends_with(|c: char| c.is_ascii_alphanumeric())
    };
    name.split_once('/').is_some_and(|(domain, rest)| {
        valid(domain)
            && valid(rest)
            && domain != "kubernetes.io"
            && !domain.ends_with(".kubernetes.io")
            && name.len() < 253
    })
}

impl Registry {
    fn register(self: &Arc<Self>, request: RegisterRequest) -> Result<Empty, Status> {
        if request.version != wire::VERSION {
            return Err(Status::unknown(format!(
                "requested API version {:?} is not supported by kubelet. Supported version is [\"{}\"]",
                request.version,
                wire::VERSION
            )));
        }
        if !is_extended_resource(&request.resource_name) {
            return Err(Status::unknown(format!("the ResourceName {:?} is invalid", request.resource_name)));
        }
        // The socket is in our directory, whatever the plugin says.
        let Some(file) = Path::new(&request.endpoint).file_name() else {
            return Err(Status::unknown(format!("the endpoint {:?} is invalid", request.endpoint)));
        };
        tracing::info!(
            resource = request.resource_name,
            endpoint = request.endpoint,
            "got a device plugin's registration"
        );
        self.registrations.with_label_values(&[&request.resource_name]).inc();
        let plugin = Plugin::new(&self.devices.directory.join(file));
        let registry = self.clone();
        let resource = request.resource_name;
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        tokio::spawn(async move {
            let shutdown = registry.shutdown.clone();
            tokio::select! {
                () = registry.follow(&resource, plugin, number) => {}
                () = shutdown.cancelled() => {}
            }
        });
        Ok(Empty {})
    }

    /// Takes the plugin's lists until it is away.
    async fn follow(&self, resource: &str, plugin: Plugin, number: u64) {
        if let Err(error) = self.lists(resource, plugin, number).await {
            tracing::warn!(resource, error, "a device plugin has gone");
        }
        let pods = self.devices.disconnected(resource, number);
        pods.iter().for_each(|uid| self.listener.pod_changed(uid));
        self.listener.capacity_changed();
    }

    async fn lists(&self, resource: &str, plugin: Plugin, number: u64) -> Result<(), String> {
        let options =
            plugin.options().await.map_err(|error| format!("failed to get device plugin options: {error}"))?;
        let mut lists = plugin.watch().await.map_err(|error| error.to_string())?;
        self.devices.connected(resource, Registered { plugin, options, number });
        while let Some(list) = lists.message().await.map_err(|status| status.to_string())? {
            let pods = self.devices.update(resource, number, list.devices);
            pods.iter().for_each(|uid| self.listener.pod_changed(uid));
            self.listener.capacity_changed();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn names_of_resources() {
        for (name, good) in [
            ("example.com/gpu", true),
            ("example.com/gpu-1.x", true),
            ("gpu", false),
            ("kubernetes.io/gpu", false),
            ("x.kubernetes.io/gpu", false),
            ("example.com/", false),
            ("example.com/-x", false),
        ] {
            assert_eq!(super::is_extended_resource(name), good, "{name}");
        }
    }
}
