//! JSON merge patch (RFC 7386).

use serde_json::Value;

use super::PatchError;

pub(super) fn apply(original: &Value, patch: &[u8]) -> Result<Value, PatchError> {
    let patch: Value = serde_json::from_slice(patch)
        .map_err(|error| PatchError::BadRequest(format!("error decoding patch: {error}")))?;
    if !patch.is_object() {
        return Err(PatchError::BadRequest("error decoding patch: a merge patch must be an object".into()));
    }
    let mut patched = original.clone();
    json_patch::merge(&mut patched, &patch);
    Ok(patched)
}
