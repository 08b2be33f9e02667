//! Feature gates that change what this kubelet does, with upstream's defaults. Others are accepted without effect.

use std::collections::BTreeMap;

/// Features that are off by default.
const ALPHA: [&str; 1] = ["CPUManagerPolicyAlphaOptions"];

/// Whether a feature is on: by its own gate, its stage's, or by default.
pub(crate) fn is_on(given: &BTreeMap<String, bool>, name: &str) -> bool {
    let alpha = ALPHA.contains(&name);
    let of_stage = given.get(if alpha { "AllAlpha" } else { "AllBeta" });
    given.get(name).or(of_stage).copied().unwrap_or(!alpha)
}
