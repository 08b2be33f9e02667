//! A CSI driver that mounts nothing: it keeps a record of all calls, and fails or dawdles as it is told. Its socket in
//! `plugins_registry` also speaks the protocol of plugin registration.

use std::collections::{HashMap, VecDeque};
use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::future::BoxFuture;
use kubelet::wire::csi::{self as wire, capability::Kind};
use kubelet::wire::registration::{self, PluginInfo, RegistrationStatus};
use parking_lot::Mutex;
use tokio::net::UnixListener;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::body::Body;
use tonic::server::{Grpc, NamedService};
use tonic::{Code, Request, Response, Status};

/// How a call goes, instead of well.
#[derive(Clone, Debug)]
pub enum Trouble {
    Fails(Code, &'static str),
    /// It is done, but only after this long.
    Takes(Duration),
}

#[derive(Default)]
struct State {
    calls: Vec<String>,
    /// By call, one after another.
    troubles: HashMap<String, VecDeque<Trouble>>,
    published: Vec<wire::PublishRequest>,
    staged: Vec<wire::StageRequest>,
    expanded: Vec<wire::ExpandRequest>,
    capabilities: Vec<Kind>,
    told: Vec<RegistrationStatus>,
    max_volumes: i64,
}

/// The driver. What it knows outlives its server.
pub struct FakeDriver {
    name: &'static str,
    socket: PathBuf,
    state: Arc<Mutex<State>>,
    server: Option<tokio::runtime::Runtime>,
}

impl FakeDriver {
    /// Serves below a kubelet's root directory.
    pub fn start(root: &Path, name: &'static str, capabilities: &[Kind]) -> Self {
        let directory = root.join("plugins_registry");
        std::fs::create_dir_all(&directory).unwrap();
        let state = State { capabilities: capabilities.to_vec(), max_volumes: 7, ..State::default() };
        let socket = directory.join(format!("{name}-reg.sock"));
        let mut driver = Self { name, socket, state: Arc::new(Mutex::new(state)), server: None };
        driver.come_back();
        driver
    }

    pub fn come_back(&mut self) {
        let server = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let inside = server.enter();
        let listener = UnixListenerStream::new(UnixListener::bind(&self.socket).unwrap());
        let service = Service { name: self.name, socket: self.socket.clone(), state: self.state.clone() };
        let serving = tonic::transport::Server::builder()
            .add_service(Node(service.clone()))
            .add_service(Registration(service))
            .serve_with_incoming(listener);
        tokio::spawn(serving);
        drop(inside);
        self.server = Some(server);
    }

    /// It died: the socket is still there, and nobody listens.
    pub fn crash(&mut self) {
        if let Some(server) = self.server.take() {
            server.shutdown_background();
        }
    }

    /// The socket is gone, too.
    pub fn go_away(&mut self) {
        self.crash();
        let _ = std::fs::remove_file(&self.socket);
    }

    pub fn trouble(&self, call: &str, trouble: Trouble) {
        self.state.lock().troubles.entry(call.to_owned()).or_default().push_back(trouble);
    }

    /// From now on another number of volumes fits.
    pub fn set_max_volumes(&self, max: i64) {
        self.state.lock().max_volumes = max;
    }

    /// `stage h`, `publish h`, ..., in order.
    pub fn calls(&self) -> Vec<String> {
        self.state.lock().calls.clone()
    }

    pub fn forget_calls(&self) {
        self.state.lock().calls.clear();
    }

    pub fn count(&self, call: &str) -> usize {
        self.state.lock().calls.iter().filter(|have| *have == call).count()
    }

    pub fn published(&self) -> Vec<wire::PublishRequest> {
        self.state.lock().published.clone()
    }

    pub fn staged(&self) -> Vec<wire::StageRequest> {
        self.state.lock().staged.clone()
    }

    pub fn expanded(&self) -> Vec<wire::ExpandRequest> {
        self.state.lock().expanded.clone()
    }

    /// What the kubelet said about its registration.
    pub fn told(&self) -> Vec<RegistrationStatus> {
        self.state.lock().told.clone()
    }
}

impl Drop for FakeDriver {
    fn drop(&mut self) {
        self.go_away();
    }
}

#[derive(Clone)]
struct Service {
    name: &'static str,
    socket: PathBuf,
    state: Arc<Mutex<State>>,
}

impl Service {
    /// Notes the call and goes through what was planned for it.
    async fn call(&self, name: &str, subject: &str) -> Result<(), Status> {
        let trouble = {
            let mut state = self.state.lock();
            state.calls.push(format!("{name} {subject}").trim().to_owned());
            state.troubles.get_mut(name).and_then(VecDeque::pop_front)
        };
        match trouble {
            Some(Trouble::Fails(code, message)) => Err(Status::new(code, message)),
            Some(Trouble::Takes(time)) => {
                tokio::time::sleep(time).await;
                Ok(())
            }
            None => Ok(()),
        }
    }

