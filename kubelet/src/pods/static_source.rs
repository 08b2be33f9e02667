//! Static pods: YAML or JSON files of a directory (or one file), watched with inotify and re-read now and then.
//! A broken file is named in the log and leaves the others alone.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Pod, Toleration};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use tokio::net::unix::pipe;
use tokio_util::sync::CancellationToken;

use super::{defaults, spec};
use crate::shared::Kubelet;

const MAX_FILE: u64 = 10 * 1024 * 1024;

/// Where static pods come from, as annotations tell it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    File,
    Url,
}

impl Source {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::File => "file",
            Self::Url => "http",
        }
    }
}

/// Feeds static pods to the manager until shutdown.
pub(crate) async fn run(kubelet: Arc<Kubelet>, shutdown: CancellationToken) {
    let path = PathBuf::from(&kubelet.config.file.static_pod_path);
    if path.as_os_str().is_empty() {
        kubelet.pods.replace_static(Source::File, Vec::new());
        return;
    }
    tracing::info!(path = %path.display(), "adding static pod path");
    let period = kubelet.config.file.file_check_frequency.0.max(Duration::from_secs(1));
    let mut watch = watch(&path);
    loop {
        let node = kubelet.config.node_name.clone();
        let from = path.clone();
        match tokio::task::spawn_blocking(move || read_all(&from, &node)).await {
            Ok(Ok(pods)) => kubelet.pods.replace_static(Source::File, pods),
            Ok(Err(error)) => tracing::error!(path = %path.display(), %error, "unable to read the static pod path"),
            Err(error) => tracing::error!(%error, "reading static pods failed"),
        }
        tokio::select! {
            () = changed(&watch) => tokio::time::sleep(Duration::from_millis(100)).await,
            () = tokio::time::sleep(period) => {}
            () = shutdown.cancelled() => return,
        }
        drain(&watch);
        if watch.is_none() {
            watch = self::watch(&path);
        }
    }
}

/// inotify's descriptor reads like a pipe's.
struct Watch {
    _inotify: Inotify,
    events: pipe::Receiver,
}

fn watch(path: &Path) -> Option<Watch> {
    use std::os::fd::AsFd;
    let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC).ok()?;
    let events = AddWatchFlags::IN_CREATE
        | AddWatchFlags::IN_CLOSE_WRITE
        | AddWatchFlags::IN_MOVE
        | AddWatchFlags::IN_DELETE
        | AddWatchFlags::IN_ATTRIB;
    inotify.add_watch(path, events).ok()?;
    let descriptor = inotify.as_fd().try_clone_to_owned().ok()?;
    let events = pipe::Receiver::from_owned_fd_unchecked(descriptor).ok()?;
    Some(Watch { _inotify: inotify, events })
}

async fn changed(watch: &Option<Watch>) {
    match watch {
        Some(watch) => {
            let _ = watch.events.readable().await;
        }
        None => std::future::pending().await,
    }
}

fn drain(watch: &Option<Watch>) {
    if let Some(watch) = watch {
        let mut buffer = [0; 4096];
        while watch.events.try_read(&mut buffer).is_ok_and(|read| read > 0) {}
    }
}

fn read_all(path: &Path, node: &str) -> std::io::Result<Vec<Pod>> {
    let mut files = Vec::new();
    match std::fs::metadata(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
        Ok(metadata) if metadata.is_dir() => {
            for entry in std::fs::read_dir(path)? {
                let file = entry?.path();
                let hidden = file.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'));
                if !hidden && file.is_file() {
                    files.push(file);
                }
            }
        }
        Ok(_) => files.push(path.to_path_buf()),
    }
    files.sort();
    let mut pods: Vec<Pod> = Vec::new();
    for file in files {
        match read_file(&file, node) {
            Ok(pod) if pods.iter().any(|other| other.metadata.uid == pod.metadata.uid) => {
                tracing::error!(file = %file.display(), "a static pod of the same UID was read from another file");
            }
            Ok(pod) => pods.push(pod),
            Err(error) => tracing::error!(file = %file.display(), %error, "cannot use the static pod file"),
        }
    }
    Ok(pods)
}

fn read_file(file: &Path, node: &str) -> Result<Pod, String> {
    let size = std::fs::metadata(file).map_err(|error| error.to_string())?.len();
    if size > MAX_FILE {
        return Err(format!("the file has {size} bytes, more than {MAX_FILE}"));
    }
    let text = std::fs::read_to_string(file).map_err(|error| error.to_string())?;
    decode(&text, &file.to_string_lossy(), node)
}

