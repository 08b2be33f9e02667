//! The flags of auditing, and the backends made from them.

use std::{path::PathBuf, time::Duration};

use clap::Args;
use common::config::parse_go_duration;

use super::{
    Auditor,
    backend::{Backend, Batching, Output, Wanted},
    log::{Format, Log, Rotation},
    policy::Policy,
    webhook::Webhook,
};

const MODES: &str = "batch,blocking,blocking-strict";
const VERSION: &str = "audit.k8s.io/v1";

/// Auditing.
#[derive(Debug, Clone, Args)]
pub struct Audit {
    /// Path to the file that defines the audit policy configuration.
    #[arg(long)]
    pub audit_policy_file: Option<PathBuf>,
    /// If set, all requests coming to the apiserver will be logged to this file. '-' means standard out.
    #[arg(long)]
    pub audit_log_path: Option<String>,
    /// The maximum number of days to retain old audit log files based on the timestamp encoded in their filename.
    #[arg(long, default_value_t = 366, allow_negative_numbers = true)]
    pub audit_log_maxage: i64,
    /// The maximum number of old audit log files to retain. 0 means that there is no restriction.
    #[arg(long, default_value_t = 100, allow_negative_numbers = true)]
    pub audit_log_maxbackup: i64,
    /// The maximum size in megabytes of the audit log file before it gets rotated. 0 disables rotation.
    #[arg(long, default_value_t = 100, allow_negative_numbers = true)]
    pub audit_log_maxsize: i64,
    /// Format of saved audits: legacy (1-line text for each event) or json.
    #[arg(long, default_value = "json")]
    pub audit_log_format: String,
    /// API group and version used for serializing audit events written to log.
    #[arg(long, default_value = VERSION)]
    pub audit_log_version: String,
    /// If set, the rotated log files will be compressed using gzip.
    #[arg(long)]
    pub audit_log_compress: bool,
    /// Strategy for sending audit events: batch, blocking, blocking-strict.
    #[arg(long, default_value = "blocking")]
    pub audit_log_mode: String,
    /// The size of the buffer to store events before batching and writing. Only used in batch mode.
    #[arg(long, default_value_t = 10_000, allow_negative_numbers = true)]
    pub audit_log_batch_buffer_size: i64,
    /// The maximum size of a batch. Only used in batch mode.
    #[arg(long, default_value_t = 1, allow_negative_numbers = true)]
    pub audit_log_batch_max_size: i64,
    /// The amount of time to wait before force writing the batch that hadn't reached the max size. Only used in batch mode.
    #[arg(long, default_value = "0s", value_parser = parse_go_duration)]
    pub audit_log_batch_max_wait: Duration,
    /// Whether batching throttling is enabled. Only used in batch mode.
    #[arg(long)]
    pub audit_log_batch_throttle_enable: bool,
    /// Maximum average number of batches per second. Only used in batch mode.
    #[arg(long, default_value_t = 0.0, allow_negative_numbers = true)]
    pub audit_log_batch_throttle_qps: f32,
    /// Maximum number of requests sent at the same moment if ThrottleQPS was not utilized before. Only used in batch mode.
    #[arg(long, default_value_t = 0, allow_negative_numbers = true)]
    pub audit_log_batch_throttle_burst: i64,
    /// Whether event and batch truncating is enabled.
    #[arg(long)]
    pub audit_log_truncate_enabled: bool,
    /// Maximum size of the batch sent to the underlying backend.
    #[arg(long, default_value_t = 10_485_760, allow_negative_numbers = true)]
    pub audit_log_truncate_max_batch_size: i64,
    /// Maximum size of the audit event: of a larger one, request and response are removed; if that does not help, it is discarded.
    #[arg(long, default_value_t = 102_400, allow_negative_numbers = true)]
    pub audit_log_truncate_max_event_size: i64,
    /// Path to a kubeconfig formatted file that defines the audit webhook configuration.
    #[arg(long)]
    pub audit_webhook_config_file: Option<PathBuf>,
    /// The amount of time to wait before retrying the first failed request.
    #[arg(long, alias = "audit-webhook-batch-initial-backoff", default_value = "10s", value_parser = parse_go_duration)]
    pub audit_webhook_initial_backoff: Duration,
    /// API group and version used for serializing audit events written to webhook.
    #[arg(long, default_value = VERSION)]
    pub audit_webhook_version: String,
    /// Strategy for sending audit events: batch, blocking, blocking-strict.
    #[arg(long, default_value = "batch")]
    pub audit_webhook_mode: String,
    /// The size of the buffer to store events before batching and writing. Only used in batch mode.
    #[arg(long, default_value_t = 10_000, allow_negative_numbers = true)]
    pub audit_webhook_batch_buffer_size: i64,
    /// The maximum size of a batch. Only used in batch mode.
    #[arg(long, default_value_t = 400, allow_negative_numbers = true)]
    pub audit_webhook_batch_max_size: i64,
    /// The amount of time to wait before force writing the batch that hadn't reached the max size. Only used in batch mode.
    #[arg(long, default_value = "30s", value_parser = parse_go_duration)]
    pub audit_webhook_batch_max_wait: Duration,
    /// Whether batching throttling is enabled. Only used in batch mode.
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set)]
    pub audit_webhook_batch_throttle_enable: bool,
    /// Maximum average number of batches per second. Only used in batch mode.
    #[arg(long, default_value_t = 10.0, allow_negative_numbers = true)]
    pub audit_webhook_batch_throttle_qps: f32,
    /// Maximum number of requests sent at the same moment if ThrottleQPS was not utilized before. Only used in batch mode.
    #[arg(long, default_value_t = 15, allow_negative_numbers = true)]
    pub audit_webhook_batch_throttle_burst: i64,
    /// Whether event and batch truncating is enabled.
    #[arg(long)]
    pub audit_webhook_truncate_enabled: bool,
    /// Maximum size of the batch sent to the underlying backend.
    #[arg(long, default_value_t = 10_485_760, allow_negative_numbers = true)]
    pub audit_webhook_truncate_max_batch_size: i64,
    /// Maximum size of the audit event: of a larger one, request and response are removed; if that does not help, it is discarded.
    #[arg(long, default_value_t = 102_400, allow_negative_numbers = true)]
    pub audit_webhook_truncate_max_event_size: i64,
}

