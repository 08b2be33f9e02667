//! Jobs look by look: tables of single decisions, and whole lives against a played server.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::backoff::Record;
use super::facts::{FAILURES, FINALIZER, INDEX, JobExt, index_of, is_tracked};
use super::run::{Run, Work};
use super::track::settle;
use crate::shared::meta::MetaExt;
use crate::shared::pods;

fn now() -> Timestamp {
    "2026-01-01T01:00:00Z".parse().unwrap()
}

fn job(spec: Value, status: Value) -> Job {
    let mut value = json!({"metadata": {"name": "j", "namespace": "ns", "uid": "J"}, "status": status,
        "spec": {"completions": 2, "parallelism": 2, "backoffLimit": 6, "template": {"spec": {"containers": [], "restartPolicy": "Never"}}}});
    for (key, wanted) in spec.as_object().unwrap() {
        value["spec"][key] = wanted.clone();
    }
    serde_json::from_value(value).unwrap()
}

/// `name index phase` and, if it is so, `free` (no finalizer) or `going`; `-` for no index.
fn pod(line: &str) -> Arc<Pod> {
    let words: Vec<&str> = line.split(' ').collect();
    let [name, index, phase, more @ ..] = &words[..] else { panic!("{line}") };
    let mut meta = json!({"name": name, "uid": name, "creationTimestamp": "2026-01-01T00:00:00Z"});
    if *index != "-" {
        meta["annotations"] = json!({INDEX: index, FAILURES: "0"});
    }
    if !more.contains(&"free") {
        meta["finalizers"] = json!([FINALIZER]);
    }
    if more.contains(&"going") {
        meta["deletionTimestamp"] = json!("2026-01-01T00:30:00Z");
    }
    let terminated = json!([{"name": "c", "image": "", "imageID": "", "ready": false, "restartCount": 0,
        "state": {"terminated": {"exitCode": 1, "finishedAt": "2026-01-01T00:00:00Z"}}}]);
    let value = json!({"metadata": meta, "spec": {"containers": []}, "status": {"phase": phase, "containerStatuses": terminated}});
    Arc::new(serde_json::from_value(value).unwrap())
}

fn run(job: Job, pods: &[&str]) -> Run {
    Run::new(job, pods.iter().map(|l| pod(l)).collect(), HashSet::new(), Record::default(), now())
}

fn told(work: Work) -> String {
    match work {
        Work::Nothing => "nothing".into(),
        Work::Delete(list) => {
            let mut names: Vec<&str> = list.iter().map(|p| p.name_str()).collect();
            names.sort_unstable();
            format!("-{}", names.join(","))
        }
        Work::Create(count, indexes) => format!("+{count} {indexes:?}"),
        Work::Wait(_) => "wait".into(),
    }
}

#[test]
fn work() {
    let indexed = |extra: Value| {
        let mut spec = json!({"completionMode": "Indexed", "completions": 4, "parallelism": 3});
        spec.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        spec
    };
    for (name, spec, status, there, want) in [
        ("new", json!({}), json!({}), &[][..], "+2 []"),
        ("one succeeded", json!({}), json!({}), &["a - Succeeded", "b - Running"][..], "nothing"),
        ("counted ones too", json!({"parallelism": 5}), json!({"succeeded": 1}), &[], "+1 []"),
        (
            "uncounted ones once",
            json!({}),
            json!({"uncountedTerminatedPods": {"succeeded": ["a"]}}),
            &["a - Succeeded"],
            "+1 []",
        ),
        ("less parallelism", json!({"parallelism": 1}), json!({}), &["a - Running", "b - Pending"], "-b"),
        ("a work queue", json!({"completions": null}), json!({}), &["a - Running"], "+1 []"),
        (
            "whose first pod is done",
            json!({"completions": null}),
            json!({}),
            &["a - Running", "b - Succeeded"],
            "nothing",
        ),
        ("suspended", json!({"suspend": true}), json!({}), &["a - Running", "b - Running"], "-a,b"),
        ("replaces what goes", json!({}), json!({}), &["a - Running going", "b - Running"], "+1 []"),
        (
            "or waits for it",
            json!({"podReplacementPolicy": "Failed"}),
            json!({}),
            &["a - Running going", "b - Running"],
            "nothing",
        ),
        ("indexes", indexed(json!({})), json!({}), &["a 1 Running"], "+2 [0, 2]"),
        ("done indexes", indexed(json!({})), json!({"completedIndexes": "0,1"}), &["a 2 Succeeded"], "+1 [3]"),
        (
            "double and foreign indexes",
            indexed(json!({})),
            json!({}),
            &["a 0 Running", "b 0 Pending", "c 9 Running", "d - Running", "e 1 Running"],
            "-b,c,d",
        ),
        (
            "failed indexes",
            indexed(json!({"backoffLimitPerIndex": 1})),
            json!({"failedIndexes": "0"}),
            &[],
            "+3 [1, 2, 3]",
        ),
    ] {
        let run = run(job(spec, status), there);
        assert!(run.finished.is_none(), "{name}");
        assert_eq!(told(run.work()), want, "{name}");
    }
}

