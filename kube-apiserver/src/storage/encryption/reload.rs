//! Takes up a changed configuration file without a restart (`--encryption-provider-config-automatic-reload`).

use std::{
    path::PathBuf,
    sync::{Arc, OnceLock},
    time::{Duration, SystemTime},
};

use arc_swap::ArcSwap;
use common::telemetry::register;
use prometheus::{GaugeVec, IntCounterVec, Opts};
use tokio_util::sync::CancellationToken;

use super::{ConfigError, Ring};

/// How often the file is looked at.
const INTERVAL: Duration = Duration::from_secs(60);

struct Metrics {
    reloads: IntCounterVec,
    last: GaugeVec,
}

fn metrics() -> &'static Metrics {
    static METRICS: OnceLock<Metrics> = OnceLock::new();
    METRICS.get_or_init(|| {
        let name = |rest: &str| format!("apiserver_encryption_config_controller_automatic_reload{rest}");
        let reloads = "Total number of reload successes and failures of encryption configuration";
        let last = "Timestamp of the last successful or failed automatic reload of encryption configuration";
        let reloads = IntCounterVec::new(Opts::new(name("s_total"), reloads), &["status"]);
        let last = GaugeVec::new(Opts::new(name("_last_timestamp_seconds"), last), &["status"]);
        Metrics { reloads: register(reloads.expect("constant metric")), last: register(last.expect("constant metric")) }
    })
}

/// A configuration file and the keys that were read from it.
pub struct Reloader {
    path: PathBuf,
    /// The keys in use.
    pub ring: Arc<ArcSwap<Ring>>,
    seen: Vec<u8>,
}

impl Reloader {
    /// Reads the file.
    ///
    /// # Errors
    /// It is missing or breaks a rule.
    pub async fn load(path: PathBuf) -> Result<Self, ConfigError> {
        let seen = tokio::fs::read(&path).await.unwrap_or_default();
        let ring = Ring::load(&path).await?;
        Ok(Self { path, ring: Arc::new(ArcSwap::from_pointee(ring)), seen })
    }

    /// Looks at the file from time to time until `stop`.
    pub async fn run(mut self, stop: CancellationToken) {
        while stop.run_until_cancelled(tokio::time::sleep(INTERVAL)).await.is_some() {
            self.look().await;
        }
    }

    /// Takes the file up if it has changed and can be used; the keys of before stay otherwise.
    pub async fn look(&mut self) {
        let Ok(text) = tokio::fs::read(&self.path).await else { return };
        if text == self.seen {
            return;
        }
        let status = match Ring::load(&self.path).await {
            Ok(ring) => {
                tracing::info!(path = %self.path.display(), "the encryption configuration was reloaded");
                self.ring.store(Arc::new(ring));
                self.seen = text;
                "success"
            }
            Err(error) => {
                tracing::error!(%error, "the changed encryption configuration cannot be used; keeping the old one");
                "failure"
            }
        };
        metrics().reloads.with_label_values(&[status]).inc();
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        metrics().last.with_label_values(&[status]).set(now.as_secs_f64());
    }
}
