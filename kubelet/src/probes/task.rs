//! One probe of one container: its rhythm, its thresholds and what it says.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, Pod, Probe};
use tokio::net::TcpStream;

use super::{Kind, Results, grpc, http, port};
use crate::metrics::METRICS;
use crate::pods::Entry;
use crate::shared::Kubelet;

/// All that a probe needs.
pub(super) struct Task {
    pub(super) kubelet: Arc<Kubelet>,
    pub(super) entry: Arc<Entry>,
    pub(super) results: Arc<Results>,
    pub(super) pod: Arc<Pod>,
    pub(super) container: Container,
    pub(super) probe: Probe,
    pub(super) kind: Kind,
    pub(super) id: String,
    pub(super) started_at: i64,
    /// The container ran before this kubelet: spread first probes so that not all come at once.
    pub(super) restored: bool,
}

/// Verdict of one attempt.
pub(super) enum Outcome {
    Good,
    Bad(String),
    /// The attempt itself failed; counts as bad.
    Broken(String),
}

fn seconds(value: Option<i32>, default: u64) -> Duration {
    Duration::from_secs(value.and_then(|value| u64::try_from(value).ok()).filter(|value| *value > 0).unwrap_or(default))
}

/// Probes until aborted.
pub(super) async fn run(task: Task) {
    let period = seconds(task.probe.period_seconds, 10);
    let since_start = Duration::from_nanos(
        u64::try_from(jiff::Timestamp::now().as_nanosecond() - i128::from(task.started_at)).unwrap_or(0),
    );
    let mut first = seconds(task.probe.initial_delay_seconds, 0).saturating_sub(since_start);
    if task.restored {
        first += period.mul_f64(rand::random::<f64>());
    }
    tokio::time::sleep(first).await;
    let mut ticks = tokio::time::interval(period);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let (mut last, mut streak) = (None, 0u32);
    loop {
        ticks.tick().await;
        if task.kind != Kind::Startup {
            if task.container.startup_probe.is_some() && task.results.get(&task.id, Kind::Startup) != Some(true) {
                // The container has not started yet: look again soon, so that readiness follows at once.
                tokio::time::sleep(Duration::from_millis(200)).await;
                ticks.reset_immediately();
                continue;
            }
        } else if task.results.get(&task.id, Kind::Startup) == Some(true) {
            return;
        }
        let good = attempt(&task).await;
        streak = if last == Some(good) { streak + 1 } else { 1 };
        last = Some(good);
        let threshold =
            if good { task.probe.success_threshold.unwrap_or(1) } else { task.probe.failure_threshold.unwrap_or(3) };
        if streak < u32::try_from(threshold).unwrap_or(1) {
            continue;
        }
        if task.results.set(&task.id, task.kind, good) {
            task.entry.mailbox.look();
        }
        if !good && task.kind != Kind::Readiness {
            return; // the container will be restarted; its successor has probes of its own
        }
    }
}

async fn attempt(task: &Task) -> bool {
    let title = task.kind.title();
    let begin = std::time::Instant::now();
    let outcome = once(task).await;
    let result = match outcome {
        Outcome::Good => "successful",
        Outcome::Bad(_) => "failed",
        Outcome::Broken(_) => "unknown",
    };
    METRICS.probed(title, result, &task.pod, &task.container.name, begin.elapsed());
    let say = |message: String| {
        task.kubelet.events.container(&task.pod, &task.container.name, true, "Unhealthy", &message);
    };
    match outcome {
        Outcome::Good => true,
        Outcome::Bad(output) => {
            say(format!("{title} probe failed: {output}"));
            false
        }
        Outcome::Broken(error) => {
            say(format!("{title} probe errored and resulted in unknown state: {error}"));
            false
        }
    }
}

async fn once(task: &Task) -> Outcome {
    let timeout = seconds(task.probe.timeout_seconds, 1);
    if let Some(exec) = &task.probe.exec {
        return run_exec(task, exec.command.clone().unwrap_or_default(), timeout).await;
    }
    let pod_ip = task.entry.status().pod_ip.clone().unwrap_or_default();
    let host = |own: &Option<String>| own.clone().filter(|host| !host.is_empty()).unwrap_or_else(|| pod_ip.clone());
    if let Some(action) = &task.probe.http_get {
        let port = match port(&action.port, &task.container) {
            Ok(port) => port,
            Err(error) => return Outcome::Broken(error),
        };
        return match http::get(action, &host(&action.host), port, timeout).await {
            Ok(answer) if (200..400).contains(&answer.status) => Outcome::Good,
            Ok(answer) => Outcome::Bad(format!("HTTP probe failed with statuscode: {}", answer.status)),
            Err(error) => Outcome::Bad(error.to_string()),
        };
    }
    if let Some(action) = &task.probe.tcp_socket {
        let port = match port(&action.port, &task.container) {
            Ok(port) => port,
            Err(error) => return Outcome::Broken(error),
        };
        let address = http::authority(&host(&action.host), port);
        return match tokio::time::timeout(timeout, TcpStream::connect(&address)).await {
            Ok(Ok(_)) => Outcome::Good,
            Ok(Err(error)) => Outcome::Bad(format!("dial tcp {address}: connect: {}", http::plain(&error))),
            Err(_) => Outcome::Bad(format!("dial tcp {address}: i/o timeout")),
        };
    }
    if let Some(action) = &task.probe.grpc {
        let port = u16::try_from(action.port).unwrap_or_default();
        let address = http::authority(&pod_ip, port);
        return grpc::check(&address, action.service.as_deref().unwrap_or_default(), timeout).await;
    }
    Outcome::Broken("missing probe handler".into())
}

async fn run_exec(task: &Task, command: Vec<String>, timeout: Duration) -> Outcome {
    let command = command
        .iter()
        .map(|word| {
            let envs = task.container.env.iter().flatten();
            let envs = envs.map(|env| (env.name.clone(), env.value.clone().unwrap_or_default())).collect();
            crate::pods::env::expand(word, &envs)
        })
        .collect::<Vec<_>>();
    let shown = command.join(" ");
    let answer = tokio::time::timeout(
        timeout + Duration::from_secs(2),
        task.kubelet.runtime.exec_sync(&task.id, command, timeout),
    );
    match answer.await {
        Ok(Ok(output)) if output.exit_code == 0 => Outcome::Good,
        Ok(Ok(output)) => {
            let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
            text.push_str(&String::from_utf8_lossy(&output.stderr));
            text.truncate(text.floor_char_boundary(10 * 1024));
            Outcome::Bad(text)
        }
        Ok(Err(error)) => {
            let text = error.to_string();
            if text.contains("DeadlineExceeded") || text.contains("timeout") {
                return Outcome::Bad(format!("command timed out: {shown:?} timed out after {timeout:?}"));
            }
            Outcome::Broken(text)
        }
        Err(_) => Outcome::Bad(format!("command timed out: {shown:?} timed out after {timeout:?}")),
    }
}
