//! `/containerLogs/{namespace}/{pod}/{container}`: the log of one container, from the file that the runtime writes.

mod file;
mod line;
mod options;
mod reader;
#[cfg(test)]
mod tests;
mod watch;

use async_trait::async_trait;
use common::serving::{Body, stream};
use http::{HeaderValue, Response, header};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use self::file::LogFile;
use self::line::Writer;
use self::options::LogOptions;
use self::reader::{Follow, Liveness};
use super::lookup::{self, Refusal};
use super::query::Query;
use crate::pods::spec;
use crate::runtime::{ContainerState, Runtime};
use crate::shared::Kubelet;

/// Pieces between the reader and a slow client.
const PIECES: usize = 4;

/// Answers with the log.
pub(super) async fn serve(
    kubelet: &Kubelet,
    namespace: &str,
    name: &str,
    container: &str,
    query: &Query,
) -> Result<Response<Body>, Refusal> {
    let options = LogOptions::parse(query, jiff::Timestamp::now())?;
    let record = kubelet
        .pods
        .find(namespace, name, None)
        .ok_or_else(|| Refusal::not_found(format!("pod {name:?} does not exist")))?;
    if record.pod.spec.as_ref().and_then(|pod| spec::container(pod, container)).is_none() {
        return Err(Refusal::not_found(format!("container {container:?} not found in pod {name:?}")));
    }
    let id = lookup::logged_container(name, &record.status, container, options.previous)?;
    let status = kubelet.runtime.container_status(&id).await.map_err(|error| {
        tracing::debug!(%error, id, "no status of the container whose log is wanted");
        Refusal::bad(format!("unable to retrieve container logs for {}://{id}", kubelet.runtime_info.name))
    })?;
    let path = tokio::fs::canonicalize(&status.log_path).await.map_err(|error| {
        Refusal::bad(format!("failed to try resolving symlinks in path {:?}: {error}", status.log_path))
    })?;
    let file = LogFile::open(&path, options.tail)
        .await
        .map_err(|error| Refusal::bad(format!("failed to open log file {:?}: {error}", path.display().to_string())))?;
    let follow = options.follow.then(|| Follow {
        container: Box::new(Watched { runtime: kubelet.runtime.clone(), id }),
        shutdown: kubelet.shutdown.clone(),
    });
    let (sender, receiver) = mpsc::channel(PIECES);
    tokio::spawn(reader::run(file, Writer::new(options), follow, sender));
    let mut response = Response::new(stream(ReceiverStream::new(receiver)));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    Ok(response)
}

struct Watched {
    runtime: Runtime,
    id: String,
}

#[async_trait]
impl Liveness for Watched {
    async fn running(&self) -> bool {
        match self.runtime.container_status(&self.id).await {
            Ok(status) => ContainerState::from(status.state) == ContainerState::Running,
            // Containers outlive their runtime's absence.
            Err(error) => error.is_unavailable(),
        }
    }
}

/// The wanted part of a whole file.
#[cfg(any(test, feature = "fuzz"))]
pub(super) fn show(file: &[u8], query: &Query) -> Vec<u8> {
    let Ok(options) = LogOptions::parse(query, jiff::Timestamp::now()) else { return Vec::new() };
    let mut writer = Writer::new(options);
    let mut lines = file.split_inclusive(|byte| *byte == b'\n');
    while lines.next().is_some_and(|line| writer.line(line) == line::Flow::More) {}
    writer.out.to_vec()
}

/// Reads a query.
#[cfg(any(test, feature = "fuzz"))]
pub(super) fn check(query: &Query) {
    let _ = LogOptions::parse(query, jiff::Timestamp::now());
}
