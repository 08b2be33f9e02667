//! In-place resize (KEP-1287) of containers' CPU and memory: what the spec wishes is promised when it fits on the node, and what
//! is promised is then given to the running containers, or to their successors where the resize policy asks for a restart.

mod record;

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Container, Pod, PodCondition};
use serde_json::json;

use super::actions::{Actions, Kill};
use super::worker::Worker;
use super::{admission, spec};
use crate::quantity;
use crate::runtime::resources::{self, Qos};
use crate::runtime::{ContainerView, PodRuntime};
pub(crate) use record::{ByContainer, Record};

const PENDING: &str = "PodResizePending";
const IN_PROGRESS: &str = "PodResizeInProgress";

/// How far a pod's resize is.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    pending: Option<Note>,
    in_progress: Option<Note>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Note {
    reason: &'static str,
    message: String,
    generation: Option<i64>,
}

/// The types of the conditions that a resize has.
pub(super) fn is_condition(type_: &str) -> bool {
    matches!(type_, PENDING | IN_PROGRESS)
}

impl Progress {
    /// The conditions that tell of it; those of a resize that is over are not there.
    pub(super) fn conditions(&self) -> Vec<PodCondition> {
        let notes = [(PENDING, &self.pending), (IN_PROGRESS, &self.in_progress)];
        let notes = notes.into_iter().filter_map(|(type_, note)| note.as_ref().map(|note| (type_, note)));
        notes
            .map(|(type_, note)| PodCondition {
                type_: type_.into(),
                status: "True".into(),
                reason: (!note.reason.is_empty()).then(|| note.reason.to_owned()),
                message: (!note.message.is_empty()).then(|| note.message.clone()),
                observed_generation: note.generation,
                ..PodCondition::default()
            })
            .collect()
    }
}

/// A running container whose cgroup differs from what was promised.
struct Change {
    container: Container,
    view: ContainerView,
    restart: bool,
    shrinks: bool,
}

impl Worker {
    /// Takes a version of the pod, with the resources that were promised in place of those it wishes for.
    pub(super) fn take(&mut self, pod: Arc<Pod>) {
        self.pod = record::overlay(&pod, &self.resources.allocated);
        self.desired = pod;
        self.entry.set_allocated(self.pod.clone());
    }

    /// Promises what a new pod asks for; of one that runs already, of an older kubelet, what it asks for is what it has.
    pub(super) fn promise_all(&mut self, runtime: &PodRuntime) {
        if !self.resources.allocated.is_empty() {
            return;
        }
        let all = record::of(&self.desired);
        let runs = |name: &String| runtime.running().any(|view| view.name == *name);
        self.resources.actuated =
            all.iter().filter(|(name, _)| runs(name)).map(|(n, r)| (n.clone(), r.clone())).collect();
        self.resources.allocated = all;
        self.save_resources();
    }

    /// Promises what the spec wishes for now, if the node has it.
    pub(super) fn reconsider(&mut self) {
        let wish = record::of(&self.desired);
        let same = |(name, wanted): (&String, _)| {
            self.resources.allocated.get(name).is_some_and(|have| record::differences(have, wanted).is_empty())
        };
        if wish.iter().all(same) {
            self.progress.pending = None;
            return;
        }
        let generation = self.desired.metadata.generation;
        let guaranteed = self.desired.spec.as_ref().is_some_and(|spec| resources::qos(spec) == Qos::Guaranteed);
        let pinned = self.kubelet.placement.forbids_resize().filter(|_| guaranteed);
        let fits = match pinned {
            Some(message) => Err(("Infeasible", message.to_owned())),
            None => admission::fits(&self.kubelet, &self.desired),
        };
        if let Err((reason, message)) = fits {
            let note = Note { reason, message, generation };
            let told = self.progress.pending.as_ref().is_some_and(|p| p.reason == reason && p.generation == generation);
            if !told {
                let text = format!("Pod resize {reason}: {}", summary(&self.desired, &note.message));
                self.kubelet.events.pod(&self.desired, true, &format!("Resize{reason}"), &text);
            }
            self.progress.pending = Some(note);
            return;
        }
        self.resources.allocated = wish;
        self.save_resources();
        self.progress.pending = None;
        self.progress.in_progress = Some(Note { reason: "", message: String::new(), generation });
        let text = format!("Pod resize started: {}", summary(&self.desired, ""));
        self.kubelet.events.pod(&self.desired, false, "ResizeStarted", &text);
        self.take(self.desired.clone());
    }

    /// Whether a wish waits for room.
    pub(super) fn resize_waits(&self) -> bool {
        self.progress.pending.is_some()
    }

    /// The pod with the resources that its cgroups have, when these are not yet the promised ones.
    pub(super) fn before_resize(&self) -> Option<Arc<Pod>> {
        let before = record::overlay(&self.pod, &self.resources.actuated);
        (!Arc::ptr_eq(&before, &self.pod)).then_some(before)
    }

    /// A container started with what was promised.
    pub(super) fn note_started(&mut self, container: &Container) {
        let resources = container.resources.clone().unwrap_or_default();
        if self.resources.actuated.get(&container.name) != Some(&resources) {
            self.resources.actuated.insert(container.name.clone(), resources);
            self.save_resources();
        }
    }

