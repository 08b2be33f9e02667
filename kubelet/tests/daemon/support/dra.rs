//! A DRA driver with one device, registered over its socket in `plugins_registry`.

use std::path::Path;
use std::sync::Arc;

use hyper_util::rt::{TokioExecutor, TokioIo};
use kubelet::dra::wire;
use kubelet::wire::registration::{self, InfoRequest, PluginInfo, RegistrationStatus, RegistrationStatusResponse};
use parking_lot::Mutex;
use tokio::net::UnixListener;
use tonic::{Request, Response, Status};
use tonic_prost::ProstCodec;

/// The driver `dra.example.com`.
pub struct FakeClaimDriver {
    calls: Arc<Mutex<Vec<String>>>,
    server: tokio::task::JoinHandle<()>,
}

impl FakeClaimDriver {
    /// Serves below a kubelet's root directory.
    pub fn start(root: &Path) -> Self {
        let directory = root.join("plugins_registry");
        std::fs::create_dir_all(&directory).unwrap();
        let socket = directory.join("dra.example.com-reg.sock");
        let calls = Arc::new(Mutex::new(Vec::new()));
        let listener = UnixListener::bind(&socket).unwrap();
        let endpoint = socket.display().to_string();
        let server = tokio::spawn(serve(listener, endpoint, calls.clone()));
        Self { calls, server }
    }

    /// What the kubelet asked of it.
    pub fn calls(&self) -> Vec<String> {
        self.calls.lock().clone()
    }
}

impl Drop for FakeClaimDriver {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn serve(listener: UnixListener, endpoint: String, calls: Arc<Mutex<Vec<String>>>) {
    let mut connections = tokio::task::JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let (endpoint, calls) = (endpoint.clone(), calls.clone());
        connections.spawn(async move {
            let service = hyper::service::service_fn(move |request| answer(request, endpoint.clone(), calls.clone()));
            let connection = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            let _ = connection.serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

type Body = http::Response<tonic::body::Body>;

async fn reply<Q, A>(
    request: http::Request<hyper::body::Incoming>,
    answer: impl Fn(Q) -> A + Clone + Send + 'static,
) -> Body
where
    Q: prost::Message + Default + Send + Sync + 'static,
    A: prost::Message + Default + Send + Sync + 'static,
{
    let service = tower::service_fn(move |request: Request<Q>| {
        let answer = answer(request.into_inner());
        async move { Ok::<_, Status>(Response::new(answer)) }
    });
    tonic::server::Grpc::new(ProstCodec::<A, Q>::default()).unary(service, request).await
}

async fn answer(
    request: http::Request<hyper::body::Incoming>,
    endpoint: String,
    calls: Arc<Mutex<Vec<String>>>,
) -> Result<Body, std::convert::Infallible> {
    let path = request.uri().path().to_owned();
    let note = move |what: &str, claims: &[wire::Claim]| {
        let names: Vec<&str> = claims.iter().map(|claim| claim.name.as_str()).collect();
        calls.lock().push(format!("{what} {}", names.join(" ")));
    };
    Ok(match path.as_str() {
        registration::GET_INFO => {
            reply(request, move |_: InfoRequest| PluginInfo {
                r#type: "DRAPlugin".into(),
                name: "dra.example.com".into(),
                endpoint: endpoint.clone(),
                supported_versions: vec!["v1.DRAPlugin".into(), "v1beta1.DRAPlugin".into()],
            })
            .await
        }
        registration::NOTIFY => {
            reply(request, |status: RegistrationStatus| {
                assert!(status.plugin_registered, "{status:?}");
                RegistrationStatusResponse {}
            })
            .await
        }
        "/k8s.io.kubelet.pkg.apis.dra.v1.DRAPlugin/NodePrepareResources" => {
            reply(request, move |request: wire::ClaimsRequest| {
                note("prepare", &request.claims);
                let device = wire::Device {
                    request_names: vec!["one".into()],
                    pool_name: "n1".into(),
                    device_name: "gpu-0".into(),
                    cdi_device_ids: vec!["example.com/gpu=gpu-0".into()],
                    share_id: None,
                };
                let prepared = wire::NodePrepareResourceResponse { devices: vec![device], error: String::new() };
                let claims = request.claims.into_iter().map(|claim| (claim.uid, prepared.clone())).collect();
                wire::NodePrepareResourcesResponse { claims }
            })
            .await
        }
        "/k8s.io.kubelet.pkg.apis.dra.v1.DRAPlugin/NodeUnprepareResources" => {
            reply(request, move |request: wire::ClaimsRequest| {
                note("unprepare", &request.claims);
                let gone = wire::NodeUnprepareResourceResponse::default();
                let claims = request.claims.into_iter().map(|claim| (claim.uid, gone.clone())).collect();
                wire::NodeUnprepareResourcesResponse { claims }
            })
            .await
        }
        other => Status::unimplemented(other.to_owned()).into_http(),
    })
}
