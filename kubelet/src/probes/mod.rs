//! Probes: one task per probe of each running container; results feed decisions and statuses.

mod grpc;
pub(crate) mod http;
mod task;

use std::collections::HashMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Container, Pod, Probe};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use parking_lot::Mutex;
use tokio::task::AbortHandle;

use crate::pods::actions::ProbeView;
use crate::pods::spec;
use crate::pods::status::ReadyView;
use crate::runtime::{ContainerView, PodRuntime};
use crate::shared::Kubelet;

/// Which probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Kind {
    Startup,
    Liveness,
    Readiness,
}

impl Kind {
    fn title(self) -> &'static str {
        match self {
            Self::Startup => "Startup",
            Self::Liveness => "Liveness",
            Self::Readiness => "Readiness",
        }
    }

    fn of(self, container: &Container) -> Option<&Probe> {
        match self {
            Self::Startup => container.startup_probe.as_ref(),
            Self::Liveness => container.liveness_probe.as_ref(),
            Self::Readiness => container.readiness_probe.as_ref(),
        }
    }
}

const KINDS: [Kind; 3] = [Kind::Startup, Kind::Liveness, Kind::Readiness];

type Key = (String, Kind);

/// Results by container id and probe; absent = not known yet.
#[derive(Default)]
pub(crate) struct Results(Mutex<HashMap<Key, bool>>);

impl Results {
    fn get(&self, id: &str, kind: Kind) -> Option<bool> {
        self.0.lock().get(&(id.to_owned(), kind)).copied()
    }

    /// Answers whether this is news.
    fn set(&self, id: &str, kind: Kind, good: bool) -> bool {
        self.0.lock().insert((id.to_owned(), kind), good) != Some(good)
    }
}

/// The probes of one pod.
pub(crate) struct Probes {
    kubelet: Arc<Kubelet>,
    entry: Arc<crate::pods::Entry>,
    results: Arc<Results>,
    tasks: HashMap<Key, AbortHandle>,
    /// Containers that were ready before this kubelet started, by id: ready until a probe says otherwise.
    ready_before: Vec<String>,
    started_before: Vec<String>,
}

impl Probes {
    pub(crate) fn new(kubelet: Arc<Kubelet>, entry: Arc<crate::pods::Entry>, pod: &Pod) -> Self {
        let statuses = pod.status.iter().flat_map(|status| {
            status.container_statuses.iter().flatten().chain(status.init_container_statuses.iter().flatten())
        });
        let ids = |wanted: &dyn Fn(&k8s_openapi::api::core::v1::ContainerStatus) -> bool| -> Vec<String> {
            let matching = statuses.clone().filter(|status| wanted(status));
            let ids = matching.filter_map(|status| status.container_id.as_deref()?.split_once("://"));
            ids.map(|(_, id)| id.to_owned()).collect()
        };
        let ready_before = ids(&|status| status.ready);
        let started_before = ids(&|status| status.started == Some(true));
        Self { kubelet, entry, results: Arc::default(), tasks: HashMap::new(), ready_before, started_before }
    }

    /// Starts what is missing and stops what is over.
    pub(crate) fn sync(&mut self, pod: &Arc<Pod>, runtime: &PodRuntime) {
        let spec = pod.spec.clone().unwrap_or_default();
        let mut wanted = Vec::new();
        for view in runtime.running() {
            let sidecars = spec.init_containers.iter().flatten().filter(|container| spec::is_sidecar(container));
            let Some(container) = sidecars.chain(&spec.containers).find(|container| container.name == view.name) else {
                continue;
            };
            for kind in KINDS {
                if kind.of(container).is_some() {
                    wanted.push((view.id.clone(), kind));
                    self.ensure(pod, container, view, kind);
                }
            }
        }
        self.tasks.retain(|key, task| {
            let keep = wanted.contains(key);
            if !keep {
                task.abort();
            }
            keep
        });
        let alive = |id: &str| runtime.containers.iter().any(|view| view.id == id);
        self.results.0.lock().retain(|(id, _), _| alive(id));
    }

    fn ensure(&mut self, pod: &Arc<Pod>, container: &Container, view: &ContainerView, kind: Kind) {
        let key = (view.id.clone(), kind);
        let Some(probe) = kind.of(container).cloned().filter(|_| !self.tasks.contains_key(&key)) else { return };
        if kind == Kind::Startup && self.started_before.contains(&view.id) {
            self.results.set(&view.id, kind, true);
        }
        let task = task::Task {
            kubelet: self.kubelet.clone(),
            entry: self.entry.clone(),
            results: self.results.clone(),
            pod: pod.clone(),
            container: container.clone(),
            probe,
            kind,
            id: view.id.clone(),
            started_at: view.started_at,
            restored: self.ready_before.contains(&view.id) || self.started_before.contains(&view.id),
        };
        self.tasks.insert(key, tokio::spawn(task::run(task)).abort_handle());
    }

    /// A container that ended has no results any more.
    pub(crate) fn forget(&self, id: &str) {
        self.results.0.lock().retain(|(of, _), _| of != id);
    }

    /// A pod that ends is not restarted: only readiness is still asked.
    pub(crate) fn stop_for_termination(&mut self) {
        self.tasks.retain(|(_, kind), task| {
            if *kind != Kind::Readiness {
                task.abort();
            }
            *kind == Kind::Readiness
        });
    }

    /// No more probing.
    pub(crate) fn stop(&mut self) {
        self.tasks.drain().for_each(|(_, task)| task.abort());
    }

    /// Grace for a container that a probe condemned, when the probe has its own.
    pub(crate) fn kill_grace(&self, pod: &Pod, name: &str, id: &str) -> Option<i64> {
        let container = spec::container(pod.spec.as_ref()?, name)?;
        let condemned =
            [Kind::Liveness, Kind::Startup].into_iter().find(|kind| self.results.get(id, *kind) == Some(false))?;
        condemned.of(&container)?.termination_grace_period_seconds
    }
}

impl Drop for Probes {
    fn drop(&mut self) {
        self.stop();
    }
}

impl ProbeView for Probes {
    fn started(&self, container: &Container, id: &str) -> bool {
        container.startup_probe.is_none()
            || self.results.get(id, Kind::Startup).unwrap_or_else(|| self.started_before.iter().any(|of| of == id))
    }

    fn failed(&self, id: &str) -> Option<&'static str> {
        if self.results.get(id, Kind::Liveness) == Some(false) {
            return Some("liveness");
        }
        (self.results.get(id, Kind::Startup) == Some(false)).then_some("startup")
    }
}

impl ReadyView for Probes {
    fn ready(&self, container: &Container, id: &str) -> bool {
        container.readiness_probe.is_none()
            || self.results.get(id, Kind::Readiness).unwrap_or_else(|| self.ready_before.iter().any(|of| of == id))
    }
}

/// A port by number or by name.
pub(crate) fn port(port: &IntOrString, container: &Container) -> Result<u16, String> {
    let number = match port {
        IntOrString::Int(number) => Some(*number),
        IntOrString::String(name) => {
            let named = container.ports.iter().flatten().find(|port| port.name.as_deref() == Some(name));
            named.map(|port| port.container_port).or_else(|| name.parse().ok())
        }
    };
    number
        .and_then(|number| u16::try_from(number).ok())
        .filter(|number| *number > 0)
        .ok_or_else(|| format!("invalid port: {port:?}"))
}
