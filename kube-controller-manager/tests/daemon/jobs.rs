//! Jobs from birth to their end and beyond, with a played kubelet.

use k8s_openapi::api::batch::v1::{CronJob, Job};
use k8s_openapi::api::core::v1::Pod;
use kube::{Api, ResourceExt, api::ListParams};
use serde_json::{Value, json};

use crate::loops::start;
use crate::neighbour::{create, eventually, merge};

fn template() -> Value {
    json!({"metadata": {"labels": {"app": "x"}}, "spec": {"restartPolicy": "Never", "terminationGracePeriodSeconds": 0,
        "containers": [{"name": "c", "image": "i"}]}})
}

fn job(name: &str, spec: Value) -> Value {
    let mut value = json!({"metadata": {"name": name}, "spec": {"template": template()}});
    value["spec"].as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
    value
}

/// The pods of a Job that are neither finished nor going.
async fn running(pods: &Api<Pod>, job: &str, count: usize) -> Vec<Pod> {
    let of_job = ListParams::default().labels(&format!("batch.kubernetes.io/job-name={job}"));
    eventually(&format!("{job} has {count} running pods"), async || {
        let mut list = pods.list(&of_job).await.unwrap().items;
        let phase = |p: &Pod| p.status.as_ref().and_then(|s| s.phase.clone()).unwrap_or_default();
        list.retain(|p| {
            p.metadata.deletion_timestamp.is_none() && !matches!(phase(p).as_str(), "Succeeded" | "Failed")
        });
        (list.len() == count).then_some(list)
    })
    .await
}

async fn finish(pods: &Api<Pod>, pod: &Pod, phase: &str, code: i32) {
    let at = "2026-01-01T00:00:00Z";
    let state = json!({"terminated": {"exitCode": code, "startedAt": at, "finishedAt": at}});
    let container =
        json!([{"name": "c", "image": "i", "imageID": "i", "ready": false, "restartCount": 0, "state": state}]);
    merge(pods, &pod.name_any(), true, json!({"status": {"phase": phase, "containerStatuses": container}})).await;
}

