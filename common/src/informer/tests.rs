//! The whole way over HTTP: a scripted apiserver, a watch that breaks, a re-list that misses an object.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use async_trait::async_trait;
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use k8s_openapi::api::core::v1::ConfigMap;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::{
    config::flags::ClientConnection,
    serving::{self, Body, Handler, Peer},
};

fn map(name: &str, version: u64) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"namespace": "ns", "name": name, "resourceVersion": version.to_string()}})
}

/// Lists a and b; the first watch adds c and then says that it expired; the second list lacks b.
#[derive(Default)]
struct Script {
    lists: AtomicUsize,
    agents: Mutex<Vec<String>>,
}

#[async_trait]
impl Handler for Script {
    async fn handle(&self, request: Request<Incoming>, _peer: Arc<Peer>) -> Response<Body> {
        let agent = request.headers().get("user-agent").and_then(|value| value.to_str().ok()).unwrap_or_default();
        self.agents.lock().push(agent.to_owned());
        let query = request.uri().query().unwrap_or_default();
        assert!(query.contains("fieldSelector=metadata.name"), "{query}");
        if !query.contains("watch=true") {
            let items = match self.lists.fetch_add(1, Ordering::SeqCst) {
                0 => vec![map("a", 1), map("b", 2)],
                _ => vec![map("a", 1), map("c", 3)],
            };
            return serving::json(
                StatusCode::OK,
                &json!({"apiVersion": "v1", "kind": "ConfigMapList", "metadata": {"resourceVersion": "5"}, "items": items}),
            );
        }
        let expired = json!({"type": "ERROR", "object": {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "Expired", "code": 410, "message": "too old"}});
        let events = match self.lists.load(Ordering::SeqCst) {
            1 => vec![json!({"type": "ADDED", "object": map("c", 3)}), expired],
            _ => Vec::new(),
        };
        let lines: Vec<Result<Bytes, std::io::Error>> =
            events.iter().map(|event| Ok(Bytes::from(format!("{event}\n")))).collect();
        let forever = futures::stream::pending();
        Response::new(serving::stream(futures::StreamExt::chain(futures::stream::iter(lines), forever)))
    }
}

#[tokio::test]
async fn follows_the_server_through_an_expired_watch() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let server = format!("http://{}", listener.local_addr().unwrap());
    let (script, shutdown) = (Arc::new(Script::default()), CancellationToken::new());
    tokio::spawn(serving::serve(listener, None, script.clone(), shutdown.clone()));

    let connection = ClientConnection { master: Some(server), ..ClientConnection::default() };
    let client = crate::client::connect(&connection, "kube-test").await.unwrap();
    let factory = Factory::new(client);
    let informer = factory.informer_with_field_selector::<ConfigMap>("metadata.name!=x");
    assert!(Arc::ptr_eq(&informer, &factory.informer_with_field_selector::<ConfigMap>("metadata.name!=x")));
    let (sender, mut events) = tokio::sync::mpsc::unbounded_channel();
    informer.on_event(move |event| {
        let kind = match event {
            Event::Added(_) => "added",
            Event::Updated { .. } => "updated",
            Event::Deleted(_) => "deleted",
        };
        sender.send(format!("{kind} {}", object_key(&**event.object()))).unwrap();
    });
    factory.start(&shutdown);
    assert!(factory.wait_for_sync(&shutdown).await && informer.has_synced());
    for want in ["added ns/a", "added ns/b", "added ns/c", "deleted ns/b"] {
        assert_eq!(events.recv().await.unwrap(), want);
    }
    assert_eq!(informer.len(), 2);
    let agent = script.agents.lock()[0].clone();
    assert!(agent.starts_with("kube-test/v1.36.1 (linux/"), "{agent}");
    shutdown.cancel();
}

#[tokio::test]
async fn a_view_waits_for_its_own_informers_alone() {
    let server = tower::service_fn(|_: Request<kube::client::Body>| async {
        Err::<Response<kube::client::Body>, std::io::Error>(std::io::ErrorKind::NotConnected.into())
    });
    let factory = Factory::new(kube::Client::new(server, "default"));
    let (one, other) = (factory.view(), factory.view());
    let maps = one.informer::<ConfigMap>();
    assert!(Arc::ptr_eq(&maps, &other.informer::<ConfigMap>()), "views share informers");
    other.informer::<k8s_openapi::api::core::v1::Pod>();
    assert_eq!(one.unsynced(), ["ConfigMap"]);
    maps.list_done(&std::collections::BTreeSet::new(), std::time::Instant::now());
    let shutdown = CancellationToken::new();
    assert!(one.wait_for_sync(&shutdown).await);
    assert_eq!((other.unsynced(), factory.unsynced()), (vec!["Pod".to_owned()], vec!["Pod".to_owned()]));
    shutdown.cancel();
    assert!(!other.wait_for_sync(&shutdown).await);
}
