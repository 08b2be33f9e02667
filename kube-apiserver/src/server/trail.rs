//! Where a request on its way meets auditing: when it is known who asks, and when the answer is there.

use std::{any::Any, sync::Arc};

use common::{serving::Peer, wire::yaml};
use http::{Request, Response, header};
use http_body::Body as _;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use parking_lot::Mutex;
use serde_json::Value;

use super::{
    ApiServer, Session,
    response::{self, Body},
};
use crate::{
    audit::{Arrival, Level, Stage, Trail, UntilEnd},
    authn::User,
    request::{ApiError, RequestInfo},
    storage::codec,
};

/// Bodies beyond this are only looked at when they are to be recorded.
const MOST_STATUS: u64 = 64 * 1024;

/// What a request is known by.
pub struct Mark {
    /// Its audit id.
    pub audit_id: String,
    /// When it came.
    pub received: jiff::Timestamp,
    /// Its trail, for the case that its handler panics.
    pub trail: Mutex<Option<Arc<Trail>>>,
}

/// Begins to record a request, if the policy wants it.
pub fn begin(
    server: &ApiServer,
    request: &mut Request<Incoming>,
    info: &RequestInfo,
    user: &User,
    peer: &Peer,
    mark: &Mark,
) -> Option<Arc<Trail>> {
    let uri = request.uri().path_and_query().map_or_else(|| info.path.clone(), ToString::to_string);
    let arrival = Arrival {
        info,
        user,
        headers: request.headers(),
        uri,
        address: peer.addr.ip(),
        audit_id: &mark.audit_id,
        received: mark.received,
    };
    let trail = server.audit.as_ref()?.begin(&arrival)?;
    if trail.level() == Level::RequestResponse {
        // What is to be recorded must be readable.
        request.headers_mut().remove(header::ACCEPT_ENCODING);
    }
    *mark.trail.lock() = Some(Arc::clone(&trail));
    Some(trail)
}

/// Records that nobody knows who asks.
pub async fn unauthenticated(trail: &Trail, error: &ApiError) {
    trail.response(error.code(), Some(error.to_value()));
    trail.reach(Stage::ResponseStarted).await;
}

/// What a panic says.
#[must_use]
pub fn panic_text(why: &(dyn Any + Send)) -> String {
    let text = why.downcast_ref::<&str>().copied().or_else(|| why.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("unknown").to_owned()
}

/// Records a panic.
pub async fn panicked(mark: &Mark, why: String) {
    let trail = mark.trail.lock().take();
    let Some(trail) = trail else { return };
    trail.panicked(&why);
    trail.reach(Stage::Panic).await;
}

/// Records the answer. Of a request that lasts, it is recorded that it begins, and later that it ends.
pub async fn finish(
    trail: Arc<Trail>,
    info: &RequestInfo,
    session: &Session,
    response: Response<Body>,
) -> Response<Body> {
    let code = response.status().as_u16();
    let (response, body) = look(&trail, info, response).await;
    trail.response(code, body);
    if !info.is_long_running() {
        trail.took_long();
        trail.reach(Stage::ResponseComplete).await;
        return response;
    }
    trail.reach(Stage::ResponseStarted).await;
    if let Some(end) = session.end() {
        tokio::spawn(async move {
            end.cancelled().await;
            trail.reach(Stage::ResponseComplete).await;
        });
        return response;
    }
    response::holding(UntilEnd(trail), response)
}

/// The object in the body of an answer, as far as it matters: all of it at the highest level, else only a Status.
async fn look(trail: &Trail, info: &RequestInfo, response: Response<Body>) -> (Response<Body>, Option<Value>) {
    let Some(size) = response.body().size_hint().exact() else { return (response, None) };
    let may_be_status = response.status().as_u16() >= 400 || matches!(info.verb.as_str(), "delete");
    if trail.level() < Level::RequestResponse && (!may_be_status || size > MOST_STATUS) {
        return (response, None);
    }
    let (parts, body) = response.into_parts();
    let Ok(bytes) = body.collect().await.map(http_body_util::Collected::to_bytes) else {
        return (Response::from_parts(parts, response::empty()), None);
    };
    let media_type = parts.headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let object = match media_type.split(';').next().unwrap_or_default() {
        "application/json" => serde_json::from_slice(&bytes).ok(),
        "application/yaml" => yaml::read(&bytes).ok().map(|document| document.value),
        "application/vnd.kubernetes.protobuf" => codec::to_tree(&bytes).ok(),
        _ => None,
    };
    (Response::from_parts(parts, response::full(bytes)), object.filter(Value::is_object))
}
