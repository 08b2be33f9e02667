//! gRPC over a unix socket, as the client of plugins.

use std::path::{Path, PathBuf};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use tonic::Code;
use tonic::transport::{Channel, Endpoint, Uri};

/// A failed call, as Go prints it; users and scripts know this form.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("rpc error: code = {} desc = {message}", name_of(*.code))]
pub(crate) struct RpcError {
    /// Why.
    pub(crate) code: Code,
    /// In the plugin's words.
    pub(crate) message: String,
}

/// A code as Go names it.
pub(crate) fn name_of(code: Code) -> String {
    match code {
        Code::Cancelled => "Canceled".into(),
        code => format!("{code:?}"),
    }
}

impl From<tonic::Status> for RpcError {
    fn from(status: tonic::Status) -> Self {
        let mut message = status.message().to_owned();
        // "transport error" alone helps nobody.
        let mut source = std::error::Error::source(&status);
        while let Some(error) = source {
            message = format!("{message}: {error}");
            source = error.source();
        }
        Self { code: status.code(), message }
    }
}

/// A plugin's socket. Connects when first used, and again after the plugin's restart.
#[derive(Clone)]
pub(crate) struct Socket(Channel);

impl Socket {
    /// `path` may carry the scheme `unix://`.
    pub(crate) fn new(path: &Path) -> Self {
        let path = PathBuf::from(path.strip_prefix("unix:").unwrap_or(path));
        let connector = tower::service_fn(move |_: Uri| {
            let path = path.clone();
            async move { Ok::<_, std::io::Error>(TokioIo::new(tokio::net::UnixStream::connect(path).await?)) }
        });
        Self(Endpoint::from_static("http://localhost").connect_with_connector_lazy(connector))
    }

    /// One call; no answer within `patience` is `DeadlineExceeded`.
    pub(crate) async fn call<Q, A>(&self, method: &'static str, request: Q, patience: Duration) -> Result<A, RpcError>
    where
        Q: prost::Message + Send + Sync + 'static,
        A: prost::Message + Default + Send + Sync + 'static,
    {
        match tokio::time::timeout(patience, self.ask(method, request)).await {
            Ok(answer) => answer,
            Err(_) => Err(RpcError { code: Code::DeadlineExceeded, message: "context deadline exceeded".into() }),
        }
    }

    async fn ask<Q, A>(&self, method: &'static str, request: Q) -> Result<A, RpcError>
    where
        Q: prost::Message + Send + Sync + 'static,
        A: prost::Message + Default + Send + Sync + 'static,
    {
        let mut client = self.ready().await?;
        let codec = tonic_prost::ProstCodec::<Q, A>::default();
        let path = http::uri::PathAndQuery::from_static(method);
        Ok(client.unary(tonic::Request::new(request), path, codec).await?.into_inner())
    }

    /// A call whose answers come as long as both sides live.
    pub(crate) async fn stream<Q, A>(&self, method: &'static str, request: Q) -> Result<tonic::Streaming<A>, RpcError>
    where
        Q: prost::Message + Send + Sync + 'static,
        A: prost::Message + Default + Send + Sync + 'static,
    {
        let mut client = self.ready().await?;
        let codec = tonic_prost::ProstCodec::<Q, A>::default();
        let path = http::uri::PathAndQuery::from_static(method);
        Ok(client.server_streaming(tonic::Request::new(request), path, codec).await?.into_inner())
    }

    async fn ready(&self) -> Result<tonic::client::Grpc<Channel>, RpcError> {
        let mut client = tonic::client::Grpc::new(self.0.clone());
        client.ready().await.map_err(|error| {
            let source = std::error::Error::source(&error).map(|source| format!(": {source}")).unwrap_or_default();
            RpcError { code: Code::Unavailable, message: format!("{error}{source}") }
        })?;
        Ok(client)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_read_as_gos() {
        let error = RpcError::from(tonic::Status::cancelled("gone"));
        assert_eq!(error.to_string(), "rpc error: code = Canceled desc = gone");
    }

    #[tokio::test]
    async fn a_missing_socket_is_unavailable() {
        let socket = Socket::new(Path::new("/nowhere/at-all.sock"));
        let request = crate::wire::registration::InfoRequest {};
        let patience = Duration::from_secs(30);
        let answer: Result<crate::wire::registration::PluginInfo, _> =
            socket.call(crate::wire::registration::GET_INFO, request, patience).await;
        assert_eq!(answer.unwrap_err().code, Code::Unavailable);
    }
}