/// The flags that both backends have.
struct Common<'a> {
    plugin: &'static str,
    version: &'a str,
    mode: &'a str,
    buffer: i64,
    size: i64,
    wait: Duration,
    throttle: Option<(f32, i64)>,
    truncate: bool,
    max_batch: i64,
    max_event: i64,
}

impl Common<'_> {
    /// Validates; how events are sent, and beyond which size they are truncated.
    fn parse(&self) -> Result<(Wanted, Option<usize>), String> {
        let plugin = self.plugin;
        let positive = |what: &str, value: i64| match usize::try_from(value) {
            Ok(value) if value > 0 => Ok(value),
            _ => Err(format!("invalid audit {what} {value}, must be a positive number")),
        };
        let wanted = match self.mode {
            "blocking" => Wanted::Blocking,
            "blocking-strict" => Wanted::Strict,
            "batch" => {
                let throttle = match self.throttle {
                    None => None,
                    Some((qps, _)) if qps <= 0.0 => {
                        return Err(format!(
                            "invalid audit batch {plugin} throttle QPS {qps}, must be a positive number"
                        ));
                    }
                    Some((qps, burst)) => {
                        let burst = positive(&format!("batch {plugin} throttle burst"), burst)?;
                        Some((qps, u32::try_from(burst).unwrap_or(u32::MAX)))
                    }
                };
                Wanted::Batch(Batching {
                    buffer: positive(&format!("batch {plugin} buffer size"), self.buffer)?,
                    size: positive(&format!("batch {plugin} max batch size"), self.size)?,
                    wait: self.wait,
                    throttle,
                    concurrent: plugin == "webhook",
                })
            }
            other => return Err(format!("invalid audit {plugin} mode {other}, allowed modes are {MODES:?}")),
        };
        let max_event = positive(&format!("truncate {plugin} max event size"), self.max_event)?;
        if self.max_batch < self.max_event {
            return Err(format!(
                "invalid audit truncate {plugin} max batch size {}, must be greater than max event size ({max_event})",
                self.max_batch
            ));
        }
        if self.version != VERSION {
            return Err(format!("invalid group version, allowed versions are [{VERSION:?}]"));
        }
        Ok((wanted, self.truncate.then_some(max_event)))
    }
}

