//! ImageLocality: prefer nodes that already hold the pod's images, weighed by how widely each image is spread.

use std::sync::Arc;

use crate::framework::plugin::{CycleContext, MAX_SCORE, Plugin, Score, StateData};
use crate::framework::status::Status;

/// The plugin.
pub struct ImageLocality;

/// Upstream's name.
pub const NAME: &str = "ImageLocality";

const MIB: i64 = 1024 * 1024;
const MIN_THRESHOLD: i64 = 23 * MIB;
const MAX_PER_CONTAINER: i64 = 1000 * MIB;

extension_points!(ImageLocality { as_score: Score });

impl Score for ImageLocality {
    fn score(
        &self,
        cx: &CycleContext<'_>,
        _state: Option<&dyn StateData>,
        nodes: &[u32],
        scores: &mut [i64],
    ) -> Result<(), Arc<Status>> {
        let total = cx.snapshot.len() as f64;
        scores.fill(0);
        for image in &cx.pod.template.images {
            let Some(image) = cx.snapshot.images.get(image) else { continue };
            let scaled = (image.size as f64 * (image.count as f64 / total)) as i64;
            for (score, slot) in scores.iter_mut().zip(nodes) {
                if image.nodes.contains(*slot) {
                    *score += scaled;
                }
            }
        }
        let max = MAX_PER_CONTAINER * cx.pod.template.containers as i64;
        for score in scores {
            *score = priority(*score, max);
        }
        Ok(())
    }
}

fn priority(sum: i64, max: i64) -> i64 {
    let clamped = if sum < MIN_THRESHOLD { MIN_THRESHOLD } else { sum.min(max) };
    if max <= MIN_THRESHOLD { 0 } else { MAX_SCORE * (clamped - MIN_THRESHOLD) / (max - MIN_THRESHOLD) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Cluster, node, pod, pod_info};

    #[test]
    fn larger_and_wider_spread_images_count_more() {
        let cluster = Cluster::new(&[
            node("n1").image("gcr.io/40:latest", 40 * MIB).image("gcr.io/300:latest", 300 * MIB),
            node("n2").image("gcr.io/250:latest", 250 * MIB),
        ]);
        let pod = pod_info(&pod("p").images(&["gcr.io/40", "gcr.io/250"]));
        // Upstream's documented case: n1 = (40M * 1/2 - 23M) -> 0; n2 = 100 * (250M/2 - 23M) / (1000M*2 - 23M) = 5.
        assert_eq!(cluster.scores(&ImageLocality, &pod), [0, 5]);
    }
}
