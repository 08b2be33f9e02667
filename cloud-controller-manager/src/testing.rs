//! A scripted apiserver behind a real client, for tests.

use std::sync::Arc;

use http::{Method, Request, Response};
use http_body_util::BodyExt;
use kube::Client;
use kube::client::Body;
use parking_lot::Mutex;
use serde_json::{Value, json};

/// One call: method, path, body.
pub(crate) type Call = (Method, String, Value);

/// The calls that were made so far.
pub(crate) type Calls = Arc<Mutex<Vec<Call>>>;

/// A client whose every call is recorded and answered with a status code and a body.
pub(crate) fn client(answer: impl Fn(&Call) -> (u16, Value) + Send + Sync + 'static) -> (Client, Calls) {
    let calls = Calls::default();
    let (log, answer) = (calls.clone(), Arc::new(answer));
    let service = tower::service_fn(move |request: Request<Body>| {
        let (log, answer) = (log.clone(), answer.clone());
        async move {
            let (head, body) = request.into_parts();
            let bytes = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
            let body = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
            let call = (head.method, head.uri.path().to_owned(), body);
            let (code, body) = answer(&call);
            log.lock().push(call);
            let response = Response::builder().status(code).body(Body::from(body.to_string().into_bytes()));
            response.map_err(|error| Box::new(error) as Box<dyn std::error::Error + Send + Sync>)
        }
    });
    (Client::new(service, "default"), calls)
}

/// A Status as the apiserver answers it.
pub(crate) fn status(code: u16, reason: &str) -> (u16, Value) {
    let body = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": reason, "code": code,
        "message": format!("made up: {reason}")});
    (code, body)
}