    async fn publish(self, request: wire::PublishRequest) -> Result<wire::Empty, Status> {
        self.call("publish", &request.volume_id).await?;
        let block = matches!(
            request.volume_capability.as_ref().and_then(|capability| capability.access_type.as_ref()),
            Some(wire::AccessType::Block(_))
        );
        // What lies in it only the driver may remove.
        match block {
            true => std::fs::write(&request.target_path, "device")?,
            false => {
                std::fs::create_dir_all(&request.target_path)?;
                std::fs::write(Path::new(&request.target_path).join("data"), "of the driver")?;
            }
        }
        self.state.lock().published.push(request);
        Ok(wire::Empty {})
    }

    async fn unpublish(self, request: wire::UnpublishRequest) -> Result<wire::Empty, Status> {
        self.call("unpublish", &request.volume_id).await?;
        let _ = std::fs::remove_file(Path::new(&request.target_path).join("data"));
        Ok(wire::Empty {})
    }

    async fn stage(self, request: wire::StageRequest) -> Result<wire::Empty, Status> {
        self.call("stage", &request.volume_id).await?;
        self.state.lock().staged.push(request);
        Ok(wire::Empty {})
    }

    async fn unstage(self, request: wire::UnstageRequest) -> Result<wire::Empty, Status> {
        self.call("unstage", &request.volume_id).await.map(|()| wire::Empty {})
    }

    async fn expand(self, request: wire::ExpandRequest) -> Result<wire::ExpandResponse, Status> {
        self.call("expand", &request.volume_id).await?;
        let capacity_bytes = request.capacity_range.clone().unwrap_or_default().required_bytes;
        self.state.lock().expanded.push(request);
        Ok(wire::ExpandResponse { capacity_bytes })
    }

    async fn stats(self, _: wire::StatsRequest) -> Result<wire::StatsResponse, Status> {
        let usage = |unit: wire::Unit| wire::VolumeUsage { available: 60, total: 100, used: 40, unit: unit.into() };
        Ok(wire::StatsResponse {
            usage: vec![usage(wire::Unit::Bytes), usage(wire::Unit::Inodes)],
            volume_condition: None,
        })
    }

    async fn info(self, _: wire::Empty) -> Result<wire::NodeInfo, Status> {
        self.call("info", "").await?;
        let segments = HashMap::from([("example.com/zone".to_owned(), "z1".to_owned())]);
        Ok(wire::NodeInfo {
            node_id: "node-id".into(),
            max_volumes_per_node: self.state.lock().max_volumes,
            accessible_topology: Some(wire::Topology { segments }),
        })
    }

    async fn capabilities(self, _: wire::Empty) -> Result<wire::Capabilities, Status> {
        Ok(wire::Capabilities::of(&self.state.lock().capabilities))
    }

    async fn plugin(self, _: registration::InfoRequest) -> Result<PluginInfo, Status> {
        Ok(PluginInfo {
            r#type: "CSIPlugin".into(),
            name: self.name.into(),
            endpoint: self.socket.display().to_string(),
            supported_versions: vec!["1.0.0".into()],
        })
    }

    async fn told(self, status: RegistrationStatus) -> Result<registration::RegistrationStatusResponse, Status> {
        self.state.lock().told.push(status);
        Ok(registration::RegistrationStatusResponse {})
    }
}

/// One unary call.
async fn unary<Q, A, F>(
    request: http::Request<Body>,
    work: impl Fn(Q) -> F + Clone + Send + 'static,
) -> http::Response<Body>
where
    Q: prost::Message + Default + Send + 'static,
    A: prost::Message + Default + Send + 'static,
    F: Future<Output = Result<A, Status>> + Send + 'static,
{
    let service = tower::service_fn(move |request: Request<Q>| {
        let work = work(request.into_inner());
        async move { work.await.map(Response::new) }
    });
    Grpc::new(tonic_prost::ProstCodec::<A, Q>::default()).unary(service, request).await
}

macro_rules! grpc_service {
    ($service:ident, $name:literal, $($path:path => $method:ident),*) => {
        #[derive(Clone)]
        struct $service(Service);

        impl NamedService for $service {
            const NAME: &'static str = $name;
        }

        impl tower::Service<http::Request<Body>> for $service {
            type Response = http::Response<Body>;
            type Error = Infallible;
            type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

            fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
                Poll::Ready(Ok(()))
            }

            fn call(&mut self, request: http::Request<Body>) -> Self::Future {
                let service = self.0.clone();
                Box::pin(async move {
                    Ok(match request.uri().path() {
                        $($path => unary(request, move |message| service.clone().$method(message)).await,)*
                        _ => Status::unimplemented("no such method").into_http(),
                    })
                })
            }
        }
    };
}

grpc_service!(Node, "csi.v1.Node",
    wire::GET_INFO => info, wire::GET_CAPABILITIES => capabilities, wire::STAGE => stage, wire::UNSTAGE => unstage,
    wire::PUBLISH => publish, wire::UNPUBLISH => unpublish, wire::GET_STATS => stats, wire::EXPAND => expand);
grpc_service!(Registration, "pluginregistration.Registration",
    registration::GET_INFO => plugin, registration::NOTIFY => told);
