//! JSON patch (RFC 6902).

use serde_json::Value;

use super::PatchError;

/// Upstream's limit on operations in one patch.
const MAX_OPERATIONS: usize = 10_000;

pub(super) fn apply(original: &Value, patch: &[u8]) -> Result<Value, PatchError> {
    let patch: json_patch::Patch = serde_json::from_slice(patch)
        .map_err(|error| PatchError::BadRequest(format!("error decoding patch: {error}")))?;
    if patch.len() > MAX_OPERATIONS {
        return Err(PatchError::TooLarge(format!(
            "The allowed maximum operations in a JSON patch is {MAX_OPERATIONS}, got {}",
            patch.len()
        )));
    }
    let mut patched = original.clone();
    json_patch::patch(&mut patched, &patch).map_err(|error| {
        PatchError::Unprocessable(format!("the server rejected our request due to an error in our request: {error}"))
    })?;
    Ok(patched)
}
