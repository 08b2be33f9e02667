//! Small gRPC services on unix sockets: a method is an async function from message to message.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use anyhow::Context;
use futures::future::BoxFuture;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::UnixListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tonic_prost::ProstCodec;

/// Connections at one time.
const MOST: usize = 64;

type Answer = http::Response<tonic::body::Body>;
type Method = Box<dyn Fn(http::Request<Incoming>) -> BoxFuture<'static, Answer> + Send + Sync>;

/// Methods by path (`/package.Service/Method`).
#[derive(Default)]
pub(crate) struct Methods(HashMap<&'static str, Method>);

impl Methods {
    /// Adds a method.
    pub(crate) fn unary<Q, A, F, Fut>(mut self, path: &'static str, method: F) -> Self
    where
        Q: prost::Message + Default + Send + Sync + 'static,
        A: prost::Message + Default + Send + Sync + 'static,
        F: Fn(Q) -> Fut + Clone + Send + Sync + 'static,
        Fut: Future<Output = Result<A, Status>> + Send + 'static,
    {
        let answer = move |request: http::Request<Incoming>| -> BoxFuture<'static, Answer> {
            let method = method.clone();
            Box::pin(async move {
                let mut grpc = tonic::server::Grpc::new(ProstCodec::<A, Q>::default());
                let service = tower::service_fn(move |request: tonic::Request<Q>| {
                    let answer = method(request.into_inner());
                    async move { answer.await.map(tonic::Response::new) }
                });
                grpc.unary(service, request).await
            })
        };
        self.0.insert(path, Box::new(answer));
        self
    }

    async fn answer(&self, request: http::Request<Incoming>) -> Answer {
        match self.0.get(request.uri().path()) {
            Some(method) => method(request).await,
            None => Status::unimplemented(format!("unknown method {}", request.uri().path())).into_http(),
        }
    }
}

/// Makes a socket in place of one that an earlier process left.
pub(crate) fn listen(path: &Path) -> anyhow::Result<UnixListener> {
    let bind = || {
        if let Some(directory) = path.parent() {
            std::fs::create_dir_all(directory)?;
        }
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        UnixListener::bind(path)
    };
    bind().with_context(|| format!("listening on {}", path.display()))
}

/// Serves until shutdown.
pub(crate) async fn serve(listener: UnixListener, methods: Methods, shutdown: CancellationToken) {
    let (methods, permits) = (Arc::new(methods), Arc::new(Semaphore::new(MOST)));
    loop {
        let accepted = tokio::select! {
            accepted = async { (permits.clone().acquire_owned().await, listener.accept().await) } => accepted,
            () = shutdown.cancelled() => return,
        };
        let (Ok(permit), Ok((stream, _))) = accepted else {
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            continue;
        };
        let (methods, shutdown) = (methods.clone(), shutdown.clone());
        tokio::spawn(async move {
            let service = hyper::service::service_fn(move |request| {
                let methods = methods.clone();
                async move { Ok::<_, std::convert::Infallible>(methods.answer(request).await) }
            });
            let connection = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                .serve_connection(TokioIo::new(stream), service);
            tokio::select! {
                _ = connection => {}
                () = shutdown.cancelled() => {}
            }
            drop(permit);
        });
    }
}
