//! Setting up all volumes of a pod. Every step may be repeated: what is there already is kept or brought up to date.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::join_all;
use k8s_openapi::api::core::v1::{Pod, PodSpec, Volume};

use super::external::{self, Problem, Resolved, Uses};
use super::ownership::{Access, Change};
use super::payload::{self, Files, Source};
use super::{Mounted, atomic, blocking, empty_dir, host_path, ownership, pod_volume_dir};
use crate::pods::spec;
use crate::pods::surroundings::field_context;
use crate::shared::Kubelet;

/// When the pod's user is told that volumes are still missing.
const PATIENCE: Duration = Duration::from_secs(123);
/// Pauses between attempts at volumes that wait for an object.
const RETRY: Duration = Duration::from_secs(2);
const RETRY_MAX: Duration = Duration::from_secs(60);

/// How a pod waits for its volumes.
#[derive(Debug, Default)]
pub(crate) struct Waiting {
    since: Option<Instant>,
    failures: u32,
}

/// What comes after an attempt.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// All volumes are there.
    Ready,
    Wait(Duration),
    /// They never will be: reason and message of the pod's end.
    Reject(&'static str, String),
}

/// What came of an attempt.
#[derive(Default)]
struct Attempt {
    mounted: HashMap<String, Mounted>,
    /// Names of those that are missing: all, those not attached, those of which it is not known what they are.
    missing: Vec<String>,
    unattached: Vec<String>,
    unprocessed: Vec<String>,
    /// Why they are not known.
    errors: Vec<String>,
    events: Vec<(&'static str, String)>,
    /// When something may have changed.
    after: Option<Duration>,
}

/// One volume's part of an attempt.
enum Outcome {
    Mounted(Mounted),
    /// It is mounted, but could not be brought up to date.
    Stale(Mounted, Option<(&'static str, String)>),
    Missing(Problem),
    Unknown(String),
}

/// Sets up the volumes that containers use. `have`: those of the last time. What there is to say about missing ones has
/// been said.
pub(crate) async fn mount_pod(
    kubelet: &Arc<Kubelet>,
    pod: &Arc<Pod>,
    have: &mut HashMap<String, Mounted>,
    waiting: &mut Waiting,
) -> Step {
    let attempt = attempt(kubelet, pod, have).await;
    kubelet.volumes.saw(spec::uid(pod));
    for (reason, message) in &attempt.events {
        kubelet.events.pod(pod, true, reason, message);
    }
    have.clone_from(&attempt.mounted);
    if attempt.missing.is_empty() {
        *waiting = Waiting::default();
        return Step::Ready;
    }
    let since = *waiting.since.get_or_insert_with(Instant::now);
    waiting.failures = (waiting.failures + 1).min(8);
    let late = since.elapsed() >= PATIENCE;
    if late {
        waiting.since = Some(Instant::now());
        if external::is_node_full(kubelet, spec::uid(pod)).await {
            let lists = lists(&attempt);
            let message = format!(
                "Node has reached its volume attachment limit, rejecting pod. {lists}: context deadline exceeded"
            );
            return Step::Reject("VolumeAttachmentLimitExceeded", message);
        }
    }
    if late || !attempt.errors.is_empty() {
        let why =
            if attempt.errors.is_empty() { "context deadline exceeded".into() } else { attempt.errors.join("; ") };
        kubelet.events.pod(pod, true, "FailedMount", &summary(&attempt, &why));
    }
    let usual = (RETRY * (1 << waiting.failures) / 2).min(RETRY_MAX);
    Step::Wait(attempt.after.map_or(usual, |after| after.min(usual)).max(Duration::from_millis(100)))
}

/// Upstream's words.
fn summary(attempt: &Attempt, why: &str) -> String {
    format!("Unable to attach or mount volumes: {}: {why}", lists(attempt))
}

fn lists(attempt: &Attempt) -> String {
    let list = |names: &[String]| {
        let mut names = names.to_vec();
        names.sort();
        names.join(" ")
    };
    format!(
        "unmounted volumes=[{}], unattached volumes=[{}], failed to process volumes=[{}]",
        list(&attempt.missing),
        list(&attempt.unattached),
        list(&attempt.unprocessed),
    )
}

/// How containers of any kind use the pod's volumes.
fn uses(spec: &PodSpec) -> HashMap<&str, Uses> {
    let mut uses: HashMap<&str, Uses> = HashMap::new();
    let containers = spec.init_containers.iter().flatten().chain(&spec.containers);
    for container in containers {
        for mount in container.volume_mounts.iter().flatten() {
            uses.entry(&mount.name).or_default().mounts = true;
        }
        for device in container.volume_devices.iter().flatten() {
            uses.entry(&device.name).or_default().devices = true;
        }
        for variable in container.env.iter().flatten() {
            let file = variable.value_from.as_ref().and_then(|source| source.file_key_ref.as_ref());
            if let Some(file) = file {
                uses.entry(&file.volume_name).or_default().mounts = true;
            }
        }
    }
    for container in spec.ephemeral_containers.iter().flatten() {
        for mount in container.volume_mounts.iter().flatten() {
            uses.entry(&mount.name).or_default().mounts = true;
        }
        for device in container.volume_devices.iter().flatten() {
            uses.entry(&device.name).or_default().devices = true;
        }
    }
    uses
}

async fn attempt(kubelet: &Arc<Kubelet>, pod: &Arc<Pod>, have: &HashMap<String, Mounted>) -> Attempt {
    let mut attempt = Attempt::default();
    let Some(pod_spec) = &pod.spec else { return attempt };
    let uses = uses(pod_spec);
    let used = pod_spec.volumes.iter().flatten().filter(|volume| uses.contains_key(volume.name.as_str()));
    let used: Vec<&Volume> = used.collect();
    if used.is_empty() {
        return attempt;
    }
    let ips: Vec<String> = kubelet
        .pods
        .get(spec::uid(pod))
        .and_then(|record| record.status.pod_ips.clone())
        .unwrap_or_default()
        .into_iter()
        .map(|ip| ip.ip)
        .collect();
    let source = Source {
        pod,
        objects: kubelet.objects.snapshot(pod).await,
        fields: field_context(kubelet, pod, &ips),
        tokens: &kubelet.tokens,
    };
    // At the same time: a driver that hangs keeps no other volume from being there.
    let work = used.iter().map(|volume| {
        let uses = uses[volume.name.as_str()];
        one(kubelet, pod, &source, volume, uses, have.get(&volume.name))
    });
    let outcomes = join_all(work).await;
    for (volume, outcome) in used.iter().zip(outcomes) {
        attempt.add(&volume.name, outcome);
    }
    attempt
}

impl Attempt {
    fn add(&mut self, name: &str, outcome: Outcome) {
        match outcome {
            Outcome::Mounted(mounted) => {
                self.mounted.insert(name.to_owned(), mounted);
            }
            Outcome::Stale(mounted, event) => {
                self.events.extend(event);
                self.mounted.insert(name.to_owned(), mounted);
            }
            Outcome::Missing(problem) => {
                self.events.extend(problem.event);
                self.missing.push(name.to_owned());
                if problem.unattached {
                    self.unattached.push(name.to_owned());
                }
                if !problem.after.is_zero() {
                    self.after = Some(self.after.map_or(problem.after, |after| after.min(problem.after)));
                }
            }
            Outcome::Unknown(error) => {
                self.missing.push(name.to_owned());
                self.unprocessed.push(name.to_owned());
                self.errors.push(error);
            }
        }
    }
}

async fn one(
    kubelet: &Arc<Kubelet>,
    pod: &Arc<Pod>,
    source: &Source<'_>,
    volume: &Volume,
    uses: Uses,
    have: Option<&Mounted>,
) -> Outcome {
    if let Some(mounted) = kept(volume, have) {
        return Outcome::Mounted(mounted.clone());
    }
    let own = match external::resolve(kubelet, pod, volume, uses).await {
        Err(error) => return Outcome::Unknown(error),
        Ok(Resolved::External(external)) => {
            return match external::ensure(kubelet, pod, external).await {
                Ok((mounted, None)) => Outcome::Mounted(mounted),
                Ok((mounted, Some(problem))) => Outcome::Stale(mounted, problem.event),
                Err(problem) => Outcome::Missing(problem),
            };
        }
        Ok(Resolved::HostPath(host, read_only)) => {
            blocking(move || {
                host_path::check(&host)?;
                Ok(Mounted::at(PathBuf::from(host.path), read_only))
            })
            .await
        }
        Ok(Resolved::Own) => mount(kubelet, source, volume).await,
    };
    match (own, have) {
        (Ok(mounted), _) => Outcome::Mounted(mounted),
        (Err(message), have) => {
            let event = ("FailedMount", format!("MountVolume.SetUp failed for volume {:?} : {message}", volume.name));
            match have {
                // Containers go on with what was there.
                Some(mounted) => Outcome::Stale(mounted.clone(), Some(event)),
                None => Outcome::Missing(Problem { event: Some(event), unattached: false, after: Duration::ZERO }),
            }
        }
    }
}

/// A volume that is left alone once it is there: what containers wrote into an emptyDir keeps its owners and modes.
fn kept<'a>(volume: &Volume, have: Option<&'a Mounted>) -> Option<&'a Mounted> {
    have.filter(|_| volume.empty_dir.is_some())
}

/// A volume that the kubelet fills, or that is the host's.
async fn mount(kubelet: &Kubelet, source: &Source<'_>, volume: &Volume) -> Result<Mounted, String> {
    let pod = source.pod;
    let uid = spec::uid(pod);
    let context = pod.spec.as_ref().and_then(|spec| spec.security_context.as_ref());
    let fs_group = context.and_then(|context| context.fs_group);
    if let Some(host) = volume.host_path.clone() {
        return blocking(move || {
            host_path::check(&host)?;
            Ok(Mounted::at(PathBuf::from(host.path), false))
        })
        .await;
    }
    if let Some(image) = volume.image.clone() {
        // Pulled when a container that mounts it starts.
        return Ok(Mounted { image: Some(image), ..Mounted::at(PathBuf::new(), true) });
    }
    if let Some(empty) = volume.empty_dir.clone() {
        let path = pod_volume_dir(&kubelet.config, uid, "empty-dir", &volume.name);
        let sizes = empty_dir::Sizes::of(pod, kubelet.node.machine.memory_bytes);
        return blocking(move || {
            empty_dir::set_up(&path, &empty, &sizes)?;
            ownership::apply(&path, fs_group, Access::Write, Change::Always)?;
            Ok(Mounted::at(path, false))
        })
        .await;
    }
    let (plugin, memory) = match volume {
        Volume { config_map: Some(_), .. } => ("configmap", false),
        Volume { secret: Some(_), .. } => ("secret", true),
        Volume { projected: Some(_), .. } => ("projected", true),
        Volume { downward_api: Some(_), .. } => ("downward-api", true),
        _ => return Err("no volume plugin matched".into()),
    };
    let files: Files = payload::collect(source, volume).await?;
    let path = pod_volume_dir(&kubelet.config, uid, plugin, &volume.name);
    blocking(move || {
        empty_dir::set_up_payload(&path, memory)?;
        let changed = atomic::write(&path, &files).map_err(|error| format!("writing {}: {error}", path.display()))?;
        if changed {
            ownership::apply(&path, fs_group, Access::Read, Change::Always)?;
        }
        Ok(Mounted::at(path, true))
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_containers_use_is_set_up() {
        let spec: PodSpec = serde_json::from_value(serde_json::json!({
            "initContainers": [{"name": "i", "volumeMounts": [{"name": "a", "mountPath": "/a"}]}],
            "containers": [{"name": "c", "volumeDevices": [{"name": "b", "devicePath": "/dev/b"}], "env": [
                {"name": "E", "valueFrom": {"fileKeyRef": {"volumeName": "f", "path": "p", "key": "k"}}}
            ]}],
            "ephemeralContainers": [{"name": "e", "volumeMounts": [{"name": "b", "mountPath": "/b"}]}],
            "volumes": [{"name": "unused"}]
        }))
        .unwrap();
        let uses = uses(&spec);
        assert_eq!(uses["a"], Uses { mounts: true, devices: false });
        assert_eq!(uses["b"], Uses { mounts: true, devices: true });
        assert!(uses.contains_key("f") && !uses.contains_key("unused"));
    }

    #[test]
    fn an_empty_dir_is_set_up_once() {
        let volume = |source: serde_json::Value| -> Volume { serde_json::from_value(source).unwrap() };
        let empty = volume(serde_json::json!({"name": "v", "emptyDir": {}}));
        let filled = volume(serde_json::json!({"name": "v", "configMap": {"name": "c"}}));
        let mounted = Mounted::at("/v".into(), false);
        assert!(kept(&empty, None).is_none() && kept(&empty, Some(&mounted)).is_some());
        assert!(kept(&filled, Some(&mounted)).is_none(), "a config map may have changed");
    }

    #[test]
    fn what_is_missing_is_told_as_upstream_tells_it() {
        let mut attempt = Attempt::default();
        attempt.add("b", Outcome::Unknown("error processing PVC default/c: PVC is not bound".into()));
        let waits = Problem { event: None, unattached: true, after: Duration::from_secs(1) };
        attempt.add("a", Outcome::Missing(waits));
        let want = "Unable to attach or mount volumes: unmounted volumes=[a b], unattached volumes=[a], failed to process volumes=[b]: error processing PVC default/c: PVC is not bound";
        assert_eq!(summary(&attempt, &attempt.errors.join("; ")), want);
        assert_eq!(attempt.after, Some(Duration::from_secs(1)));
    }
}
