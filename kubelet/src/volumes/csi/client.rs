//! Calls of a driver's node service.

use std::path::Path;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use prometheus::{HistogramOpts, HistogramVec};
use tonic::Code;

use super::parameters;
use crate::rpc::{RpcError, Socket};
use crate::volumes::external::Failure;
use crate::wire::csi::{self as wire, capability::Kind};

/// How long a driver may take for one call.
const PATIENCE: Duration = Duration::from_secs(120);

static SECONDS: LazyLock<HistogramVec> = LazyLock::new(|| {
    let options = HistogramOpts::new(
        "csi_operations_seconds",
        "Container Storage Interface operation duration with gRPC error code status total",
    )
    .buckets(vec![0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 15.0, 25.0, 50.0, 120.0, 300.0, 600.0]);
    let labels = ["driver_name", "method_name", "grpc_status_code", "migrated"];
    #[allow(clippy::expect_used, reason = "a constant description")]
    let histogram = HistogramVec::new(options, &labels).expect("a valid metric");
    common::telemetry::register(histogram)
});

/// What a driver can do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Capabilities {
    pub(crate) stage: bool,
    pub(crate) stats: bool,
    pub(crate) expand: bool,
    pub(crate) condition: bool,
    pub(crate) multi_writer: bool,
    pub(crate) mount_group: bool,
}

/// Use of a volume as its driver tells it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Usage {
    /// (available, total, used) bytes.
    pub(crate) bytes: Option<(i64, i64, i64)>,
    /// The same of inodes.
    pub(crate) inodes: Option<(i64, i64, i64)>,
    pub(crate) abnormal: Option<bool>,
}

/// A registered driver.
#[derive(Clone)]
pub(crate) struct Client {
    pub(super) name: String,
    pub(super) socket: Socket,
}

/// Whether the driver may still be at it, or have done it, when a call failed so.
fn is_final(code: Code) -> bool {
    !matches!(
        code,
        Code::Cancelled | Code::DeadlineExceeded | Code::Unavailable | Code::ResourceExhausted | Code::Aborted
    )
}

/// What a failed stage or publish leaves behind.
fn outcome(error: RpcError) -> Failure {
    if is_final(error.code) { Failure::Final(error.to_string()) } else { Failure::Uncertain(error.to_string()) }
}

impl Client {
    async fn call<Q, A>(&self, method: &'static str, request: Q) -> Result<A, RpcError>
    where
        Q: prost::Message + Send + Sync + 'static,
        A: prost::Message + Default + Send + Sync + 'static,
    {
        let begin = Instant::now();
        let answer = self.socket.call(method, request, PATIENCE).await;
        let code = match &answer {
            Ok(_) => "OK".to_owned(),
            Err(error) => crate::rpc::name_of(error.code),
        };
        SECONDS.with_label_values(&[self.name.as_str(), method, &code, "false"]).observe(begin.elapsed().as_secs_f64());
        answer
    }

    pub(super) async fn info(&self) -> Result<wire::NodeInfo, RpcError> {
        self.call(wire::GET_INFO, wire::Empty {}).await
    }

    pub(crate) async fn capabilities(&self) -> Result<Capabilities, RpcError> {
        let answer: wire::Capabilities = self.call(wire::GET_CAPABILITIES, wire::Empty {}).await?;
        let has = |kind: Kind| {
            let mut kinds = answer.capabilities.iter().filter_map(|capability| capability.rpc.as_ref());
            kinds.any(|rpc| rpc.kind == i32::from(kind))
        };
        Ok(Capabilities {
            stage: has(Kind::StageUnstageVolume),
            stats: has(Kind::GetVolumeStats),
            expand: has(Kind::ExpandVolume),
            condition: has(Kind::VolumeCondition),
            multi_writer: has(Kind::SingleNodeMultiWriter),
            mount_group: has(Kind::VolumeMountGroup),
        })
    }

    pub(super) async fn stage(&self, request: wire::StageRequest) -> Result<(), Failure> {
        self.call::<_, wire::Empty>(wire::STAGE, request).await.map(|_| ()).map_err(outcome)
    }

    pub(super) async fn unstage(&self, handle: &str, path: &Path) -> Result<(), RpcError> {
        let request =
            wire::UnstageRequest { volume_id: handle.to_owned(), staging_target_path: parameters::text(path) };
        self.call::<_, wire::Empty>(wire::UNSTAGE, request).await.map(|_| ())
    }

    pub(super) async fn publish(&self, request: wire::PublishRequest) -> Result<(), Failure> {
        self.call::<_, wire::Empty>(wire::PUBLISH, request).await.map(|_| ()).map_err(outcome)
    }

    pub(super) async fn unpublish(&self, handle: &str, path: &Path) -> Result<(), RpcError> {
        let request = wire::UnpublishRequest { volume_id: handle.to_owned(), target_path: parameters::text(path) };
        self.call::<_, wire::Empty>(wire::UNPUBLISH, request).await.map(|_| ())
    }

    pub(super) async fn expand(&self, request: wire::ExpandRequest) -> Result<(), RpcError> {
        self.call::<_, wire::ExpandResponse>(wire::EXPAND, request).await.map(|_| ())
    }

    /// Use of the volume; `None` when the driver does not tell.
    pub(crate) async fn usage(&self, handle: &str, path: &Path) -> Result<Option<Usage>, RpcError> {
        let capabilities = self.capabilities().await?;
        if !capabilities.stats {
            return Ok(None);
        }
        let request = wire::StatsRequest {
            volume_id: handle.to_owned(),
            volume_path: parameters::text(path),
            staging_target_path: String::new(),
        };
        let answer: wire::StatsResponse = self.call(wire::GET_STATS, request).await?;
        let of = |unit: wire::Unit| {
            let mut found = answer.usage.iter().filter(|usage| usage.unit == i32::from(unit));
            found.next().map(|usage| (usage.available, usage.total, usage.used))
        };
        let condition = answer.volume_condition.as_ref().filter(|_| capabilities.condition);
        Ok(Some(Usage {
            bytes: of(wire::Unit::Bytes),
            inodes: of(wire::Unit::Inodes),
            abnormal: condition.map(|condition| condition.abnormal),
        }))
    }
}
