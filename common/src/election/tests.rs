//! An election against a server that keeps one Lease and can be told to fail.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use async_trait::async_trait;
use http::{Method, Request, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use parking_lot::Mutex;
use serde_json::Value;
use tokio::net::TcpListener;

use super::*;
use crate::{
    config::flags::ClientConnection,
    serving::{self, Body, Handler, Peer},
};

#[derive(Default)]
struct Server {
    lease: Mutex<Option<Value>>,
    broken: AtomicBool,
}

#[async_trait]
impl Handler for Server {
    async fn handle(&self, request: Request<Incoming>, _peer: Arc<Peer>) -> Response<Body> {
        if self.broken.load(Ordering::SeqCst) {
            return serving::status(StatusCode::INTERNAL_SERVER_ERROR, "InternalError", "broken");
        }
        let (method, path) = (request.method().clone(), request.uri().path().to_owned());
        let body = request.into_body().collect().await.unwrap().to_bytes();
        if path.ends_with("/events") {
            return serving::json(StatusCode::CREATED, &serde_json::from_slice::<Value>(&body).unwrap());
        }
        if method == Method::GET {
            return match &*self.lease.lock() {
                Some(lease) => serving::json(StatusCode::OK, lease),
                None => serving::status(StatusCode::NOT_FOUND, "NotFound", "no such lease"),
            };
        }
        let lease: Value = serde_json::from_slice(&body).unwrap();
        *self.lease.lock() = Some(lease.clone());
        serving::json(StatusCode::OK, &lease)
    }
}

async fn start() -> (Arc<Server>, Client, LeaderElection, CancellationToken) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let master = Some(format!("http://{}", listener.local_addr().unwrap()));
    let (server, shutdown) = (Arc::new(Server::default()), CancellationToken::new());
    tokio::spawn(serving::serve(listener, None, server.clone(), CancellationToken::new()));
    let connection = ClientConnection { master, ..ClientConnection::default() };
    let client = crate::client::connect(&connection, "test").await.unwrap();
    let flags = LeaderElection {
        leader_elect_lease_duration: Duration::from_secs(2),
        leader_elect_renew_deadline: Duration::from_millis(300),
        leader_elect_retry_period: Duration::from_millis(20),
        ..LeaderElection::default()
    };
    (server, client, flags, shutdown)
}

#[tokio::test]
async fn leads_renews_and_releases_at_shutdown() {
    let (server, client, flags, shutdown) = start().await;
    let (stop, watched) = (shutdown.clone(), server.clone());
    let holder =
        |server: &Server| server.lease.lock().as_ref().unwrap()["spec"]["holderIdentity"].as_str().unwrap().to_owned();
    let election = Election::new(client, &flags, "test-leads").unwrap();
    let me = election.identity().to_owned();
    let result = election.run(shutdown, |token| async move {
        let renewed = |server: &Server| server.lease.lock().as_ref().unwrap()["spec"]["renewTime"].clone();
        let first = renewed(&watched);
        while renewed(&watched) == first {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(holder(&watched), me);
        stop.cancel();
        token.cancelled().await;
        Ok(())
    });
    result.await.unwrap();
    assert_eq!(server.lease.lock().as_ref().unwrap()["spec"]["holderIdentity"], "");
}

#[tokio::test]
async fn losing_the_server_ends_leadership() {
    let (server, client, flags, shutdown) = start().await;
    let election = Election::new(client, &flags, "test-loses").unwrap();
    let result = election.run(shutdown, |_token| async move {
        server.broken.store(true, Ordering::SeqCst);
        std::future::pending().await
    });
    let error = result.await.unwrap_err();
    assert!(error.downcast_ref::<LeadershipLost>().is_some(), "{error}");
}
