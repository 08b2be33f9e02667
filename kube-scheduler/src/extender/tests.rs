//! Extenders as a server of the test answers for them.

use std::convert::Infallible;
use std::sync::Arc;

use common::informer::InformerOptions;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use serde_json::Value;
use tokio::net::TcpListener;

use super::*;
use crate::framework::status::Code;
use crate::testing::{Cluster, PodBuilder, node, pod, pod_info};

/// What the server was asked: path and body.
type Log = Arc<Mutex<Vec<(String, Value)>>>;

/// Serves fixed answers by path; everything else is a 404. Returns its address.
async fn serve(answers: &'static [(&'static str, &'static str)]) -> (String, Log) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/x", listener.local_addr().unwrap());
    let log = Log::default();
    let sink = log.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let sink = sink.clone();
            let service = service_fn(move |request: ::http::Request<Incoming>| {
                let sink = sink.clone();
                async move {
                    let path = request.uri().path().to_owned();
                    let body = request.into_body().collect().await.unwrap().to_bytes();
                    let found = answers.iter().find(|(known, _)| *known == path);
                    sink.lock().push((path, serde_json::from_slice(&body).unwrap_or(Value::Null)));
                    let code = if found.is_some() { 200 } else { 404 };
                    let text = found.map_or("", |(_, text)| *text);
                    let answer = ::http::Response::builder().status(code).body(Full::new(bytes::Bytes::from(text)));
                    Ok::<_, Infallible>(answer.unwrap())
                }
            });
            tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service));
        }
    });
    (url, log)
}

fn extenders(configs: Vec<Value>, pods: &[&PodBuilder]) -> Extenders {
    let configs: Vec<ExtenderConfig> = configs.into_iter().map(|one| serde_json::from_value(one).unwrap()).collect();
    let informer = Informer::new(InformerOptions::default());
    pods.iter().for_each(|pod| informer.apply(pod.build()));
    Extenders::new(&configs, informer).unwrap()
}

/// Asks as the scheduling thread does: outside of the runtime's own threads.
async fn asking<T: Send + 'static>(question: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(question).await.unwrap()
}

fn cluster() -> Cluster {
    Cluster::new(&[node("n1"), node("n2"), node("n3")])
}

