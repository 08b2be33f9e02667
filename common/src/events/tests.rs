//! What the recorders send, as a server sees it that can be told to refuse.

use std::{collections::VecDeque, sync::Arc};

use async_trait::async_trait;
use http::{Request, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use jiff::Timestamp;
use parking_lot::Mutex;
use serde_json::Value;
use tokio::{net::TcpListener, sync::mpsc};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::*;
use crate::{
    config::flags::ClientConnection,
    serving::{self, Body, Handler, Peer},
};

/// Method, path and body of a request.
type Seen = (String, String, Value);

struct Server {
    seen: mpsc::UnboundedSender<Seen>,
    /// Codes with which the next requests are refused; 200 lets one pass.
    codes: Mutex<VecDeque<u16>>,
}

#[async_trait]
impl Handler for Server {
    async fn handle(&self, request: Request<Incoming>, _: Arc<Peer>) -> Response<Body> {
        let (method, path) = (request.method().to_string(), request.uri().path().to_owned());
        let body = request.into_body().collect().await.unwrap().to_bytes();
        let body: Value = serde_json::from_slice(&body).unwrap();
        self.seen.send((method.clone(), path, body.clone())).unwrap();
        match self.codes.lock().pop_front().unwrap_or(200) {
            200 if method == "POST" => serving::json(StatusCode::CREATED, &body),
            200 => serving::json(
                StatusCode::OK,
                &serde_json::json!({"metadata": {}, "involvedObject": {}, "eventTime": null}),
            ),
            code => serving::status(StatusCode::from_u16(code).unwrap(), "Refused", "refused"),
        }
    }
}

struct Fixture {
    client: kube::Client,
    server: Arc<Server>,
    seen: mpsc::UnboundedReceiver<Seen>,
    _stop: DropGuard,
}

async fn start() -> Fixture {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let master = Some(format!("http://{}", listener.local_addr().unwrap()));
    let (sender, seen) = mpsc::unbounded_channel();
    let (server, stop) = (Arc::new(Server { seen: sender, codes: Mutex::default() }), CancellationToken::new());
    tokio::spawn(serving::serve(listener, None, server.clone(), stop.clone()));
    let connection = ClientConnection { master, kube_api_qps: -1.0, ..ClientConnection::default() };
    let client = crate::client::connect(&connection, "test").await.unwrap();
    Fixture { client, server, seen, _stop: stop.drop_guard() }
}

impl Fixture {
    async fn next(&mut self) -> Seen {
        self.seen.recv().await.unwrap()
    }

    fn refuse(&self, codes: &[u16]) {
        self.server.codes.lock().extend(codes);
    }
}

fn pod() -> ObjectReference {
    ObjectReference {
        kind: Some("Pod".into()),
        namespace: Some("ns".into()),
        name: Some("p".into()),
        uid: Some("u".into()),
        ..ObjectReference::default()
    }
}

const CORE: &str = "/api/v1/namespaces/ns/events";
const V1: &str = "/apis/events.k8s.io/v1/namespaces/ns/events";

#[tokio::test]
async fn a_repeated_event_is_counted_and_made_again_when_it_is_gone() {
    let mut fixture = start().await;
    let recorder = Recorder::new(fixture.client.clone(), "kubelet", "n1");
    let event = || recorder.event(&pod(), EventType::Warning, "Failed", "it failed");
    event();
    let (method, path, first) = fixture.next().await;
    assert_eq!((method.as_str(), path.as_str()), ("POST", CORE));
    assert_eq!((&first["count"], &first["source"]["host"]), (&Value::from(1), &Value::from("n1")));
    let name = first["metadata"]["name"].as_str().unwrap().to_owned();

    event();
    let (method, path, patch) = fixture.next().await;
    assert_eq!((method.as_str(), path), ("PATCH", format!("{CORE}/{name}")));
    assert_eq!((&patch["count"], &patch["message"]), (&Value::from(2), &Value::from("it failed")));

    fixture.refuse(&[404]);
    event();
    assert_eq!(fixture.next().await.0, "PATCH");
    let (method, _, whole) = fixture.next().await;
    assert_eq!((method.as_str(), &whole["count"], &whole["reason"]), ("POST", &Value::from(3), &"Failed".into()));
    assert_eq!(whole["firstTimestamp"], first["firstTimestamp"]);
}

#[tokio::test]
async fn a_refused_event_is_not_tried_again() {
    let mut fixture = start().await;
    let recorder = Recorder::new(fixture.client.clone(), "kubelet", "n1");
    fixture.refuse(&[422, 409]);
    for reason in ["First", "Second", "Third"] {
        recorder.event(&pod(), EventType::Normal, reason, "m");
        assert_eq!(fixture.next().await.2["reason"], reason);
    }
}

#[tokio::test]
async fn similar_events_are_combined_from_the_tenth_on() {
    let mut fixture = start().await;
    let recorder = Recorder::new(fixture.client.clone(), "kubelet", "n1");
    let mut combined = Value::Null;
    for index in 1..=12 {
        recorder.event(&pod(), EventType::Warning, "Failed", format!("attempt {index}"));
        let (method, path, body) = fixture.next().await;
        let message = match index {
            1..=9 => format!("attempt {index}"),
            _ => format!("(combined from similar events): attempt {index}"),
        };
        assert_eq!(body["message"], message);
        match index {
            1..=9 => assert_eq!(method, "POST"),
            10 => combined = body["metadata"]["name"].clone(),
            _ => assert_eq!((method, path), ("PATCH".into(), format!("{CORE}/{}", combined.as_str().unwrap()))),
        }
    }
}

#[tokio::test]
async fn a_series_is_patched_once_and_made_again_when_its_event_is_gone() {
    let mut fixture = start().await;
    let recorder = EventsV1Recorder::new(fixture.client.clone(), "default-scheduler", "s1");
    let event = |reason| recorder.event(&pod(), None, EventType::Warning, reason, "Scheduling", "no room");
    event("Full");
    let (method, path, first) = fixture.next().await;
    assert_eq!((method.as_str(), path.as_str(), &first["series"]), ("POST", V1, &Value::Null));
    assert_eq!((&first["note"], &first["reportingController"]), (&"no room".into(), &"default-scheduler".into()));

    fixture.refuse(&[404]);
    event("Full");
    let (method, path, patch) = fixture.next().await;
    let name = first["metadata"]["name"].as_str().unwrap();
    assert_eq!((method.as_str(), path), ("PATCH", format!("{V1}/{name}")));
    assert_eq!(patch["series"]["count"], 2);
    let (method, _, whole) = fixture.next().await;
    assert_eq!((method.as_str(), &whole["series"]["count"]), ("POST", &Value::from(2)));
    assert_eq!(whole["eventTime"], first["eventTime"]);

    // The third is only counted: what is sent next is another event.
    event("Full");
    event("Other");
    assert_eq!(fixture.next().await.2["reason"], "Other");
}

#[test]
fn an_event_is_named_after_its_object() {
    let name = event_name(&pod(), Timestamp::from_second(1).unwrap());
    assert_eq!((name.as_str(), event_namespace(&pod()).as_str()), ("p.3b9aca00", "ns"));
    assert_eq!(event_namespace(&ObjectReference::default()), "default");
}
