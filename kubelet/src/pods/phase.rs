//! A pod's phase from its containers' statuses. Pure.

use k8s_openapi::api::core::v1::{Container, ContainerStateTerminated, ContainerStatus, PodSpec};

use super::spec;
use super::status::RESTARTING_ALL;

#[derive(Default)]
struct Tally {
    pending_init: usize,
    failed_init: usize,
    failed_init_for_good: usize,
    pending_sidecar: usize,
    unknown: usize,
    running: usize,
    waiting: usize,
    stopped: usize,
    stopped_for_good: usize,
    succeeded: usize,
}

/// `terminal`: nothing runs and nothing will. `initialized`: a regular container has existed.
pub(crate) fn compute(
    spec: &PodSpec,
    inits: &[ContainerStatus],
    regular: &[ContainerStatus],
    terminal: bool,
    initialized: bool,
) -> &'static str {
    let mut tally = Tally::default();
    for container in spec.init_containers.iter().flatten() {
        let status = inits.iter().find(|status| status.name == container.name);
        if spec::is_sidecar(container) {
            count_sidecar(&mut tally, status);
        } else {
            count_init(&mut tally, status, |end| again(spec, container, end));
        }
    }
    for container in &spec.containers {
        let status = regular.iter().find(|status| status.name == container.name);
        count_regular(&mut tally, status, |end| again(spec, container, end));
    }
    verdict(&tally, terminal, initialized)
}

fn verdict(tally: &Tally, terminal: bool, initialized: bool) -> &'static str {
    if tally.failed_init_for_good > 0 {
        return "Failed";
    }
    if !terminal && !initialized && (tally.pending_init > 0 || tally.pending_sidecar > 0 || tally.failed_init > 0) {
        return "Pending";
    }
    if terminal && tally.running == 0 {
        // What never ran or was cut off did not succeed.
        let all = tally.unknown == 0 && tally.waiting == 0 && tally.stopped == tally.succeeded && tally.stopped > 0;
        return if all { "Succeeded" } else { "Failed" };
    }
    if tally.waiting > 0 {
        return "Pending";
    }
    if tally.running > 0 && tally.unknown == 0 {
        return "Running";
    }
    if tally.running == 0 && tally.stopped > 0 && tally.unknown == 0 {
        if tally.stopped != tally.stopped_for_good {
            return "Running";
        }
        return if tally.stopped == tally.succeeded { "Succeeded" } else { "Failed" };
    }
    "Pending"
}

fn last_end(status: &ContainerStatus) -> Option<&ContainerStateTerminated> {
    status.last_state.as_ref().and_then(|state| state.terminated.as_ref())
}

/// Whether the container is started again after that end; a container that was taken away so that all start anew always is.
fn again(spec: &PodSpec, container: &Container, end: &ContainerStateTerminated) -> bool {
    end.reason.as_deref() == Some(RESTARTING_ALL) || spec::restarts_after(spec, container, end.exit_code)
}

fn count_init(tally: &mut Tally, status: Option<&ContainerStatus>, again: impl Fn(&ContainerStateTerminated) -> bool) {
    let state = status.and_then(|status| status.state.as_ref());
    let end = match state {
        Some(state) if state.terminated.is_some() => state.terminated.as_ref(),
        Some(state) if state.waiting.is_some() => status.and_then(last_end),
        _ => None,
    };
    match end {
        Some(end) if end.exit_code == 0 => {}
        Some(end) => {
            tally.failed_init += 1;
            tally.failed_init_for_good += usize::from(!again(end));
        }
        None => tally.pending_init += 1,
    }
}

fn count_sidecar(tally: &mut Tally, status: Option<&ContainerStatus>) {
    let Some(status) = status else {
        tally.unknown += 1;
        return;
    };
    let state = status.state.clone().unwrap_or_default();
    if state.running.is_some() {
        if status.started != Some(true) {
            tally.pending_sidecar += 1;
        }
    } else if state.waiting.is_some() && last_end(status).is_none() {
        tally.pending_sidecar += 1;
        tally.waiting += 1;
    }
}

fn count_regular(
    tally: &mut Tally,
    status: Option<&ContainerStatus>,
    again: impl Fn(&ContainerStateTerminated) -> bool,
) {
    let Some(status) = status else {
        tally.unknown += 1;
        return;
    };
    let state = status.state.clone().unwrap_or_default();
    if state.running.is_some() {
        tally.running += 1;
    } else if let Some(terminated) = &state.terminated {
        tally.stopped += 1;
        tally.succeeded += usize::from(terminated.exit_code == 0);
        tally.stopped_for_good += usize::from(!again(terminated));
    } else if state.waiting.is_some() {
        match last_end(status) {
            Some(end) => {
                tally.stopped += 1;
                tally.stopped_for_good += usize::from(!again(end));
            }
            None => tally.waiting += 1,
        }
    } else {
        tally.unknown += 1;
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::{ContainerState, ContainerStateRunning, ContainerStateWaiting};
    use serde_json::json;

    use super::*;

    fn status(name: &str, state: &str) -> ContainerStatus {
        let state = match state {
            "run" => ContainerState { running: Some(ContainerStateRunning::default()), ..Default::default() },
            "wait" => ContainerState { waiting: Some(ContainerStateWaiting::default()), ..Default::default() },
            code => ContainerState {
                terminated: Some(ContainerStateTerminated {
                    exit_code: code.parse().expect("code"),
                    ..Default::default()
                }),
                ..Default::default()
            },
        };
        ContainerStatus { name: name.into(), state: Some(state), ..Default::default() }
    }

    #[test]
    fn a_rule_keeps_a_pod_alive() {
        let rule =
            |codes: serde_json::Value| json!([{"action": "Restart", "exitCodes": {"operator": "In", "values": codes}}]);
        let spec = |codes| -> PodSpec {
            let container = json!({"name": "c0", "restartPolicy": "Never", "restartPolicyRules": rule(codes)});
            serde_json::from_value(json!({"restartPolicy": "Never", "containers": [container]})).unwrap()
        };
        assert_eq!(compute(&spec(json!([42])), &[], &[status("c0", "42")], false, true), "Running");
        assert_eq!(compute(&spec(json!([43])), &[], &[status("c0", "42")], false, true), "Failed");
    }

    #[test]
    fn phases() {
        let table: &[(&str, &[&str], bool, &str)] = &[
            ("Always", &["wait"], false, "Pending"),
            ("Always", &["run"], false, "Running"),
            ("Always", &["run", "wait"], false, "Pending"),
            ("Always", &["1"], false, "Running"),
            ("OnFailure", &["0", "1"], false, "Running"),
            ("OnFailure", &["0"], false, "Succeeded"),
            ("Never", &["0", "0"], false, "Succeeded"),
            ("Never", &["0", "1"], false, "Failed"),
            ("Never", &["run", "1"], false, "Running"),
            ("Always", &["0"], true, "Succeeded"),
            ("Always", &["137"], true, "Failed"),
            ("Always", &["wait"], true, "Failed"),
        ];
        for (policy, states, terminal, want) in table {
            let name = |index: usize| format!("c{index}");
            let spec = PodSpec {
                restart_policy: Some((*policy).into()),
                containers: (0..states.len()).map(|i| Container { name: name(i), ..Default::default() }).collect(),
                ..Default::default()
            };
            let statuses: Vec<_> = states.iter().enumerate().map(|(i, state)| status(&name(i), state)).collect();
            assert_eq!(compute(&spec, &[], &statuses, *terminal, true), *want, "{policy} {states:?} {terminal}");
        }
    }
}
