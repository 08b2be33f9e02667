//! What to do next for a pod that shall run: the difference between its spec and what the runtime holds. Pure.
//!
//! Order of a pod's life: sandbox, init containers one after the other (a sidecar counts as done once it has started),
//! then all other containers together; ephemeral containers whenever they appear.

use k8s_openapi::api::core::v1::{Container, Pod, PodSpec, PodStatus};

use super::conditions;
use super::spec::{self, RestartPolicy};
use crate::runtime::{ContainerState, ContainerView, PodRuntime, hash};

/// What probes say about running containers, by container id.
pub(crate) trait ProbeView {
    /// The startup probe passed, or there is none.
    fn started(&self, container: &Container, id: &str) -> bool;
    /// The probe that says the container must be restarted.
    fn failed(&self, id: &str) -> Option<&'static str>;
}

/// A container to stop.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Kill {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) message: String,
}

/// What to do, in this order: kill, sandbox, starts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Actions {
    /// Stop everything; the pod is over or its sandbox must be made anew.
    pub(crate) kill_pod: bool,
    /// Make a sandbox with this attempt number.
    pub(crate) create_sandbox: Option<u32>,
    pub(crate) kill: Vec<Kill>,
    /// Names of init containers to start.
    pub(crate) start_init: Vec<String>,
    /// Names of containers to start.
    pub(crate) start: Vec<String>,
    /// Names of ephemeral containers to start.
    pub(crate) start_ephemeral: Vec<String>,
    /// Ids of containers to take away, in this order, before all start anew.
    pub(crate) reset: Vec<String>,
}

/// Whether all containers shall start anew: one ended in a way for which its rules say so, or that was begun before.
pub(crate) fn restarts_all(spec: &PodSpec, runtime: &PodRuntime, previous: &PodStatus) -> bool {
    if !spec::may_restart_all(spec) {
        return false;
    }
    let begun = previous.conditions.iter().flatten().any(|c| c.type_ == conditions::RESTARTING && c.status == "True");
    begun
        || resettable(spec)
            .any(|container| runtime.container(&container.name).is_some_and(|view| is_cause(container, view)))
}

/// Whether none of them is left.
pub(crate) fn is_reset(spec: &PodSpec, runtime: &PodRuntime) -> bool {
    resettable(spec).all(|container| runtime.container(&container.name).is_none())
}

fn resettable(spec: &PodSpec) -> impl Iterator<Item = &Container> {
    spec.init_containers.iter().flatten().chain(&spec.containers)
}

fn is_cause(container: &Container, view: &ContainerView) -> bool {
    view.state == ContainerState::Exited && spec::restart_rule(container, view.exit_code) == Some(spec::RESTART_ALL)
}

/// Those that caused it go last: should we be broken off, it is still known why.
fn reset_order(spec: &PodSpec, runtime: &PodRuntime) -> Vec<String> {
    let of = |list: &[Container]| -> (Vec<String>, Vec<String>) {
        let views = list.iter().flat_map(|container| {
            let mine = runtime.containers.iter().filter(move |view| view.name == container.name);
            mine.map(move |view| (is_cause(container, view), view.id.clone()))
        });
        let (causes, others): (Vec<_>, Vec<_>) = views.partition(|(cause, _)| *cause);
        let ids = |list: Vec<(bool, String)>| list.into_iter().map(|(_, id)| id).collect();
        (ids(causes), ids(others))
    };
    let (init_causes, inits) = of(spec.init_containers.as_deref().unwrap_or_default());
    let (causes, regular) = of(&spec.containers);
    [regular, inits, causes, init_causes].concat()
}

/// Whether the pod needs a (new) sandbox, and its attempt number.
pub(crate) fn sandbox_changed(spec: &PodSpec, runtime: &PodRuntime) -> Option<u32> {
    let Some(newest) = runtime.sandboxes.first() else { return Some(0) };
    let ready = runtime.sandboxes.iter().filter(|sandbox| sandbox.ready).count();
    let host_network = spec.host_network == Some(true);
    let changed =
        ready > 1 || !newest.ready || newest.host_network != host_network || (!host_network && newest.ips.is_empty());
    changed.then_some(newest.attempt + 1)
}

/// The whole decision.
pub(crate) fn compute(pod: &Pod, runtime: &PodRuntime, probes: &dyn ProbeView, previous: &PodStatus) -> Actions {
    let Some(spec) = &pod.spec else { return Actions::default() };
    if restarts_all(spec, runtime, previous) && !is_reset(spec, runtime) {
        return Actions { reset: reset_order(spec, runtime), ..Actions::default() };
    }
    if let Some(attempt) = sandbox_changed(spec, runtime) {
        return with_new_sandbox(spec, runtime, attempt);
    }
    let mut actions = Actions::default();
    for container in spec.ephemeral_containers.iter().flatten() {
        if runtime.container(&container.name).is_none() {
            actions.start_ephemeral.push(container.name.clone());
        }
    }
    let initialized = init_actions(spec, runtime, probes, &mut actions);
    if !initialized {
        return actions;
    }
    let mut keep = 0usize;
    for container in &spec.containers {
        let status = runtime.container(&container.name);
        match status.filter(|status| status.state == ContainerState::Running) {
            Some(running) => match restart_reason(container, running, probes) {
                Some(message) => {
                    let again = spec::restart_policy(spec, container) != RestartPolicy::Never;
                    actions
                        .kill
                        .push(kill(running, if again { format!("{message}, will be restarted") } else { message }));
                    if again {
                        actions.start.push(container.name.clone());
                    }
                }
                None => keep += 1,
            },
            None if should_start(spec, container, status) => {
                if let Some(unknown) = status.filter(|status| status.state == ContainerState::Unknown) {
                    let message = "Container is in \"unknown\" state, try killing it before restart".to_owned();
                    actions.kill.push(kill(unknown, message));
                }
                actions.start.push(container.name.clone());
            }
            None => {}
        }
    }
    if keep == 0 && actions.start.is_empty() {
        actions.kill_pod = true;
        actions.start_init.clear();
        actions.kill.clear();
    }
    actions
}