    fn save_resources(&self) {
        let directory = self.kubelet.config.pod_dir(&self.uid);
        let saved = std::fs::create_dir_all(&directory).and_then(|()| self.resources.save(&directory));
        if let Err(error) = saved {
            tracing::warn!(pod = %spec::describe(&self.pod), %error, "cannot keep the pod's resources");
        }
    }

    fn changes(&self, runtime: &PodRuntime) -> Vec<Change> {
        let Some(spec) = &self.pod.spec else { return Vec::new() };
        let mut changes: Vec<Change> = record::containers(spec)
            .filter_map(|container| {
                let view = runtime.running().find(|view| view.name == container.name)?;
                let wanted = container.resources.clone().unwrap_or_default();
                let have = self.resources.actuated.get(&container.name)?;
                let names = record::differences(have, &wanted);
                if names.is_empty() {
                    return None;
                }
                let policies = container.resize_policy.iter().flatten();
                let restart = policies
                    .filter(|policy| policy.restart_policy == "RestartContainer")
                    .any(|policy| names.contains(&policy.resource_name.as_str()));
                let limit = |list: &k8s_openapi::api::core::v1::ResourceRequirements, name| {
                    quantity::milli_of(list.limits.as_ref(), name)
                };
                let shrinks = names.iter().any(|name| limit(&wanted, name) < limit(have, name));
                Some(Change { container: container.clone(), view: view.clone(), restart, shrinks })
            })
            .collect();
        // What shrinks makes room for what grows.
        changes.sort_by_key(|change| !change.shrinks);
        changes
    }

    /// Gives running containers what was promised; those that must restart for it go into `actions`.
    pub(super) async fn actuate(&mut self, runtime: &PodRuntime, actions: &mut Actions) {
        let mut failure = None;
        for change in self.changes(runtime) {
            if change.restart {
                restart(change, actions);
            } else if let Err(error) = self.update(&change).await {
                failure = Some(format!("{}: {error}", change.container.name));
                break;
            } else {
                self.note_started(&change.container);
            }
        }
        let Some(note) = &mut self.progress.in_progress else { return };
        match failure {
            Some(message) => {
                if note.message != message {
                    let text = format!("Pod resize error: {}", summary(&self.pod, &message));
                    self.kubelet.events.pod(&self.pod, true, "ResizeError", &text);
                }
                (note.reason, note.message) = ("Error", message);
            }
            None if self.changes(runtime).is_empty() => {
                self.progress.in_progress = None;
                let text = format!("Pod resize completed: {}", summary(&self.pod, ""));
                self.kubelet.events.pod(&self.pod, false, "ResizeCompleted", &text);
            }
            None => {}
        }
    }

    async fn update(&self, change: &Change) -> anyhow::Result<()> {
        let kubelet = &self.kubelet;
        let limits = change.container.resources.as_ref().and_then(|resources| resources.limits.as_ref());
        let limit = quantity::of(limits, "memory");
        let had = self.resources.actuated.get(&change.container.name).and_then(|have| have.limits.as_ref());
        if limit > 0 && limit < quantity::of(had, "memory") {
            let stats = kubelet.runtime.container_stats().await?;
            let of_container =
                stats.into_iter().find(|s| s.attributes.as_ref().is_some_and(|a| a.id == change.view.id));
            let used = of_container.and_then(|stats| stats.memory?.usage_bytes).map_or(0, |bytes| bytes.value);
            if used > limit.unsigned_abs() {
                anyhow::bail!("attempting to set container memory limit ({limit}) below current usage ({used})");
            }
        }
        let mut wanted = resources::container(&self.pod, &change.container, kubelet.node.limit_settings(kubelet));
        kubelet.placement.apply(&self.uid, &change.container.name, &mut wanted);
        Ok(kubelet.runtime.update_resources(&change.view.id, wanted).await?)
    }
}

fn restart(change: Change, actions: &mut Actions) {
    let Change { container, view, .. } = change;
    if actions.kill.iter().any(|kill| kill.id == view.id) {
        return;
    }
    let message = format!("Container {} resize requires restart", container.name);
    actions.kill.push(Kill { id: view.id, name: container.name.clone(), message });
    let list = if spec::is_sidecar(&container) { &mut actions.start_init } else { &mut actions.start };
    if !list.contains(&container.name) {
        list.push(container.name);
    }
}

/// What events of a resize tell: resources by container, the generation, and what went wrong.
fn summary(pod: &Pod, error: &str) -> String {
    let spec = pod.spec.clone().unwrap_or_default();
    let of = |list: &[Container]| -> Vec<serde_json::Value> {
        list.iter().map(|c| json!({"name": c.name, "resources": c.resources.clone().unwrap_or_default()})).collect()
    };
    let mut summary = json!({"containers": of(&spec.containers), "generation": pod.metadata.generation});
    if let Some(inits) = spec.init_containers.filter(|inits| !inits.is_empty()) {
        summary["initContainers"] = of(&inits).into();
    }
    if !error.is_empty() {
        summary["error"] = error.into();
    }
    summary.to_string()
}