#[tokio::test(flavor = "multi_thread")]
async fn filters_one_after_the_other() {
    let (url, log) = serve(&[
        ("/x/filter", r#"{"NodeNames": ["n1", "n2"], "FailedAndUnresolvableNodes": {"n3": "no such disk"}}"#),
        ("/x/again", r#"{"Nodes": {"items": [{"metadata": {"name": "n2"}}]}, "FailedNodes": {"n1": "full"}}"#),
    ])
    .await;
    let wants = pod("p");
    let all = extenders(
        vec![
            json!({"urlPrefix": url, "filterVerb": "again"}),
            json!({"urlPrefix": url, "filterVerb": "gone", "ignorable": true}),
            json!({"urlPrefix": url, "filterVerb": "filter", "nodeCacheCapable": true}),
        ],
        &[&wants],
    );
    // Ignorable ones go last: the other two keep their order.
    let (left, diagnosis) = asking(move || {
        let (cluster, info) = (cluster(), pod_info(&pod("p")));
        let mut diagnosis = Diagnosis::default();
        let cx = CycleContext { pod: &info, snapshot: &cluster.snapshot };
        let error = all.filter(&cx, vec![0, 1, 2], &mut diagnosis).unwrap_err();
        // n2 alone was left, so the second extender invents n1.
        assert!(error.message().contains("claims a filtered node \"n1\""), "{error:?}");
        let last = Extenders { list: all.list.into_iter().skip(1).collect(), ..all };
        let mut diagnosis = Diagnosis::default();
        (last.filter(&cx, vec![0, 1, 2], &mut diagnosis).unwrap(), diagnosis)
    })
    .await;
    assert_eq!(left, [0, 1]);
    assert!(diagnosis.unschedulable.contains(NAME));
    let [(2, status)] = diagnosis.failures.as_slice() else { panic!("{:?}", diagnosis.failures) };
    assert_eq!((status.code, status.message().as_str()), (Code::UnschedulableAndUnresolvable, "no such disk"));
    let log = log.lock();
    assert_eq!(log[0].1["Nodes"]["items"][2]["metadata"]["name"], "n3");
    assert_eq!(log[0].1["Pod"]["metadata"]["name"], "p");
    assert_eq!(log[1].1["NodeNames"], json!(["n2"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn failures_are_errors_unless_ignorable() {
    let (url, _) = serve(&[("/x/broken", "{"), ("/x/error", r#"{"Error": "out of order"}"#)]).await;
    for (verb, ignorable, expected) in [
        ("broken", false, "EOF while parsing"),
        ("error", false, "out of order"),
        ("gone", false, "failed gone with extender at URL"),
        ("broken", true, ""),
        ("gone", true, ""),
    ] {
        let config = json!({"urlPrefix": url, "filterVerb": verb, "ignorable": ignorable});
        let all = extenders(vec![config], &[]);
        let outcome = asking(move || {
            let (cluster, info) = (cluster(), pod_info(&pod("p")));
            all.filter(&CycleContext { pod: &info, snapshot: &cluster.snapshot }, vec![0], &mut Diagnosis::default())
        })
        .await;
        match outcome {
            Ok(left) => assert_eq!((left, expected), (vec![0], "")),
            Err(status) => assert!(!ignorable && status.message().contains(expected), "{status:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn scores_are_weighted_and_only_for_pods_of_interest() {
    let (url, log) = serve(&[("/x/score", r#"[{"Host": "n2", "Score": 10}, {"Host": "n1", "Score": 1}]"#)]).await;
    let config = json!({"urlPrefix": url, "prioritizeVerb": "score", "weight": 2, "nodeCacheCapable": true,
                        "managedResources": [{"name": "example.com/gpu"}]});
    let all = extenders(vec![config], &[]);
    let scores = asking(move || {
        let cluster = cluster();
        let plain = pod_info(&pod("p"));
        let mut scores = [1, 1, 1];
        all.score(&cluster.context(&plain), &[0, 1, 2], &mut scores);
        assert_eq!(scores, [1, 1, 1]);
        let gpu = pod_info(&pod("p").request("example.com/gpu", "1"));
        all.score(&cluster.context(&gpu), &[0, 1, 2], &mut scores);
        scores
    })
    .await;
    assert_eq!(scores, [21, 201, 1]);
    assert_eq!(log.lock().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn binds_and_chooses_victims() {
    let (url, log) = serve(&[
        ("/x/bind", r#"{"Error": ""}"#),
        ("/x/preempt", r#"{"NodeNameToMetaVictims": {"n2": {"Pods": [{"UID": "v2"}], "NumPDBViolations": 1}}}"#),
    ])
    .await;
    let both = json!({"urlPrefix": url, "bindVerb": "bind", "preemptVerb": "preempt", "nodeCacheCapable": true});
    let all = Arc::new(extenders(vec![both], &[]));
    assert_eq!(all.bind(&pod_info(&pod("p")), "n1").await, Some(Ok(())));
    let asked = json!({"PodName": "p", "PodNamespace": "default", "PodUID": "p", "Node": "n1"});
    assert_eq!(log.lock()[0].1, asked);
    let left = asking(move || {
        let mut cluster = cluster();
        cluster.place(&pod("v1"), "n1");
        cluster.place(&pod("v2"), "n2");
        let candidate =
            |slot: u32| Candidate { slot, victims: cluster.snapshot.pods[slot as usize].to_vec(), violations: 0 };
        let info = pod_info(&pod("p"));
        all.preempt(&cluster.context(&info), vec![candidate(0), candidate(1)]).unwrap()
    })
    .await;
    let [one] = left.as_slice() else { panic!("{left:?}") };
    assert_eq!((one.slot, &*one.victims[0].name, one.violations), (1, "v2", 1));
    assert_eq!(log.lock()[1].1["NodeNameToMetaVictims"]["n1"]["Pods"][0]["UID"], "v1");
}
