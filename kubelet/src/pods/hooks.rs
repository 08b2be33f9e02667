//! Lifecycle hooks: exec, httpGet, sleep (tcpSocket is accepted and does nothing, as upstream).

use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, LifecycleHandler};

use crate::probes::{self, http};
use crate::runtime::Runtime;

/// Runs a hook to its end; the error is what the container's status says.
pub(crate) async fn run(
    runtime: &Runtime,
    hook: &LifecycleHandler,
    id: &str,
    container: &Container,
    ip: Option<&String>,
) -> Result<(), String> {
    if let Some(exec) = &hook.exec {
        let command = exec.command.clone().unwrap_or_default();
        let shown = command.join(" ");
        let output = runtime.exec_sync(id, command, Duration::ZERO).await.map_err(|error| error.to_string())?;
        if output.exit_code != 0 {
            return Err(format!(
                "command '{shown}' exited with {}: {}",
                output.exit_code,
                String::from_utf8_lossy(&output.stderr)
            ));
        }
        return Ok(());
    }
    if let Some(action) = &hook.http_get {
        let host = action.host.clone().filter(|host| !host.is_empty()).or_else(|| ip.cloned());
        let host = host.ok_or("failed to find networking container")?;
        let port = probes::port(&action.port, container)?;
        let answer =
            http::get(action, &host, port, Duration::from_secs(30)).await.map_err(|error| error.to_string())?;
        return if answer.status < 400 {
            Ok(())
        } else {
            Err(format!("HTTP hook failed with statuscode: {}", answer.status))
        };
    }
    if let Some(sleep) = &hook.sleep {
        tokio::time::sleep(Duration::from_secs(u64::try_from(sleep.seconds).unwrap_or_default())).await;
    }
    Ok(())
}
