//! What must happen around a write of certain kinds beyond the object itself: Service addresses and ports.

use serde_json::Value;

use super::Target;
use crate::server::Call;

/// Called once an object is gone from the store.
pub async fn after_delete(_call: &Call, _target: Target<'_>, _object: &Value) {}
