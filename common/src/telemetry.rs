//! Logs to stderr (text or JSON, `-v` decides how much) and the prometheus registry that /metrics shows.

use std::sync::OnceLock;

use prometheus::{Encoder, Registry, TextEncoder};
use tracing_subscriber::{EnvFilter, fmt};

use crate::config::flags::{Logging, LoggingFormat};

/// Sets up logging for the process. A second call has no effect, so tests may start several daemons.
pub fn init(logging: &Logging) {
    let builder =
        fmt::Subscriber::builder().with_env_filter(filter(logging.v)).with_writer(std::io::stderr).with_ansi(false);
    let result = match logging.logging_format {
        LoggingFormat::Json => tracing::subscriber::set_global_default(builder.json().flatten_event(true).finish()),
        LoggingFormat::Text => tracing::subscriber::set_global_default(builder.finish()),
    };
    if result.is_err() {
        tracing::debug!("logging is set up already");
    }
}

/// What `-v` shows; dependencies stay quiet until the highest levels. `RUST_LOG` adds directives.
fn filter(v: u8) -> EnvFilter {
    let directives = match v {
        0..=3 => "info,h2=warn,hyper=warn,hyper_util=warn,rustls=warn,tower=warn,kube_client=warn,kube_runtime=error",
        4..=5 => "debug,h2=warn,hyper=warn,hyper_util=warn,rustls=warn,tower=warn,kube_client=info,kube_runtime=warn",
        6..=9 => "trace,h2=info,hyper=info,hyper_util=info,rustls=info,tower=info,kube_client=debug,kube_runtime=debug",
        _ => "trace",
    };
    let extra = std::env::var("RUST_LOG").unwrap_or_default();
    EnvFilter::new(if extra.is_empty() { directives.to_owned() } else { format!("{directives},{extra}") })
}

/// The registry of the process; register metrics with upstream's names.
pub fn registry() -> &'static Registry {
    static REGISTRY: OnceLock<Registry> = OnceLock::new();
    REGISTRY.get_or_init(|| {
        let registry = Registry::new();
        process::register(&registry);
        registry
    })
}

/// Registers a collector and hands it back; if one of the same name is there already (tests), the new one stays unseen.
pub fn register<C: prometheus::core::Collector + Clone + 'static>(collector: C) -> C {
    if let Err(error) = registry().register(Box::new(collector.clone())) {
        tracing::debug!(%error, "metric not registered");
    }
    collector
}

/// What /metrics answers (text format 0.0.4).
pub fn gather_text() -> Vec<u8> {
    let mut text = Vec::with_capacity(16 << 10);
    if let Err(error) = TextEncoder::new().encode(&registry().gather(), &mut text) {
        tracing::warn!(%error, "cannot encode metrics");
    }
    text
}

/// Process metrics from /proc, read at scrape time.
mod process {
    use prometheus::{
        Gauge, Opts, Registry,
        core::{Collector, Desc},
        proto::MetricFamily,
    };

    struct Process {
        resident: Gauge,
        threads: Gauge,
        files: Gauge,
    }

    pub(super) fn register(registry: &Registry) {
        let gauge = |name: &str, help: &str| Gauge::with_opts(Opts::new(name, help));
        let (Ok(resident), Ok(threads), Ok(files)) = (
            gauge("process_resident_memory_bytes", "Resident memory size in bytes."),
            gauge("process_threads", "Number of OS threads in the process."),
            gauge("process_open_fds", "Number of open file descriptors."),
        ) else {
            return;
        };
        if let Err(error) = registry.register(Box::new(Process { resident, threads, files })) {
            tracing::debug!(%error, "process metrics not registered");
        }
    }

    impl Collector for Process {
        fn desc(&self) -> Vec<&Desc> {
            [&self.resident, &self.threads, &self.files].into_iter().flat_map(|gauge| gauge.desc()).collect()
        }

        fn collect(&self) -> Vec<MetricFamily> {
            let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
            let field = |name: &str| -> f64 {
                let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
                line.split_whitespace().next().and_then(|value| value.parse().ok()).unwrap_or(0.0)
            };
            self.resident.set(field("VmRSS:") * 1024.0);
            self.threads.set(field("Threads:"));
            self.files.set(std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count) as f64);
            [&self.resident, &self.threads, &self.files].into_iter().flat_map(|gauge| gauge.collect()).collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registered_metrics_appear_in_the_text() {
        let counter = register(prometheus::IntCounter::new("common_test_total", "A test.").unwrap());
        counter.inc();
        let text = String::from_utf8(gather_text()).unwrap();
        assert!(text.contains("common_test_total 1") && text.contains("process_resident_memory_bytes"), "{text}");
    }
}
