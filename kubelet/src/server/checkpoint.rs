//! `/checkpoint/<namespace>/<pod>/<container>`: a running container's state as an archive below `<root>/checkpoints`.

use common::serving::{Body, json};
use http::{Response, StatusCode};
use k8s_openapi::api::core::v1::Pod;

use super::lookup::{self, Refusal};
use super::query::Query;
use crate::pods::spec;
use crate::shared::Kubelet;

/// The time-out in seconds that the query asks for; the last one counts, and without one the runtime's own.
fn timeout(query: &Query) -> Result<i64, Refusal> {
    match query.all("timeout").last() {
        None => Ok(0),
        Some(text) => text.parse().map_err(|_| Refusal::not_found("cannot parse value of timeout parameter")),
    }
}

fn file_name(pod: &Pod, container: &str, now: jiff::Timestamp) -> String {
    let now = now.strftime("%Y-%m-%dT%H:%M:%SZ");
    format!("checkpoint-{}_{}-{container}-{now}.tar", spec::name(pod), spec::namespace(pod))
}

/// Makes one.
pub(super) async fn serve(
    kubelet: &Kubelet,
    (namespace, name, container): (&str, &str, &str),
    query: &Query,
) -> Result<Response<Body>, Refusal> {
    let record = lookup::pod(kubelet, namespace, name, None)?;
    let known = record.pod.spec.as_ref().and_then(|spec| spec::container(spec, container));
    if known.is_none() {
        return Err(Refusal::not_found(format!("container {container} does not exist")));
    }
    let timeout = timeout(query)?;
    let failed =
        |error: String| Refusal::internal(format!("checkpointing of {namespace}/{name}/{container} failed ({error})"));
    let id = lookup::running_container(kubelet, &record, container).await;
    let id = id.map_err(|_| failed(format!("container {container} not found")))?;
    let directory = kubelet.config.root_dir.join("checkpoints");
    tokio::fs::create_dir_all(&directory).await.map_err(|error| failed(error.to_string()))?;
    let location = directory.join(file_name(&record.pod, container, jiff::Timestamp::now()));
    let location = location.to_string_lossy().into_owned();
    let made = kubelet.runtime.checkpoint(&id, &location, timeout).await;
    made.map_err(|error| failed(error.to_string()))?;
    Ok(json(StatusCode::OK, &serde_json::json!({"items": [location]})))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_timeouts() {
        let pod: Pod =
            serde_json::from_value(serde_json::json!({"metadata": {"name": "p", "namespace": "ns"}})).unwrap();
        let name = file_name(&pod, "c", jiff::Timestamp::UNIX_EPOCH);
        assert_eq!(name, "checkpoint-p_ns-c-1970-01-01T00:00:00Z.tar");
        assert_eq!(timeout(&Query::parse("timeout=3&timeout=5")), Ok(5));
        assert_eq!(timeout(&Query::parse("")), Ok(0));
        assert_eq!(timeout(&Query::parse("timeout=x")).unwrap_err().0, StatusCode::NOT_FOUND);
    }
}