#[test]
fn ends() {
    let end = |spec: Value, status: Value, there: &[&str]| {
        let run = run(job(spec, status), there);
        run.finished.map_or(String::new(), |c| format!("{} {}", c.type_, c.reason.unwrap_or_default()))
    };
    let none = || json!({});
    assert_eq!(end(none(), none(), &["a - Failed"]), "");
    assert_eq!(end(json!({"backoffLimit": 0}), none(), &["a - Failed"]), "FailureTarget BackoffLimitExceeded");
    assert_eq!(
        end(json!({"backoffLimit": 1}), json!({"failed": 1}), &["a - Failed"]),
        "FailureTarget BackoffLimitExceeded"
    );
    let deadline = json!({"activeDeadlineSeconds": 60});
    assert_eq!(end(deadline.clone(), json!({"startTime": "2026-01-01T00:59:30Z"}), &[]), "");
    assert_eq!(
        end(deadline.clone(), json!({"startTime": "2026-01-01T00:59:00Z"}), &[]),
        "FailureTarget DeadlineExceeded"
    );
    let left = run(job(deadline, json!({"startTime": "2026-01-01T00:59:30Z"})), &[]).deadline;
    assert_eq!(left, Some(Duration::from_secs(30)));
    let target = json!({"conditions": [{"type": "FailureTarget", "status": "True", "reason": "Why"}]});
    assert_eq!(end(none(), target, &[]), "Failed Why");
    let met = json!({"conditions": [{"type": "SuccessCriteriaMet", "status": "True", "reason": "Why"}]});
    assert_eq!(end(none(), met, &["a - Failed"]), "SuccessCriteriaMet Why");
    let policy = json!({"podFailurePolicy": {"rules": [
        {"action": "FailJob", "onExitCodes": {"operator": "In", "values": [1]}}]}});
    assert_eq!(end(policy, none(), &["a - Failed"]), "FailureTarget PodFailurePolicy");
    let indexed = |extra: Value| {
        let mut spec =
            json!({"completionMode": "Indexed", "completions": 2, "backoffLimitPerIndex": 0, "backoffLimit": 99});
        spec.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        spec
    };
    assert_eq!(end(indexed(none()), none(), &["a 0 Failed"]), "");
    assert_eq!(end(indexed(none()), none(), &["a 0 Failed", "b 1 Succeeded"]), "FailureTarget FailedIndexes");
    assert_eq!(
        end(indexed(json!({"maxFailedIndexes": 0})), none(), &["a 0 Failed"]),
        "FailureTarget MaxFailedIndexesExceeded"
    );
    let success = json!({"successPolicy": {"rules": [{"succeededIndexes": "1"}]}});
    assert_eq!(end(indexed(success), none(), &["b 1 Succeeded"]), "SuccessCriteriaMet SuccessPolicy");
    let restarts =
        job(json!({"backoffLimit": 0, "template": {"spec": {"containers": [], "restartPolicy": "OnFailure"}}}), none());
    let mut restarted = (*pod("a - Running")).clone();
    restarted.status.as_mut().unwrap().container_statuses.as_mut().unwrap()[0].restart_count = 1;
    let run = Run::new(restarts, vec![Arc::new(restarted)], HashSet::new(), Record::default(), now());
    assert_eq!(run.finished.unwrap().reason.as_deref(), Some("BackoffLimitExceeded"));
}

#[test]
fn failures_are_waited_out() {
    let mut failed = (*pod("a - Failed")).clone();
    let statuses = failed.status.as_mut().unwrap().container_statuses.as_mut().unwrap();
    let state = statuses[0].state.as_mut().unwrap().terminated.as_mut().unwrap();
    state.finished_at = serde_json::from_value(json!("2026-01-01T00:59:55Z")).unwrap();
    let run = Run::new(job(json!({}), json!({})), vec![Arc::new(failed)], HashSet::new(), Record::default(), now());
    assert!(matches!(run.work(), Work::Wait(d) if d == Duration::from_secs(5)));
}

/// The Job that the server has, and the pods; what a run writes lands here, or not, if it "crashes".
struct World {
    job: Job,
    pods: Vec<Arc<Pod>>,
    made: usize,
    succeeded: HashSet<String>,
    now: Timestamp,
}