impl Audit {
    fn log(&self) -> Common<'_> {
        let throttle = (self.audit_log_batch_throttle_qps, self.audit_log_batch_throttle_burst);
        Common {
            plugin: "log",
            version: &self.audit_log_version,
            mode: &self.audit_log_mode,
            buffer: self.audit_log_batch_buffer_size,
            size: self.audit_log_batch_max_size,
            wait: self.audit_log_batch_max_wait,
            throttle: self.audit_log_batch_throttle_enable.then_some(throttle),
            truncate: self.audit_log_truncate_enabled,
            max_batch: self.audit_log_truncate_max_batch_size,
            max_event: self.audit_log_truncate_max_event_size,
        }
    }

    fn webhook(&self) -> Common<'_> {
        let throttle = (self.audit_webhook_batch_throttle_qps, self.audit_webhook_batch_throttle_burst);
        Common {
            plugin: "webhook",
            version: &self.audit_webhook_version,
            mode: &self.audit_webhook_mode,
            buffer: self.audit_webhook_batch_buffer_size,
            size: self.audit_webhook_batch_max_size,
            wait: self.audit_webhook_batch_max_wait,
            throttle: self.audit_webhook_batch_throttle_enable.then_some(throttle),
            truncate: self.audit_webhook_truncate_enabled,
            max_batch: self.audit_webhook_truncate_max_batch_size,
            max_event: self.audit_webhook_truncate_max_event_size,
        }
    }

    fn format(&self) -> Result<Format, String> {
        match self.audit_log_format.as_str() {
            "json" => Ok(Format::Json),
            "legacy" => Ok(Format::Legacy),
            other => Err(format!("invalid audit log format {other}, allowed formats are \"legacy,json\"")),
        }
    }

    fn rotation(&self) -> Result<Rotation, String> {
        let natural = |flag: &str, value: i64| {
            u64::try_from(value).map_err(|_| format!("--{flag} {value} can't be a negative number"))
        };
        Ok(Rotation {
            max_age: natural("audit-log-maxage", self.audit_log_maxage)?,
            max_backups: natural("audit-log-maxbackup", self.audit_log_maxbackup)? as usize,
            max_size: natural("audit-log-maxsize", self.audit_log_maxsize)?,
            compress: self.audit_log_compress,
        })
    }

    /// Checks the flags of the backends that are asked for.
    ///
    /// # Errors
    /// Upstream's texts.
    pub fn validate(&self) -> Result<(), String> {
        if self.log_path().is_some() {
            self.log().parse()?;
            self.format()?;
            self.rotation()?;
        }
        if self.audit_webhook_config_file.is_some() {
            self.webhook().parse()?;
        }
        Ok(())
    }

    fn log_path(&self) -> Option<&str> {
        self.audit_log_path.as_deref().filter(|path| !path.is_empty())
    }

    /// Opens what the flags ask for; `None` when nothing is to be recorded.
    ///
    /// # Errors
    /// A flag, file or directory that cannot be used.
    pub async fn open(&self) -> anyhow::Result<Option<Auditor>> {
        let failed = |text: String| anyhow::anyhow!(text);
        let policy = self.audit_policy_file.as_deref().map(Policy::load).transpose().map_err(failed)?;
        let mut backends = Vec::new();
        if let Some(path) = self.log_path() {
            let (mode, truncate) = self.log().parse().map_err(failed)?;
            let (format, rotation) = (self.format().map_err(failed)?, self.rotation().map_err(failed)?);
            let log = Log::open(path, format, rotation).map_err(|e| anyhow::anyhow!("ensureLogFile: {path}: {e}"))?;
            if policy.is_some() {
                backends.push(Backend::new(Output::Log(log), truncate, mode));
            }
        }
        if let (Some(path), Some(_)) = (&self.audit_webhook_config_file, &policy) {
            let (mode, truncate) = self.webhook().parse().map_err(failed)?;
            let webhook = Webhook::load(path, self.audit_webhook_initial_backoff).await;
            let webhook = webhook.map_err(|e| anyhow::anyhow!("initializing audit webhook: {e}"))?;
            backends.push(Backend::new(Output::Webhook(webhook), truncate, mode));
        }
        if policy.is_none() && (self.log_path().is_some() || self.audit_webhook_config_file.is_some()) {
            tracing::info!("No audit policy file provided, no events will be recorded");
        }
        Ok(policy.filter(|_| !backends.is_empty()).map(|policy| Auditor { policy, backends }))
    }
}
