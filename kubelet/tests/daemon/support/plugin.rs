//! A device plugin: two devices on a socket, whose health tests change; and calls to the kubelet's own sockets.

use std::path::Path;
use std::sync::Arc;

use futures::StreamExt;
use hyper_util::rt::{TokioExecutor, TokioIo};
use kubelet::devices::wire;
use parking_lot::Mutex;
use prost::Message;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;
use tokio_stream::wrappers::WatchStream;
use tonic::{Request, Response, Status};
use tonic_prost::ProstCodec;

/// Calls a method on a socket.
pub async fn call<Q, A>(socket: &Path, method: &'static str, request: Q) -> Result<A, Status>
where
    Q: Message + Send + Sync + 'static,
    A: Message + Default + Send + Sync + 'static,
{
    let socket = socket.to_owned();
    let connector = tower::service_fn(move |_: http::Uri| {
        let socket = socket.clone();
        async move { Ok::<_, std::io::Error>(TokioIo::new(UnixStream::connect(socket).await?)) }
    });
    let endpoint = tonic::transport::Endpoint::from_static("http://localhost");
    let mut client = tonic::client::Grpc::new(endpoint.connect_with_connector_lazy(connector));
    client.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
    let path = http::uri::PathAndQuery::from_static(method);
    Ok(client.unary(Request::new(request), path, ProstCodec::<Q, A>::default()).await?.into_inner())
}

/// The plugin of `example.com/device`.
pub struct FakePlugin {
    devices: watch::Sender<Vec<wire::Device>>,
    calls: Arc<Mutex<Vec<String>>>,
    server: tokio::task::JoinHandle<()>,
}

fn device(id: &str, health: &str) -> wire::Device {
    wire::Device { id: id.to_owned(), health: health.to_owned(), topology: None }
}

impl FakePlugin {
    /// Serves and registers.
    pub async fn start(directory: &Path) -> Self {
        let (devices, lists) = watch::channel(vec![device("one", "Healthy"), device("two", "Healthy")]);
        let calls = Arc::new(Mutex::new(Vec::new()));
        let socket = directory.join("plugin.sock");
        let _ = std::fs::remove_file(&socket);
        let listener = UnixListener::bind(&socket).unwrap();
        let server = tokio::spawn(serve(listener, lists, calls.clone()));
        let request = wire::RegisterRequest {
            version: "v1beta1".into(),
            endpoint: "plugin.sock".into(),
            resource_name: "example.com/device".into(),
            options: None,
        };
        let _: wire::Empty = call(&directory.join("kubelet.sock"), wire::REGISTER, request).await.unwrap();
        Self { devices, calls, server }
    }

    pub fn set_health(&self, one: &str, two: &str) {
        self.devices.send_replace(vec![device("one", one), device("two", two)]);
    }

    /// What the kubelet asked of it.
    pub fn calls(&self) -> Vec<String> {
        self.calls.lock().clone()
    }
}

impl Drop for FakePlugin {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn serve(listener: UnixListener, lists: watch::Receiver<Vec<wire::Device>>, calls: Arc<Mutex<Vec<String>>>) {
    // Connections end with the server.
    let mut connections = tokio::task::JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let (lists, calls) = (lists.clone(), calls.clone());
        connections.spawn(async move {
            let service = hyper::service::service_fn(move |request| answer(request, lists.clone(), calls.clone()));
            let connection = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            let _ = connection.serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

async fn answer(
    request: http::Request<hyper::body::Incoming>,
    lists: watch::Receiver<Vec<wire::Device>>,
    calls: Arc<Mutex<Vec<String>>>,
) -> Result<http::Response<tonic::body::Body>, std::convert::Infallible> {
    let answer = match request.uri().path() {
        wire::OPTIONS => {
            let service = tower::service_fn(async |_: Request<wire::Empty>| {
                let options =
                    wire::DevicePluginOptions { pre_start_required: true, get_preferred_allocation_available: true };
                Ok::<_, Status>(Response::new(options))
            });
            tonic::server::Grpc::new(ProstCodec::<wire::DevicePluginOptions, wire::Empty>::default())
                .unary(service, request)
                .await
        }
        wire::LIST_AND_WATCH => {
            let service = tower::service_fn(move |_: Request<wire::Empty>| {
                let lists = WatchStream::new(lists.clone());
                let lists = lists.map(|devices| Ok::<_, Status>(wire::ListAndWatchResponse { devices })).boxed();
                async move { Ok::<_, Status>(Response::new(lists)) }
            });
            let codec = ProstCodec::<wire::ListAndWatchResponse, wire::Empty>::default();
            tonic::server::Grpc::new(codec).server_streaming(service, request).await
        }
        wire::PREFERRED => {
            let service = tower::service_fn(async |_: Request<wire::PreferredAllocationRequest>| {
                let likes = wire::ContainerPreferredAllocationResponse { device_ids: vec!["two".into()] };
                Ok::<_, Status>(Response::new(wire::PreferredAllocationResponse { container_responses: vec![likes] }))
            });
            let codec = ProstCodec::<wire::PreferredAllocationResponse, wire::PreferredAllocationRequest>::default();
            tonic::server::Grpc::new(codec).unary(service, request).await
        }
        wire::ALLOCATE => {
            let service = tower::service_fn(move |request: Request<wire::AllocateRequest>| {
                let ids = request.into_inner().container_requests.remove(0).devices_ids;
                calls.lock().push(format!("allocate {}", ids.join(" ")));
                let node = |id: &String| wire::DeviceSpec {
                    container_path: format!("/dev/{id}"),
                    host_path: "/dev/null".into(),
                    permissions: "rw".into(),
                };
                let answer = wire::ContainerAllocateResponse {
                    envs: [("DEVICES".to_owned(), ids.join(","))].into(),
                    devices: ids.iter().map(node).collect(),
                    cdi_devices: vec![wire::CdiDevice { name: "example.com/device=x".into() }],
                    ..wire::ContainerAllocateResponse::default()
                };
                async move { Ok::<_, Status>(Response::new(wire::AllocateResponse { container_responses: vec![answer] })) }
            });
            let codec = ProstCodec::<wire::AllocateResponse, wire::AllocateRequest>::default();
            tonic::server::Grpc::new(codec).unary(service, request).await
        }
        wire::PRE_START => {
            let service = tower::service_fn(move |request: Request<wire::PreStartContainerRequest>| {
                calls.lock().push(format!("prestart {}", request.into_inner().devices_ids.join(" ")));
                async move { Ok::<_, Status>(Response::new(wire::Empty {})) }
            });
            let codec = ProstCodec::<wire::Empty, wire::PreStartContainerRequest>::default();
            tonic::server::Grpc::new(codec).unary(service, request).await
        }
        other => Status::unimplemented(other.to_owned()).into_http(),
    };
    Ok(answer)
}
