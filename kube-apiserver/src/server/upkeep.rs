//! What has to be looked after from time to time: leaked Service addresses and ports, documents that nobody asks for.

use std::{sync::Arc, time::Duration};

use super::ApiServer;

/// Upstream's interval of its repair loops.
const INTERVAL: Duration = Duration::from_secs(180);

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
