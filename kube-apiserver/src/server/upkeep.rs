//! What has to be looked after from time to time: leaked Service addresses and ports, documents that nobody asks for,
//! the size of the store.

use std::{sync::Arc, time::Duration};

use super::{ApiServer, metrics};

/// Upstream's interval of its repair loops.
const INTERVAL: Duration = Duration::from_secs(180);

/// How long a scrape waits for the store.
const SIZE_TIMEOUT: Duration = Duration::from_secs(1);

/// Asks the store for its size, for a scrape of the metrics.
pub async fn measure_storage(server: &ApiServer) {
    if let Ok(Ok(size)) = tokio::time::timeout(SIZE_TIMEOUT, server.registry.store().size()).await {
        metrics::storage_size().set(i64::try_from(size).unwrap_or(i64::MAX));
    }
}

/// Looks after things until the server ends.
pub fn spawn(server: &Arc<ApiServer>) {
    let server = Arc::clone(server);
    tokio::spawn(async move {
        loop {
            tokio::select! {
                () = server.shutdown.cancelled() => return,
                () = tokio::time::sleep(INTERVAL) => {}
            }
            server.openapi.trim();
            let repaired = match server.allocators().await {
                Ok(allocators) => allocators.repair().await.map_err(|error| error.to_string()),
                Err(error) => Err(error.to_string()),
            };
            if let Err(error) = repaired {
                tracing::warn!(error, "cannot check Service addresses and ports; trying again later");
            }
        }
    });
}
