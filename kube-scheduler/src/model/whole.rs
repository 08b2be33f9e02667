//! The whole decision with the default plugins: never a node that a plugin refuses on its own, always the same with the same
//! dice, and as good with everything remembered as without.

use proptest::prelude::*;

use super::World;
use crate::config::defaults::set_defaults;
use crate::config::types::KubeSchedulerConfiguration;
use crate::cycle::decide::{Decider, Failure};
use crate::framework::plugin::CycleContext;
use crate::framework::pod::PodInfo;
use crate::framework::profile::Profile;
use crate::plugins::registry::{Services, profile};
use crate::queue::nominator::Nominator;
use crate::testing::INTERNER;

fn default_profile() -> Profile {
    let mut config = KubeSchedulerConfiguration::default();
    set_defaults(&mut config);
    profile(&config.profiles[0], &Services::default()).unwrap()
}

/// Feasible nodes and their scores, worked out with fresh plugins and without any memo.
fn from_scratch(world: &World, pod: &PodInfo) -> Vec<(String, i64)> {
    let profile = default_profile();
    let cx = CycleContext { pod, snapshot: &world.cluster.snapshot };
    let Ok(before) = profile.run_pre_filter(&cx) else { return Vec::new() };
    let fits = |slot: &u32| {
        let allowed = before.nodes.as_ref().is_none_or(|nodes| nodes.contains(slot));
        allowed && profile.run_filters(&cx, &before, &world.cluster.snapshot.node(*slot)).is_ok()
    };
    let feasible: Vec<u32> = world.cluster.snapshot.order.iter().copied().filter(fits).collect();
    let scores = if feasible.is_empty() { Vec::new() } else { profile.run_scores(&cx, &feasible, None).unwrap() };
    let name = |slot: &u32| world.cluster.snapshot.names[*slot as usize].to_string();
    feasible.iter().map(name).zip(scores).collect()
}

/// Plays a history and tells every decision.
fn play(seed: u64, steps: usize) -> Result<Vec<String>, TestCaseError> {
    let mut world = World::new(seed);
    let (profile, nominator) = (default_profile(), Nominator::default());
    let mut decider = Decider::new(100, seed);
    let kinds: Vec<_> = (0..3).map(|_| world.pod()).collect();
    let mut told = Vec::new();
    for step in 0..steps {
        world.step();
        world.cluster.refresh();
        let mut pod = if step % 2 == 0 { world.pod() } else { kinds[step % kinds.len()].clone() };
        pod.metadata.uid = Some(format!("decided-{step}"));
        pod.metadata.name = pod.metadata.uid.clone();
        let info = PodInfo::new(&pod, &INTERNER);
        let expected = from_scratch(&world, &info);
        let best = expected.iter().map(|(_, score)| *score).max();
        match decider.decide(&profile, &world.cluster.snapshot, &info, &nominator) {
            Ok(decision) => {
                let chosen = expected.iter().find(|(name, _)| **name == *decision.node);
                prop_assert_eq!(chosen.map(|(_, score)| *score), best, "{} of {:?}", decision.node, expected);
                prop_assert_eq!(decision.feasible, expected.len());
                told.push(decision.node.to_string());
                world.run(pod, &decision.node);
            }
            Err(Failure::Error(status)) => prop_assert!(false, "{}", status.message()),
            Err(failure) => {
                prop_assert_eq!(best, None, "{}", failure.message());
                told.push(failure.message());
            }
        }
    }
    Ok(told)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn decisions_are_the_best_and_repeatable(seed in any::<u64>(), steps in 1usize..40) {
        prop_assert_eq!(play(seed, steps)?, play(seed, steps)?);
    }
}