fn kill(container: &ContainerView, message: String) -> Kill {
    Kill { id: container.id.clone(), name: container.name.clone(), message }
}

fn with_new_sandbox(spec: &PodSpec, runtime: &PodRuntime, attempt: u32) -> Actions {
    let mut actions = Actions { kill_pod: true, create_sandbox: Some(attempt), ..Actions::default() };
    let restarts = spec.containers.iter().any(|c| spec::restart_policy(spec, c) != RestartPolicy::Never);
    if !restarts && attempt != 0 && !runtime.containers.is_empty() {
        // A pod that never restarts does not get a second sandbox.
        actions.create_sandbox = None;
        return actions;
    }
    let to_start: Vec<String> = spec
        .containers
        .iter()
        .filter(|container| {
            let done = runtime
                .container(&container.name)
                .is_some_and(|status| status.state == ContainerState::Exited && status.exit_code == 0);
            !(done && spec::restart_policy(spec, container) == RestartPolicy::OnFailure)
        })
        .map(|container| container.name.clone())
        .collect();
    if to_start.is_empty() {
        actions.create_sandbox = None;
        return actions;
    }
    match spec.init_containers.iter().flatten().next() {
        Some(first) => actions.start_init.push(first.name.clone()),
        None => actions.start = to_start,
    }
    actions
}

fn restart_reason(container: &Container, running: &ContainerView, probes: &dyn ProbeView) -> Option<String> {
    if !running.hash.is_empty() && running.hash != hash::container(container) {
        return Some(format!("Container {} definition changed", container.name));
    }
    probes.failed(&running.id).map(|probe| format!("Container {} failed {probe} probe", container.name))
}

/// A container that does not run: start it (again)?
pub(crate) fn should_start(spec: &PodSpec, container: &Container, status: Option<&ContainerView>) -> bool {
    match status {
        None => true,
        Some(status) => match status.state {
            ContainerState::Running => false,
            ContainerState::Created | ContainerState::Unknown => true,
            ContainerState::Exited => spec::restarts_after(spec, container, status.exit_code),
        },
    }
}

/// Init containers and sidecars. Answers whether the other containers may run.
fn init_actions(spec: &PodSpec, runtime: &PodRuntime, probes: &dyn ProbeView, actions: &mut Actions) -> bool {
    let inits = spec.init_containers.as_deref().unwrap_or_default();
    let regular_exists = spec.containers.iter().any(|container| runtime.container(&container.name).is_some());
    // Dead init containers may have been removed: one before the last that exists is done.
    let last_seen = inits.iter().rposition(|container| runtime.container(&container.name).is_some());
    for (index, container) in inits.iter().enumerate() {
        let status = runtime.container(&container.name);
        let sidecar = spec::is_sidecar(container);
        if sidecar {
            if !sidecar_step(container, status, probes, regular_exists, actions) {
                return false;
            }
            continue;
        }
        if regular_exists {
            continue;
        }
        match status {
            None if last_seen.is_some_and(|last| index < last) => {}
            None => {
                actions.start_init.push(container.name.clone());
                return false;
            }
            Some(status) => match status.state {
                ContainerState::Exited if status.exit_code == 0 => {}
                ContainerState::Running => {
                    if let Some(message) = restart_reason(container, status, probes) {
                        actions.kill.push(kill(status, message));
                        actions.start_init.push(container.name.clone());
                    }
                    return false;
                }
                ContainerState::Exited if !spec::restarts_after(spec, container, status.exit_code) => {
                    // Initialization failed for good.
                    actions.kill_pod = true;
                    actions.start_init.clear();
                    return false;
                }
                ContainerState::Exited | ContainerState::Created | ContainerState::Unknown => {
                    if status.state == ContainerState::Unknown {
                        let message =
                            format!("Init container is in \"{:?}\" state, try killing it before restart", status.state);
                        actions.kill.push(kill(status, message));
                    }
                    actions.start_init.push(container.name.clone());
                    return false;
                }
            },
        }
    }
    true
}

/// One sidecar; answers whether what comes after it may go on.
fn sidecar_step(
    container: &Container,
    status: Option<&ContainerView>,
    probes: &dyn ProbeView,
    regular_exists: bool,
    actions: &mut Actions,
) -> bool {
    match status.filter(|status| status.state == ContainerState::Running) {
        Some(running) => {
            if let Some(message) = restart_reason(container, running, probes) {
                actions.kill.push(kill(running, format!("{message}, will be restarted")));
                actions.start_init.push(container.name.clone());
                return regular_exists;
            }
            regular_exists || probes.started(container, &running.id)
        }
        None => {
            // (`compute` drops this again when every regular container is over.)
            actions.start_init.push(container.name.clone());
            regular_exists
        }
    }
}

#[cfg(test)]
#[path = "actions_tests.rs"]
mod tests;
