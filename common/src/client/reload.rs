//! Rebuilds the HTTP client when kubeconfig, certificate, key or CA change on disk. Requests under way finish on the old one.

use std::{
    path::PathBuf,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, SystemTime},
};

use futures::FutureExt;
use http::{Request, Response};
use kube::{
    Config,
    client::{Body, ClientBuilder, DynBody},
};
use tokio::time::Instant;
use tower::{BoxError, Service, util::BoxService};

use super::{ClientError, Reach, Source, causes};

const CHECK_EVERY: Duration = Duration::from_secs(5);

type Inner = BoxService<Request<Body>, Response<Box<DynBody>>, BoxError>;

/// kube's own stack over one config.
pub(super) fn make_service(config: Config) -> Result<Inner, ClientError> {
    let server = config.cluster_url.to_string();
    let builder =
        ClientBuilder::try_from(config).map_err(|error| ClientError::Build { server, reason: causes(&error) })?;
    Ok(extract(builder))
}

/// The builder hides its service; an identity layer that is handed the service gives it out.
fn extract(builder: ClientBuilder<Inner>) -> Inner {
    struct Take(std::cell::RefCell<Option<Inner>>);
    impl tower::Layer<Inner> for Take {
        type Service = ();
        fn layer(&self, inner: Inner) {
            self.0.replace(Some(inner));
        }
    }
    let take = Take(std::cell::RefCell::new(None));
    builder.with_layer(&take);
    match take.0.into_inner() {
        Some(inner) => inner,
        None => BoxService::new(tower::service_fn(|_| async { Err(BoxError::from("no HTTP client")) })),
    }
}

/// The server as messages name it.
fn address(config: &Config) -> Arc<str> {
    config.cluster_url.to_string().trim_end_matches('/').into()
}

type Stamp = Option<(SystemTime, u64)>;

fn stamps(files: &[PathBuf]) -> Vec<Stamp> {
    let stamp =
        |file: &PathBuf| std::fs::metadata(file).ok().and_then(|data| Some((data.modified().ok()?, data.len())));
    files.iter().map(stamp).collect()
}

/// The reloading service.
pub(super) struct Reloading {
    source: Source,
    inner: Inner,
    files: Vec<PathBuf>,
    seen: Vec<Stamp>,
    check_at: Instant,
    server: Arc<str>,
    reach: Reach,
}

/// Answers every request with why there is no client yet.
fn refusing(why: &ClientError) -> Inner {
    let why = why.to_string();
    BoxService::new(tower::service_fn(move |_| std::future::ready(Err(BoxError::from(why.clone())))))
}

impl Reloading {
    /// Over a config, or over why there is none yet: then the files are looked at with every request.
    pub(super) fn new(source: Source, config: Result<Config, ClientError>, reach: Reach) -> Result<Self, ClientError> {
        let files = source.files();
        let seen = stamps(&files);
        let now = Instant::now();
        let made = config.and_then(|config| Ok((address(&config), make_service(config)?)));
        let (server, inner, check_at) = match made {
            Ok((server, inner)) => (server, inner, now + CHECK_EVERY),
            Err(why) if source.pair.is_some() => ("".into(), refusing(&why), now),
            Err(why) => return Err(why),
        };
        Ok(Self { inner, files, seen, source, check_at, server, reach })
    }

    fn reload_if_changed(&mut self) {
        let now = Instant::now();
        if now < self.check_at {
            return;
        }
        if !self.server.is_empty() {
            self.check_at = now + CHECK_EVERY;
        }
        let current = stamps(&self.files);
        if current == self.seen {
            return;
        }
        // Loading reads files only; it never waits, so it is ready at the first poll.
        let loaded = self.source.load().now_or_never();
        let rebuilt = loaded.map(|config| {
            let config = config?;
            Ok::<_, ClientError>((address(&config), make_service(config)?))
        });
        match rebuilt {
            Some(Ok((server, inner))) => {
                self.server = server;
                tracing::info!("client credentials changed on disk, reloaded");
                self.inner = inner;
                self.files = self.source.files();
                self.seen = stamps(&self.files);
            }
            Some(Err(error)) => {
                tracing::warn!(%error, "client credentials changed on disk but cannot be used; keeping the old ones")
            }
            None => {
                tracing::warn!("client credentials changed on disk but could not be read at once; keeping the old ones")
            }
        }
    }
}

impl Service<Request<Body>> for Reloading {
    type Response = Response<Box<DynBody>>;
    type Error = BoxError;
    type Future = <Inner as Service<Request<Body>>>::Future;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.reload_if_changed();
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let what = (request.method().clone(), self.server.clone(), request.uri().clone());
        let (reach, answer) = (self.reach.clone(), self.inner.call(request));
        reach.watch(what, answer).boxed()
    }
}