impl World {
    /// One run that is killed after so many writes.
    fn sync(&mut self, mut writes: usize) {
        if self.job.is_finished() {
            return;
        }
        let mut write = || {
            let may = writes > 0;
            writes = writes.saturating_sub(1);
            may
        };
        self.now += SignedDuration::from_mins(20);
        let mut run = Run::new(self.job.clone(), self.pods.clone(), HashSet::new(), Record::default(), self.now);
        if run.finished.is_some() {
            for pod in run.active_pods.clone() {
                if !write() {
                    return;
                }
                run.active -= 1;
                self.delete(&pod, false);
            }
        } else {
            match run.work() {
                Work::Create(count, indexes) => {
                    for at in 0..count {
                        if !write() {
                            return;
                        }
                        let mut new = run.new_pod();
                        if let Some(index) = indexes.get(at) {
                            run.set_index(&mut new, *index);
                        }
                        self.made += 1;
                        let name = format!("p{:04}", self.made);
                        new.metadata.name = Some(name.clone());
                        new.metadata.uid = Some(name);
                        new.status = serde_json::from_value(json!({"phase": "Running"})).unwrap();
                        self.pods.push(Arc::new(new));
                        run.active += 1;
                    }
                }
                Work::Delete(list) => {
                    for pod in list {
                        if !write() {
                            return;
                        }
                        self.delete(&pod, true);
                        run.active -= 1;
                    }
                }
                _ => {}
            }
            if run.is_complete() {
                run.finished = Some(super::facts::condition("SuccessCriteriaMet", "CompletionsReached", "", self.now));
            }
        }
        let mut tracking = run.track();
        if tracking.write {
            if !write() {
                return;
            }
            self.job = run.job.clone();
        }
        for pod in std::mem::take(&mut tracking.release) {
            if !write() {
                return;
            }
            tracking.tracked.remove(pod.uid_str());
            self.change(&pod, |p| p.metadata.finalizers = None);
        }
        let changed = settle(run.job.status.as_mut().unwrap(), &tracking.tracked);
        run.terminating = 0;
        let finished = run.finish();
        if (changed || finished) && write() {
            self.job = run.job.clone();
        }
        // Gone is what nobody holds any more.
        self.pods.retain(|p| !p.is_deleting() || is_tracked(p));
    }

    fn change(&mut self, pod: &Pod, change: impl Fn(&mut Pod)) {
        for known in self.pods.iter_mut().filter(|p| p.uid_str() == pod.uid_str()) {
            change(Arc::make_mut(known));
        }
    }

    fn delete(&mut self, pod: &Pod, release: bool) {
        self.change(pod, |p| {
            p.metadata.deletion_timestamp = Some(crate::shared::meta::now_time());
            if release {
                p.metadata.finalizers = None;
            } else {
                p.status.get_or_insert_default().phase = Some("Failed".into());
            }
        });
    }

    /// A running pod ends.
    fn finish(&mut self, which: usize, success: bool) {
        let running: Vec<_> = self.pods.iter().filter(|p| pods::is_active(p)).cloned().collect();
        let Some(pod) = running.get(which % running.len().max(1)) else { return };
        if success {
            self.succeeded.insert(pod.uid_str().to_owned());
        }
        let phase = if success { "Succeeded" } else { "Failed" };
        self.change(pod, |p| p.status.get_or_insert_default().phase = Some(phase.into()));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    /// However often the controller is killed between two writes: a Job of N completions counts exactly N, each from another pod,
    /// an indexed one exactly its indexes.
    #[test]
    fn counts_exactly(completions in 1..6_i32, parallelism in 1..4_i32, indexed in any::<bool>(),
        script in prop::collection::vec((0..7_usize, any::<bool>(), 0..4_usize), 0..60)) {
        let mode = if indexed { "Indexed" } else { "NonIndexed" };
        let spec = json!({"completions": completions, "parallelism": parallelism, "completionMode": mode, "backoffLimit": 9999});
        let mut world = World { job: job(spec, json!({})), pods: Vec::new(), made: 0, succeeded: HashSet::new(), now: now() };
        for (writes, success, which) in script {
            world.sync(writes);
            world.finish(which, success);
            let active = world.pods.iter().filter(|p| pods::is_active(p)).count();
            prop_assert!(active <= usize::try_from(parallelism).unwrap());
        }
        for _ in 0..200 {
            world.sync(usize::MAX);
            world.finish(0, true);
        }
        let status = world.job.status.clone().unwrap();
        prop_assert!(world.job.is_finished());
        prop_assert!(world.job.condition("Complete").is_some());
        prop_assert_eq!(status.succeeded, Some(completions));
        prop_assert!(world.succeeded.len() >= usize::try_from(completions).unwrap());
        if indexed {
            let done: HashSet<i32> = world.pods.iter().filter(|p| pods::phase(p) == "Succeeded").filter_map(|p| index_of(p)).collect();
            prop_assert_eq!(done.len(), usize::try_from(completions).unwrap());
        } else {
            prop_assert_eq!(world.succeeded.len(), usize::try_from(completions).unwrap());
        }
        prop_assert!(world.pods.iter().all(|p| !is_tracked(p)));
    }
}