/// Turns a manifest into a runnable pod with upstream's derived name, UID and annotations.
pub(crate) fn decode(text: &str, origin: &str, node: &str) -> Result<Pod, String> {
    let tree: serde_json::Value = serde_saphyr::from_str(text).map_err(|error| format!("not valid YAML: {error}"))?;
    let kind = (tree["apiVersion"].as_str(), tree["kind"].as_str());
    if kind != (Some("v1"), Some("Pod")) {
        return Err(format!("want apiVersion v1 and kind Pod, found {:?} and {:?}", kind.0, kind.1));
    }
    let pod: Pod = serde_json::from_value(tree).map_err(|error| format!("not a valid Pod: {error}"))?;
    settle(pod, text, (Source::File, origin), node)
}

/// Gives a pod its place on this node; `text` tells its versions apart.
pub(crate) fn settle(mut pod: Pod, text: &str, (source, origin): (Source, &str), node: &str) -> Result<Pod, String> {
    check(&pod)?;
    let digest = ring::digest::digest(&ring::digest::SHA256, format!("{node}\0{origin}\0{text}").as_bytes());
    let hash: String = digest.as_ref().iter().take(16).map(|byte| format!("{byte:02x}")).collect();
    let uid = pod.metadata.uid.clone().filter(|uid| !uid.is_empty()).unwrap_or_else(|| hash.clone());
    pod.metadata.uid = Some(uid.clone());
    pod.metadata.name = Some(format!("{}-{node}", spec::name(&pod)));
    pod.metadata.namespace.get_or_insert_with(|| "default".into());
    let annotations = pod.metadata.annotations.get_or_insert_default();
    annotations.insert(spec::CONFIG_SOURCE.into(), source.name().into());
    annotations.insert(spec::CONFIG_HASH.into(), uid);
    annotations.insert(spec::CONFIG_SEEN.into(), jiff::Timestamp::now().to_string());
    let pod_spec = pod.spec.get_or_insert_default();
    pod_spec.node_name = Some(node.to_owned());
    pod_spec.tolerations.get_or_insert_default().push(Toleration {
        operator: Some("Exists".into()),
        effect: Some("NoExecute".into()),
        ..Toleration::default()
    });
    pod.status = None;
    defaults::apply(&mut pod);
    Ok(pod)
}

fn check(pod: &Pod) -> Result<(), String> {
    let name = spec::name(pod);
    let label = |text: &str| {
        let good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '.';
        !text.is_empty() && text.len() <= 253 && text.chars().all(good) && !text.starts_with(['-', '.'])
    };
    if !label(name) {
        return Err(format!("metadata.name {name:?} is not a valid pod name"));
    }
    let Some(spec) = pod.spec.as_ref().filter(|spec| !spec.containers.is_empty()) else {
        return Err("spec.containers: at least one container is required".into());
    };
    for container in spec.init_containers.iter().flatten().chain(&spec.containers) {
        if !label(&container.name) {
            return Err(format!("container name {:?} is not valid", container.name));
        }
        if container.image.as_deref().unwrap_or_default().is_empty() {
            return Err(format!("container {:?} has no image", container.name));
        }
    }
    let needs_api =
        |volume: &k8s_openapi::api::core::v1::Volume| volume.config_map.is_some() || volume.secret.is_some();
    if spec.volumes.iter().flatten().any(needs_api) {
        return Err("static pods may not reference configmaps or secrets".into());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str =
        "apiVersion: v1\nkind: Pod\nmetadata: {name: web}\nspec:\n  containers: [{name: c, image: busybox:1}]\n";

    #[test]
    fn a_manifest_becomes_a_pod_of_this_node() {
        let pod = decode(GOOD, "/m/web.yaml", "n1").expect("pod");
        assert_eq!(spec::name(&pod), "web-n1");
        assert_eq!(spec::namespace(&pod), "default");
        assert_eq!(spec::uid(&pod).len(), 32);
        assert!(spec::is_static(&pod) && !spec::is_mirror(&pod));
        let again = decode(GOOD, "/m/web.yaml", "n1").expect("pod");
        assert_eq!(spec::uid(&pod), spec::uid(&again));
        assert_ne!(spec::uid(&pod), spec::uid(&decode(&GOOD.replace(":1", ":2"), "/m/web.yaml", "n1").expect("pod")));
    }

    #[test]
    fn broken_manifests_say_what_is_wrong() {
        for (text, part) in [
            ("kind: [", "YAML"),
            ("apiVersion: v1\nkind: Service\n", "kind Pod"),
            ("apiVersion: v1\nkind: Pod\nmetadata: {name: X}\nspec: {containers: []}\n", "metadata.name"),
            ("apiVersion: v1\nkind: Pod\nmetadata: {name: x}\nspec: {containers: []}\n", "at least one container"),
        ] {
            let error = decode(text, "f", "n").expect_err(text);
            assert!(error.contains(part), "{error}");
        }
    }
}
