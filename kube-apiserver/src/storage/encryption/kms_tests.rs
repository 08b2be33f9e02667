//! The key management service's side, played by a gRPC server on a socket.

use std::{convert::Infallible, path::Path, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use parking_lot::Mutex;
use prost::Message;
use tokio::net::UnixListener;
use tonic::{Status, body::Body, codegen::BoxFuture, server::UnaryService};

use super::kms::{
    DecryptRequest, DecryptResponse, EncryptRequest, EncryptResponse, Kms, StatusRequest, StatusResponse,
};

/// What the service answers.
#[derive(Clone)]
struct Service(Arc<Mutex<State>>);

struct State {
    key_id: &'static str,
    healthz: &'static str,
    decrypts: usize,
}

/// "Encrypts" by turning bytes round.
fn turn(bytes: &[u8]) -> Vec<u8> {
    bytes.iter().map(|byte| !byte).collect()
}

struct Unary<F>(F);

impl<F, Q, A> UnaryService<Q> for Unary<F>
where
    F: Fn(Q) -> Result<A, Status>,
    A: Send + 'static,
{
    type Response = A;
    type Future = BoxFuture<tonic::Response<A>, Status>;

    fn call(&mut self, request: tonic::Request<Q>) -> Self::Future {
        let answer = (self.0)(request.into_inner()).map(tonic::Response::new);
        Box::pin(async move { answer })
    }
}

async fn unary<Q, A>(request: Request<Incoming>, answer: impl Fn(Q) -> Result<A, Status>) -> Response<Body>
where
    Q: Message + Default + 'static,
    A: Message + 'static,
{
    let codec = tonic_prost::ProstCodec::<A, Q>::default();
    tonic::server::Grpc::new(codec).unary(Unary(answer), request).await
}

impl Service {
    async fn serve(self, request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
        let state = &self.0;
        Ok(match request.uri().path() {
            "/v2.KeyManagementService/Status" => {
                unary(request, |_: StatusRequest| {
                    let state = state.lock();
                    let (healthz, key_id) = (state.healthz.to_owned(), state.key_id.to_owned());
                    Ok(StatusResponse { version: "v2".to_owned(), healthz, key_id })
                })
                .await
            }
            "/v2.KeyManagementService/Encrypt" => {
                unary(request, |request: EncryptRequest| {
                    let annotations = [("kek.example".to_owned(), b"1".to_vec())].into();
                    let key_id = state.lock().key_id.to_owned();
                    Ok(EncryptResponse { ciphertext: turn(&request.plaintext), key_id, annotations })
                })
                .await
            }
            _ => {
                unary(request, |request: DecryptRequest| {
                    state.lock().decrypts += 1;
                    if request.annotations.get("kek.example").is_none_or(|value| value != b"1") {
                        return Err(Status::invalid_argument("annotations are missing"));
                    }
                    Ok(DecryptResponse { plaintext: turn(&request.ciphertext) })
                })
                .await
            }
        })
    }
}

fn start(socket: &Path) -> Service {
    let service = Service(Arc::new(Mutex::new(State { key_id: "k1", healthz: "ok", decrypts: 0 })));
    let (listener, served) = (UnixListener::bind(socket).unwrap(), service.clone());
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let service = served.clone();
            tokio::spawn(async move {
                let serve = hyper::service::service_fn(move |request| service.clone().serve(request));
                let http2 = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                let _ = http2.serve_connection(TokioIo::new(stream), serve).await;
            });
        }
    });
    service
}

#[tokio::test]
async fn seeds_are_kept_by_the_service_and_follow_its_key() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("kms.sock");
    let endpoint = format!("unix://{}", socket.display());
    let early = Kms::start("test", &endpoint, Duration::from_millis(500)).await;
    assert!(early.health().is_err() && early.seal(b"x", b"k").await.is_err(), "nobody answers yet");

    let service = start(&socket);
    let kms = Kms::start("test", &endpoint, Duration::from_secs(3)).await;
    kms.health().unwrap();
    let sealed = kms.seal(b"value", b"/registry/secrets/default/a").await.unwrap();
    assert_eq!(kms.open(&sealed, b"/registry/secrets/default/a").await.unwrap(), (b"value".to_vec(), false));
    assert_eq!(service.0.lock().decrypts, 0, "its own seed is known");
    assert!(kms.open(&sealed, b"/registry/secrets/default/b").await.is_err(), "bound to its key");

    let other = Kms::start("test", &endpoint, Duration::from_secs(3)).await;
    for _ in 0..3 {
        assert_eq!(other.open(&sealed, b"/registry/secrets/default/a").await.unwrap().0, b"value");
    }
    assert_eq!(service.0.lock().decrypts, 1, "a seed is asked for once");

    service.0.lock().key_id = "k2";
    kms.refresh().await;
    assert_eq!(kms.open(&sealed, b"/registry/secrets/default/a").await.unwrap(), (b"value".to_vec(), true));
    let newer = kms.seal(b"value", b"/registry/secrets/default/a").await.unwrap();
    assert!(!kms.open(&newer, b"/registry/secrets/default/a").await.unwrap().1);

    service.0.lock().healthz = "no";
    kms.refresh().await;
    assert_eq!(kms.health().unwrap_err(), "kms provider test: got unexpected healthz status: no");
    assert!(kms.open(&Bytes::from_static(b"nonsense"), b"k").await.is_err());
}
