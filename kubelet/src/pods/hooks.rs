//! Lifecycle hooks: exec, httpGet, sleep (tcpSocket is accepted and does nothing, as upstream).

use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, LifecycleHandler, Pod};

use super::spec;
use crate::probes::{self, http};
use crate::runtime::Runtime;

/// Why a hook failed, and what its command wrote.
#[derive(Debug, Default)]
pub(crate) struct Failure {
    error: String,
    output: String,
}

impl From<String> for Failure {
    fn from(error: String) -> Self {
        Self { error, output: String::new() }
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.error)
    }
}

impl Failure {
    /// What the container's status says of it.
    pub(crate) fn told(&self, hook: &LifecycleHandler, container: &Container, pod: &Pod) -> String {
        let subject = format!(
            "for Container {:?} in Pod {:?} failed - error: {}",
            container.name,
            spec::describe(pod),
            self.error
        );
        if let Some(exec) = &hook.exec {
            let command = exec.command.clone().unwrap_or_default().join(" ");
            return format!("Exec lifecycle hook ([{command}]) {subject}, message: {:?}", self.output);
        }
        match &hook.http_get {
            Some(action) => format!("HTTP lifecycle hook ({}) {subject}", action.path.as_deref().unwrap_or_default()),
            None => self.error.clone(),
        }
    }
}

/// Runs a hook to its end.
pub(crate) async fn run(
    runtime: &Runtime,
    hook: &LifecycleHandler,
    id: &str,
    container: &Container,
    ip: Option<&String>,
) -> Result<(), Failure> {
    if let Some(exec) = &hook.exec {
        let command = exec.command.clone().unwrap_or_default();
        let shown = command.join(" ");
        let output = runtime.exec_sync(id, command, Duration::ZERO).await.map_err(|error| error.to_string())?;
        if output.exit_code != 0 {
            let (text, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
            let error = format!("command '{shown}' exited with {}: {errors}", output.exit_code);
            return Err(Failure { error, output: format!("{text}{errors}") });
        }
        return Ok(());
    }
    if let Some(action) = &hook.http_get {
        let host = action.host.clone().filter(|host| !host.is_empty()).or_else(|| ip.cloned());
        let host = host.ok_or_else(|| "failed to find networking container".to_owned())?;
        let port = probes::port(&action.port, container)?;
        let answer =
            http::get(action, &host, port, Duration::from_secs(30)).await.map_err(|error| error.to_string())?;
        return if answer.status < 400 {
            Ok(())
        } else {
            Err(format!("HTTP hook failed with statuscode: {}", answer.status).into())
        };
    }
    if let Some(sleep) = &hook.sleep {
        tokio::time::sleep(Duration::from_secs(u64::try_from(sleep.seconds).unwrap_or_default())).await;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn failures_read_as_upstreams() {
        let pod: Pod =
            serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "ns", "uid": "u"}})).unwrap();
        let container = Container { name: "c".into(), ..Container::default() };
        let hook = |value| serde_json::from_value::<LifecycleHandler>(value).unwrap();
        let failure = Failure { error: "command 'sh -c x' exited with 1: no".into(), output: "no".into() };
        assert_eq!(
            failure.told(&hook(json!({"exec": {"command": ["sh", "-c", "x"]}})), &container, &pod),
            "Exec lifecycle hook ([sh -c x]) for Container \"c\" in Pod \"p_ns(u)\" failed - error: command 'sh -c x' exited with 1: no, message: \"no\""
        );
        let failure = Failure::from("refused".to_owned());
        assert_eq!(
            failure.told(&hook(json!({"httpGet": {"path": "/x", "port": 80}})), &container, &pod),
            "HTTP lifecycle hook (/x) for Container \"c\" in Pod \"p_ns(u)\" failed - error: refused"
        );
    }
}
