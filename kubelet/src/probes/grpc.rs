//! gRPC probes: `grpc.health.v1.Health/Check`.

use std::time::Duration;

use tonic::transport::Endpoint;

use super::task::Outcome;

const SERVING: i32 = 1;

#[derive(Clone, PartialEq, prost::Message)]
struct CheckRequest {
    #[prost(string, tag = "1")]
    service: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct CheckResponse {
    #[prost(int32, tag = "1")]
    status: i32,
}

/// Asks once.
pub(super) async fn check(address: &str, service: &str, timeout: Duration) -> Outcome {
    match tokio::time::timeout(timeout, ask(address, service)).await {
        Ok(Ok(SERVING)) => Outcome::Good,
        Ok(Ok(_)) => Outcome::Bad("service unhealthy (responded with \"NOT_SERVING\")".into()),
        Ok(Err(error)) => Outcome::Bad(error),
        Err(_) => Outcome::Bad(format!("timeout: health rpc did not complete within {timeout:?}")),
    }
}

async fn ask(address: &str, service: &str) -> Result<i32, String> {
    let endpoint = Endpoint::try_from(format!("http://{address}")).map_err(|error| error.to_string())?;
    let channel = endpoint
        .connect()
        .await
        .map_err(|error| format!("timeout: failed to connect service {address:?} within 1s: {error}"))?;
    let mut client = tonic::client::Grpc::new(channel);
    client.ready().await.map_err(|error| error.to_string())?;
    let path = http::uri::PathAndQuery::from_static("/grpc.health.v1.Health/Check");
    let codec = tonic_prost::ProstCodec::<CheckRequest, CheckResponse>::default();
    let request = tonic::Request::new(CheckRequest { service: service.to_owned() });
    match client.unary(request, path, codec).await {
        Ok(answer) => Ok(answer.into_inner().status),
        Err(status) if status.code() == tonic::Code::Unimplemented => Err(format!(
            "error: this server does not implement the grpc health protocol (grpc.health.v1.Health): {}",
            status.message()
        )),
        Err(status) => Err(format!("error: health rpc probe failed: {status}")),
    }
}