async fn ended(jobs: &Api<Job>, name: &str, kind: &str) -> Value {
    eventually(&format!("{name} is {kind}"), async || {
        let status = json!(jobs.get(name).await.unwrap().status);
        let conditions = status["conditions"].as_array().cloned().unwrap_or_default();
        conditions.iter().any(|c| c["type"] == kind && c["status"] == "True").then_some(status)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_count_index_fail_and_go() {
    let (_server, client, daemon) = start().await;
    let jobs: Api<Job> = Api::default_namespaced(client.clone());
    let pods: Api<Pod> = Api::default_namespaced(client.clone());
    create(&jobs, job("plain", json!({"completions": 3, "parallelism": 2}))).await;
    create(&jobs, job("indexed", json!({"completions": 2, "parallelism": 2, "completionMode": "Indexed"}))).await;
    let rule = json!({"action": "FailJob", "onExitCodes": {"operator": "In", "values": [42]}});
    create(&jobs, job("policy", json!({"podFailurePolicy": {"rules": [rule]}, "parallelism": 2, "completions": 2})))
        .await;
    create(&jobs, job("asleep", json!({"suspend": true}))).await;
    create(&jobs, job("elsewhere", json!({"managedBy": "example.com/other"}))).await;

    let two = running(&pods, "plain", 2).await;
    assert_eq!(two[0].finalizers(), ["batch.kubernetes.io/job-tracking"]);
    // A failure is made good, and the pods of successes are counted once although they stay.
    finish(&pods, &two[0], "Failed", 1).await;
    finish(&pods, &two[1], "Succeeded", 0).await;
    for pod in running(&pods, "plain", 2).await {
        finish(&pods, &pod, "Succeeded", 0).await;
    }
    let status = ended(&jobs, "plain", "Complete").await;
    assert_eq!((&status["succeeded"], &status["failed"]), (&json!(3), &json!(1)));
    assert_eq!(status["uncountedTerminatedPods"], json!({}));

    for pod in running(&pods, "indexed", 2).await {
        let index = pod.annotations()["batch.kubernetes.io/job-completion-index"].clone();
        assert_eq!(pod.labels()["batch.kubernetes.io/job-completion-index"], index);
        assert_eq!(pod.spec.as_ref().unwrap().hostname.as_deref(), Some(format!("indexed-{index}").as_str()));
        finish(&pods, &pod, "Succeeded", 0).await;
    }
    assert_eq!(ended(&jobs, "indexed", "Complete").await["completedIndexes"], "0,1");

    let failing = running(&pods, "policy", 2).await;
    finish(&pods, &failing[0], "Failed", 42).await;
    let status = ended(&jobs, "policy", "Failed").await;
    let failed = status["conditions"].as_array().unwrap().iter().find(|c| c["type"] == "Failed").unwrap().clone();
    assert_eq!(failed["reason"], "PodFailurePolicy");
    running(&pods, "policy", 0).await;

    ended(&jobs, "asleep", "Suspended").await;
    merge(&jobs, "asleep", false, json!({"spec": {"suspend": false, "ttlSecondsAfterFinished": 0}})).await;
    let woken = running(&pods, "asleep", 1).await.remove(0);
    finish(&pods, &woken, "Succeeded", 0).await;
    eventually("it goes after its end, with its pod", async || {
        let pod = pods.get_opt(&woken.name_any()).await.unwrap();
        (jobs.get_opt("asleep").await.unwrap().is_none() && pod.is_none()).then_some(())
    })
    .await;
    assert_eq!(json!(jobs.get("elsewhere").await.unwrap().status.unwrap_or_default()), json!({}));
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cron_job_starts_what_is_due_and_keeps_its_history() {
    let (_server, client, daemon) = start().await;
    let crons: Api<CronJob> = Api::default_namespaced(client.clone());
    let jobs: Api<Job> = Api::default_namespaced(client.clone());
    let pods: Api<Pod> = Api::default_namespaced(client.clone());
    // Due at once, and then not for long: the wall clock decides nothing here.
    let spec = json!({"schedule": "* * * * *", "concurrencyPolicy": "Forbid", "successfulJobsHistoryLimit": 1,
        "timeZone": "Asia/Kathmandu", "jobTemplate": {"metadata": {"labels": {"of": "c"}}, "spec": {"template": template()}}});
    create(&crons, json!({"metadata": {"name": "c"}, "spec": spec})).await;
    merge(&crons, "c", true, json!({"status": {"lastScheduleTime": "2026-01-01T00:00:00Z"}})).await;
    let first = eventually("the job that is due", async || {
        jobs.list(&ListParams::default()).await.unwrap().items.into_iter().next()
    })
    .await;
    assert_eq!((first.owner_references()[0].kind.as_str(), first.labels()["of"].as_str()), ("CronJob", "c"));
    assert!(first.annotations()["batch.kubernetes.io/cronjob-scheduled-timestamp"].ends_with("+05:45"));
    eventually("it is active", async || {
        let active = crons.get("c").await.unwrap().status?.active?;
        active.iter().any(|r| r.uid == first.uid()).then_some(())
    })
    .await;
    merge(&crons, "c", false, json!({"spec": {"suspend": true}})).await;
    for pod in running(&pods, &first.name_any(), 1).await {
        finish(&pods, &pod, "Succeeded", 0).await;
    }
    eventually("its success is noted", async || {
        let status = crons.get("c").await.unwrap().status?;
        (status.last_successful_time.is_some() && status.active.unwrap_or_default().is_empty()).then_some(())
    })
    .await;
    merge(&crons, "c", false, json!({"spec": {"successfulJobsHistoryLimit": 0}})).await;
    eventually("finished jobs beyond the limit go", async || {
        jobs.list(&ListParams::default()).await.unwrap().items.is_empty().then_some(())
    })
    .await;
    daemon.stop().await;
}
