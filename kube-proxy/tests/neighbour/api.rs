//! As much of an API server as a kube-proxy needs, ours or upstream's: lists, watches, and events that nobody reads.
//! It takes objects as they are, so tests may say what a real one would refuse, and holds 40,000 of them easily.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use async_trait::async_trait;
use bytes::Bytes;
use common::serving::{Body, Handler, Peer, json, serve, stream, text};
use futures::StreamExt;
use http::StatusCode;
use hyper::{Request, Response, body::Incoming};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::{net::TcpListener, sync::mpsc};
use tokio_util::sync::CancellationToken;

/// The collections: path, API version, kind.
const KINDS: [(&str, &str, &str); 4] = [
    ("/api/v1/services", "v1", "Service"),
    ("/api/v1/nodes", "v1", "Node"),
    ("/apis/discovery.k8s.io/v1/endpointslices", "discovery.k8s.io/v1", "EndpointSlice"),
    ("/apis/networking.k8s.io/v1/servicecidrs", "networking.k8s.io/v1", "ServiceCIDR"),
];

/// Objects by kind, and who watches them. Clones share them.
#[derive(Clone, Default)]
pub struct Api {
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    version: u64,
    /// By kind, then `namespace/name`; as JSON text, which is compact.
    objects: HashMap<&'static str, BTreeMap<String, Bytes>>,
    watchers: HashMap<&'static str, Vec<mpsc::UnboundedSender<Bytes>>>,
    /// Changes since the start, for watches that begin in the past.
    log: Vec<(u64, &'static str, Bytes)>,
    events: Vec<Value>,
}

fn kind(name: &str) -> Option<&'static (&'static str, &'static str, &'static str)> {
    KINDS.iter().find(|(_, _, kind)| *kind == name)
}

fn key(object: &Value) -> String {
    let text = |field: &str| object["metadata"][field].as_str().unwrap_or_default().to_owned();
    format!("{}/{}", text("namespace"), text("name"))
}

fn frame(event: &str, object: &[u8]) -> Bytes {
    [b"{\"type\":\"", event.as_bytes(), b"\",\"object\":", object, b"}\n"].concat().into()
}

impl Api {
    /// Serves on this socket until `shutdown`.
    pub fn serve(&self, listener: TcpListener, shutdown: CancellationToken) {
        tokio::spawn(serve(listener, None, Arc::new(self.clone()), shutdown));
    }

    /// Adds or replaces an object; its `kind` says where.
    ///
    /// # Panics
    /// For a kind that no proxy watches.
    pub fn put(&self, mut object: Value) {
        let name = object["kind"].as_str().unwrap_or_default().to_owned();
        let Some((_, version, kind)) = kind(&name) else { panic!("no such kind: {name}") };
        let mut state = self.state.lock();
        state.version += 1;
        let at = state.version;
        object["apiVersion"] = (*version).into();
        object["metadata"]["resourceVersion"] = at.to_string().into();
        object["metadata"]["uid"] = format!("uid-{}", key(&object)).into();
        let bytes = Bytes::from(object.to_string());
        let old = state.objects.entry(kind).or_default().insert(key(&object), bytes.clone());
        state.tell(at, kind, frame(if old.is_some() { "MODIFIED" } else { "ADDED" }, &bytes));
    }

    /// Removes an object.
    pub fn delete(&self, name: &str, namespace: &str, object: &str) {
        let Some((_, _, kind)) = kind(name) else { return };
        let mut state = self.state.lock();
        state.version += 1;
        let at = state.version;
        if let Some(bytes) = state.objects.entry(kind).or_default().remove(&format!("{namespace}/{object}")) {
            state.tell(at, kind, frame("DELETED", &bytes));
        }
    }

    /// Events that were recorded so far.
    #[must_use]
    pub fn events(&self) -> Vec<Value> {
        self.state.lock().events.clone()
    }

    fn list(&self, kind: &(&'static str, &'static str, &'static str)) -> Response<Body> {
        let state = self.state.lock();
        let mut body = format!(
            "{{\"kind\":\"{}List\",\"apiVersion\":\"{}\",\"metadata\":{{\"resourceVersion\":\"{}\"}},\"items\":[",
            kind.2, kind.1, state.version
        )
        .into_bytes();
        for (at, object) in state.objects.get(kind.2).into_iter().flat_map(BTreeMap::values).enumerate() {
            if at > 0 {
                body.push(b',');
            }
            body.extend(object);
        }
        body.extend(b"]}");
        let mut response = Response::new(common::serving::full(body));
        response.headers_mut().insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static("application/json"));
        response
    }

    fn watch(&self, kind: &(&'static str, &'static str, &'static str), query: &str) -> Response<Body> {
        let value = |name: &str| {
            let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
            pairs.find(|(key, _)| *key == name).map(|(_, value)| value).unwrap_or_default()
        };
        let (sender, receiver) = mpsc::unbounded_channel();
        let mut state = self.state.lock();
        if value("sendInitialEvents") == "true" {
            for object in state.objects.get(kind.2).into_iter().flat_map(BTreeMap::values) {
                let _ = sender.send(frame("ADDED", object));
            }
            let end = json!({
                "kind": kind.2, "apiVersion": kind.1,
                "metadata": {"resourceVersion": state.version.to_string(), "annotations": {"k8s.io/initial-events-end": "true"}},
            });
            let _ = sender.send(frame("BOOKMARK", end.to_string().as_bytes()));
        } else {
            let from: u64 = value("resourceVersion").parse().unwrap_or(0);
            let start = state.log.partition_point(|(at, _, _)| *at <= from);
            for (_, _, bytes) in state.log[start..].iter().filter(|(_, of, _)| *of == kind.2) {
                let _ = sender.send(bytes.clone());
            }
        }
        state.watchers.entry(kind.2).or_default().push(sender);
        let frames = tokio_stream::wrappers::UnboundedReceiverStream::new(receiver);
        let mut response = Response::new(stream(frames.map(Ok::<_, std::io::Error>)));
        response.headers_mut().insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static("application/json"));
        response
    }
}

impl State {
    fn tell(&mut self, at: u64, kind: &'static str, bytes: Bytes) {
        self.watchers.entry(kind).or_default().retain(|watcher| watcher.send(bytes.clone()).is_ok());
        self.log.push((at, kind, bytes));
    }
}

#[async_trait]
impl Handler for Api {
    async fn handle(&self, request: Request<Incoming>, _: Arc<Peer>) -> Response<Body> {
        let path = request.uri().path().to_owned();
        let query = request.uri().query().unwrap_or_default().to_owned();
        if path.ends_with("/events") && request.method() == http::Method::POST {
            let body = http_body_util::BodyExt::collect(request.into_body()).await;
            let bytes = body.map(http_body_util::Collected::to_bytes).unwrap_or_default();
            let event: Value = serde_json::from_slice(&bytes).unwrap_or_default();
            self.state.lock().events.push(event.clone());
            return json(StatusCode::CREATED, &event);
        }
        match KINDS.iter().find(|(of, _, _)| *of == path) {
            Some(kind) if query.split('&').any(|pair| pair == "watch=true" || pair == "watch=1") => {
                self.watch(kind, &query)
            }
            Some(kind) => self.list(kind),
            None => text(StatusCode::NOT_FOUND, "404 page not found\n"),
        }
    }
}
