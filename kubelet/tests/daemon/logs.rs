//! Rotation of container logs.

use serde_json::json;

use crate::support::{Node, eventually};

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_is_full_is_rotated_and_goes_with_its_container() {
    let node = Node::start_with(json!({
        "containerLogMaxSize": "1Ki", "containerLogMaxFiles": 3, "containerLogMonitorInterval": "3s",
    }))
    .await;
    node.run("web", json!({"containers": [{"name": "main"}]})).await;
    node.wait_for_pod_ready("web", "True").await;
    let log = node.runtime.log("main");
    assert!(log.ends_with("main/0.log"), "{}", log.display());
    let files = || {
        let mut names: Vec<String> = std::fs::read_dir(log.parent().unwrap())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| name.starts_with("0.log"))
            .collect();
        names.sort();
        names
    };
    for round in 1..=4 {
        std::fs::write(&log, "x".repeat(2000)).unwrap();
        eventually("the runtime to be told", async || {
            let calls = node.runtime.calls(&["reopen"]);
            if calls.len() == round { Ok(()) } else { Err(format!("{calls:?}")) }
        })
        .await;
        assert_eq!(std::fs::metadata(&log).unwrap().len(), 0, "round {round}");
    }
    // The one that is written, the newest rotated one, and one compressed.
    let names = files();
    assert_eq!(names.len(), 3, "{names:?}");
    assert!(names[1].ends_with(".gz") && !names[2].ends_with(".gz"), "{names:?}");
    // A log that somebody took away is opened anew.
    std::fs::remove_file(&log).unwrap();
    eventually("a new log", async || if log.exists() { Ok(()) } else { Err("none".into()) }).await;
    // Two restarts on, nothing of it is left.
    for restarts in 1..=2 {
        node.runtime.exit("main", 1);
        node.wait_for_pod("web", "/status/containerStatuses/0/restartCount", restarts).await;
    }
    eventually(
        "the first log to be gone",
        async || if files().is_empty() { Ok(()) } else { Err(format!("{:?}", files())) },
    )
    .await;
}
