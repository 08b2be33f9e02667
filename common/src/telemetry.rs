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

/// When this process was started.
#[must_use]
pub fn process_start() -> jiff::Timestamp {
    jiff::Timestamp::from_second(process::start_time() as i64).unwrap_or_default()
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
        Counter, Gauge, Opts, Registry,
        core::{Collector, Desc},
        proto::MetricFamily,
    };

    /// Linux reports CPU times to programs in hundredths of seconds on every architecture.
    const TICKS: f64 = 100.0;

    struct Process {
        gauges: [Gauge; 6],
        cpu: Counter,
    }

    pub(super) fn register(registry: &Registry) {
        let named = [
            ("process_resident_memory_bytes", "Resident memory size in bytes."),
            ("process_virtual_memory_bytes", "Virtual memory size in bytes."),
            ("process_threads", "Number of OS threads in the process."),
            ("process_open_fds", "Number of open file descriptors."),
            ("process_max_fds", "Maximum number of open file descriptors."),
            ("process_start_time_seconds", "Start time of the process since unix epoch in seconds."),
        ];
        let gauges = named.map(|(name, help)| Gauge::with_opts(Opts::new(name, help)).expect("constant metric"));
        let cpu = Opts::new("process_cpu_seconds_total", "Total user and system CPU time spent in seconds.");
        let process = Process { gauges, cpu: Counter::with_opts(cpu).expect("constant metric") };
        process.gauges[5].set(start_time());
        if let Err(error) = registry.register(Box::new(process)) {
            tracing::debug!(%error, "process metrics not registered");
        }
    }

    /// A field of /proc/self/stat, counted behind the command's closing bracket (the state is 0).
    fn stat(field: usize) -> f64 {
        let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
        let rest = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
        rest.split_whitespace().nth(field).and_then(|value| value.parse().ok()).unwrap_or(0.0)
    }

    pub(super) fn start_time() -> f64 {
        let stat_of_system = std::fs::read_to_string("/proc/stat").unwrap_or_default();
        let boot = stat_of_system.lines().find_map(|line| line.strip_prefix("btime ")?.trim().parse().ok());
        boot.unwrap_or(0.0) + stat(19) / TICKS
    }

    impl Collector for Process {
        fn desc(&self) -> Vec<&Desc> {
            self.gauges.iter().flat_map(|gauge| gauge.desc()).chain(self.cpu.desc()).collect()
        }

        fn collect(&self) -> Vec<MetricFamily> {
            let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
            let limits = std::fs::read_to_string("/proc/self/limits").unwrap_or_default();
            let number = |text: &str, name: &str| -> f64 {
                let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
                line.split_whitespace().next().and_then(|value| value.parse().ok()).unwrap_or(0.0)
            };
            let values = [
                number(&status, "VmRSS:") * 1024.0,
                number(&status, "VmSize:") * 1024.0,
                number(&status, "Threads:"),
                std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count) as f64,
                number(&limits, "Max open files"),
            ];
            self.gauges.iter().zip(values).for_each(|(gauge, value)| gauge.set(value));
            let cpu = (stat(11) + stat(12)) / TICKS;
            self.cpu.inc_by((cpu - self.cpu.get()).max(0.0));
            self.gauges.iter().flat_map(|gauge| gauge.collect()).chain(self.cpu.collect()).collect()
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
        assert!(text.contains("common_test_total 1"), "{text}");
        for name in ["process_resident_memory_bytes", "process_cpu_seconds_total", "process_start_time_seconds"] {
            let value = text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<f64>().ok());
            assert!(value.is_some_and(|value| value >= 0.0), "{name} in {text}");
        }
    }
}
