//! exec, attach and port-forward: asks the runtime where to stream and joins the client with it; and `run`, the command
//! whose output is simply the answer.

use std::time::Duration;

use common::serving::{Body, full};
use http::{HeaderMap, HeaderValue, Request, Response, header};
use hyper::body::Incoming;
use k8s_cri::v1 as cri;

use super::lookup::{self, Refusal};
use super::query::Query;
use super::tunnel;
use crate::pods::spec;
use crate::shared::Kubelet;

/// The container that a path names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Target {
    pub(super) namespace: String,
    pub(super) pod: String,
    pub(super) uid: Option<String>,
    pub(super) container: String,
}

/// Which streams are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Streams {
    stdin: bool,
    stdout: bool,
    stderr: bool,
    tty: bool,
}

impl Streams {
    fn parse(query: &Query) -> Result<Self, Refusal> {
        let tty = query.switch("tty");
        // A terminal has no second output.
        let streams = Self {
            stdin: query.switch("input"),
            stdout: query.switch("output"),
            stderr: query.switch("error") && !tty,
            tty,
        };
        if streams.stdin || streams.stdout || streams.stderr {
            return Ok(streams);
        }
        Err(Refusal::bad("you must specify at least 1 of stdin, stdout, stderr"))
    }
}

fn must_upgrade(headers: &HeaderMap) -> Result<(), Refusal> {
    if tunnel::wants_upgrade(headers) { Ok(()) } else { Err(Refusal::internal("Upgrade request required")) }
}

/// Runs a command with its streams at the client.
pub(super) async fn exec(
    kubelet: &Kubelet,
    request: Request<Incoming>,
    target: &Target,
    query: &Query,
) -> Result<Response<Body>, Refusal> {
    let streams = Streams::parse(query)?;
    let record = lookup::pod(kubelet, &target.namespace, &target.pod, target.uid.as_deref())?;
    let container_id = lookup::running_container(kubelet, &record, &target.container).await?;
    must_upgrade(request.headers())?;
    let Streams { stdin, stdout, stderr, tty } = streams;
    let ask = cri::ExecRequest { container_id, cmd: query.all("command"), tty, stdin, stdout, stderr };
    let url = kubelet.runtime.exec(ask).await?;
    tunnel::serve(request, &url, kubelet.shutdown.clone()).await
}

/// Joins the streams of a container's main process.
pub(super) async fn attach(
    kubelet: &Kubelet,
    request: Request<Incoming>,
    target: &Target,
    query: &Query,
) -> Result<Response<Body>, Refusal> {
    let Streams { stdin, stdout, stderr, .. } = Streams::parse(query)?;
    let record = lookup::pod(kubelet, &target.namespace, &target.pod, target.uid.as_deref())?;
    let full_name = format!("{}_{}", target.pod, target.namespace);
    let missing = || Refusal::internal(format!("container {} not found in pod {full_name}", target.container));
    let container_id =
        lookup::running_container(kubelet, &record, &target.container).await.map_err(|error| match error.0 {
            http::StatusCode::INTERNAL_SERVER_ERROR if error.1.starts_with("container not found") => missing(),
            _ => error,
        })?;
    let container = record.pod.spec.as_ref().and_then(|pod| spec::container(pod, &target.container));
    // Whether the process has a terminal was decided when it started.
    let tty = container.ok_or_else(missing)?.tty.unwrap_or(false);
    must_upgrade(request.headers())?;
    let ask = cri::AttachRequest { container_id, stdin, tty, stdout, stderr: stderr && !tty };
    let url = kubelet.runtime.attach(ask).await?;
    tunnel::serve(request, &url, kubelet.shutdown.clone()).await
}

/// Joins the client with ports of a pod.
pub(super) async fn port_forward(
    kubelet: &Kubelet,
    request: Request<Incoming>,
    (namespace, pod, uid): (&str, &str, Option<&str>),
    query: &Query,
) -> Result<Response<Body>, Refusal> {
    // SPDY names the ports per stream, a WebSocket in the query.
    let websocket = request
        .headers()
        .get(header::UPGRADE)
        .and_then(|value| value.to_str().ok())
        .is_some_and(|value| value.eq_ignore_ascii_case("websocket"));
    let port = if websocket { ports(query)? } else { Vec::new() };
    let record = lookup::pod(kubelet, namespace, pod, None)?;
    if uid.is_some() {
        lookup::pod(kubelet, namespace, pod, uid).map_err(|_| Refusal::not_found("pod not found"))?;
    }
    let held = kubelet.runtime.pod(spec::uid(&record.pod)).await?;
    let sandbox = held.ready_sandbox();
    let pod_sandbox_id = sandbox
        .map(|sandbox| sandbox.id.clone())
        .ok_or_else(|| Refusal::internal(format!("pod not found (\"{pod}_{namespace}\")")))?;
    must_upgrade(request.headers())?;
    let url = kubelet.runtime.port_forward(cri::PortForwardRequest { pod_sandbox_id, port }).await?;
    tunnel::serve(request, &url, kubelet.shutdown.clone()).await
}

fn ports(query: &Query) -> Result<Vec<i32>, Refusal> {
    let texts = query.all("port");
    if texts.is_empty() {
        return Err(Refusal::bad("query parameter \"port\" is required"));
    }
    let mut ports = Vec::new();
    for text in &texts {
        if text.is_empty() {
            return Err(Refusal::bad("query parameter \"port\" cannot be empty"));
        }
        for part in text.split(',') {
            let port: u16 =
                part.parse().map_err(|error| Refusal::bad(format!("unable to parse {text:?} as a port: {error}")))?;
            if port < 1 {
                return Err(Refusal::bad(format!("port {text:?} must be > 0")));
            }
            ports.push(i32::from(port));
        }
    }
    Ok(ports)
}

/// Runs a command to its end; the answer is what it wrote.
pub(super) async fn run(kubelet: &Kubelet, target: &Target, query: &Query) -> Result<Response<Body>, Refusal> {
    let record = lookup::pod(kubelet, &target.namespace, &target.pod, target.uid.as_deref())?;
    let id = lookup::running_container(kubelet, &record, &target.container).await?;
    let shown = query.get("cmd").unwrap_or_default();
    let command = shown.split(' ').map(str::to_owned).collect();
    let output = kubelet
        .runtime
        .exec_sync(&id, command, Duration::ZERO)
        .await
        .map_err(|error| Refusal::internal(error.to_string()))?;
    if output.exit_code != 0 {
        let stderr = String::from_utf8_lossy(&output.stderr);
        return Err(Refusal::internal(format!("command '{shown}' exited with {}: {stderr}", output.exit_code)));
    }
    let mut response = Response::new(full([output.stdout, output.stderr].concat()));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(response)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_of_a_query() {
        let parse = |query: &str| Streams::parse(&Query::parse(query));
        let terminal = parse("input=1&output=1&error=1&tty=1").unwrap();
        assert_eq!(terminal, Streams { stdin: true, stdout: true, stderr: false, tty: true });
        assert_eq!(parse("tty=1&error=1").unwrap_err().0.as_u16(), 400);
        assert_eq!(parse("output=true").unwrap_err().1, "you must specify at least 1 of stdin, stdout, stderr");
    }

    #[test]
    fn ports_of_a_query() {
        let parse = |query: &str| ports(&Query::parse(query));
        assert_eq!(parse("port=80,443&port=8080"), Ok(vec![80, 443, 8080]));
        for query in ["", "port=", "port=0", "port=70000", "port=http"] {
            assert_eq!(parse(query).unwrap_err().0.as_u16(), 400, "{query}");
        }
    }
}
