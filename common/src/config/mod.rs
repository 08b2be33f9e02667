//! Flags, versioned configuration files and feature gates of the daemons.
//!
//! Command lines behave as Go's pflag: `--flag`, `--flag=true|false`, `--flag_name`, `-v=4`, the last of a repeated flag wins.

mod args;
pub mod duration;
mod file;
pub mod flags;
mod gates;
pub mod version;

pub use args::{Exit, flag_values, parse, try_parse_from};
pub use duration::parse_go_duration;
pub use file::{load_any_version, load_versioned, parse_versioned};
pub use flags::parse_go_bool;
pub use gates::{FeatureGates, Gate, Stage, is_beta_on};

/// What can be wrong with flags and configuration files.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file could not be read.
    #[error("failed to read {path}: {source}")]
    Read {
        /// The file.
        path: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The file is not what it should be; the text names the field.
    #[error("failed to load config file {path}: {reason}")]
    Invalid {
        /// The file.
        path: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A feature gate is unknown, locked or not a boolean.
    #[error("{0}")]
    Gate(String),
}
