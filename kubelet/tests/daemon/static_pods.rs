//! Pods from files, and their mirrors in the API.

use crate::support::{Node, eventually};

fn manifest(image: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: web, labels: {{app: web}}}}\nspec:\n  terminationGracePeriodSeconds: 3\n  containers:\n  - {{name: main, image: '{image}'}}\n"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_becomes_a_pod_and_its_mirror() {
    let node = Node::start().await;
    let file = node.path("manifests/web.yaml");
    std::fs::write(&file, manifest("example.com/app:1")).unwrap();
    let pod = node.wait_for_pod("web-n1", "/status/phase", "Running").await;
    let annotations = &pod["metadata"]["annotations"];
    assert_eq!(annotations["kubernetes.io/config.source"], "file");
    assert_eq!(annotations["kubernetes.io/config.mirror"], annotations["kubernetes.io/config.hash"]);
    assert_eq!(pod["metadata"]["ownerReferences"][0]["kind"], "Node");
    assert_eq!(pod["metadata"]["labels"]["app"], "web");
    assert_eq!(pod["spec"]["nodeName"], "n1");
    node.wait_for_pod_ready("web-n1", "True").await;

    // The mirror is only a picture: without it the pod runs on and the picture comes back.
    let running = node.runtime.running("main");
    node.delete("web-n1", Some(0)).await;
    let first = pod["metadata"]["uid"].clone();
    let again = eventually("the mirror to come back", async || {
        let pod = node.pod("web-n1").await;
        if pod["metadata"]["uid"].is_string() && pod["metadata"]["uid"] != first {
            Ok(pod)
        } else {
            Err(pod.to_string())
        }
    })
    .await;
    assert_eq!(node.runtime.running("main"), running);
    assert_eq!(again["metadata"]["annotations"]["kubernetes.io/config.hash"], annotations["kubernetes.io/config.hash"]);

    // Another text is another pod.
    std::fs::write(&file, manifest("example.com/app:2")).unwrap();
    node.wait_for_pod("web-n1", "/spec/containers/0/image", "example.com/app:2").await;
    node.wait_for_pod("web-n1", "/status/phase", "Running").await;
    assert!(node.runtime.calls(&["stop"]).contains(&"stop main 3".to_owned()), "{:?}", node.runtime.calls(&["stop"]));

    std::fs::remove_file(&file).unwrap();
    node.wait_until_gone("web-n1").await;
    eventually("nothing to be left", async || if node.runtime.is_empty() { Ok(()) } else { Err("containers".into()) })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_file_leaves_the_others_alone() {
    let node = Node::start().await;
    std::fs::write(node.path("manifests/a.yaml"), "apiVersion: v1\nkind: [").unwrap();
    std::fs::write(node.path("manifests/b.yaml"), "\u{0}\u{1}").unwrap();
    std::fs::create_dir(node.path("manifests/c.yaml")).unwrap();
    std::fs::write(node.path("manifests/web.yaml"), manifest("example.com/app:1")).unwrap();
    node.wait_for_pod("web-n1", "/status/phase", "Running").await;
}
