//! `kubectl apply` and `diff`, on the client and on the server, strict and not.

use super::{Kubectl, deployment};

#[tokio::test(flavor = "multi_thread")]
async fn kubectl_applies_on_the_server() {
    let Some((mut cluster, kubectl)) = Kubectl::start().await else { return };
    let apply = "apply --server-side -f -";
    assert_eq!(kubectl.must(apply, &deployment(1, "i:1")).await, "deployment.apps/web serverside-applied\n");
    assert_eq!(kubectl.must(apply, &deployment(1, "i:1")).await, "deployment.apps/web serverside-applied\n");
    let shown = kubectl.must("get deployment web -o yaml --show-managed-fields", "").await;
    for part in
        ["manager: kubectl", "operation: Apply", "k:{\"name\":\"c\"}", "k:{\"containerPort\":80,\"protocol\":\"TCP\"}"]
    {
        assert!(shown.contains(part), "{shown}");
    }
    assert!(!kubectl.must("get deployment web -o yaml", "").await.contains("managedFields"));

    // Another writer's replicas are in the way, until forced.
    kubectl.must("scale deployment web --replicas=4", "").await;
    let refused = kubectl.must_not(apply, &deployment(2, "i:1")).await;
    assert!(
        refused.contains("Apply failed with 1 conflict: conflict with \"kubectl\" with subresource \"scale\" using apps/v1: .spec.replicas"),
        "{refused}"
    );
    assert!(refused.contains("--force-conflicts"), "{refused}");
    kubectl.must("apply --server-side --force-conflicts -f -", &deployment(2, "i:1")).await;
    assert_eq!(kubectl.must("get deployment web -o jsonpath={.spec.replicas}", "").await, "2");
    let other = kubectl.must_not("apply --server-side --field-manager=other -f -", &deployment(2, "i:2")).await;
    assert!(other.contains("conflict with \"kubectl\": .spec.template.spec.containers[name=\"c\"].image"), "{other}");

    let (same, difference, errors) = kubectl.run("diff --server-side -f -", &deployment(2, "i:9")).await;
    assert!(!same && difference.contains("+      - image: i:9"), "{difference}{errors}");
    let (same, difference, errors) = kubectl.run("diff --server-side -f -", &deployment(2, "i:1")).await;
    assert!(same && difference.is_empty(), "{difference}{errors}");
    let dry = kubectl
        .must("apply --server-side --dry-run=server -f - -o jsonpath={.spec.replicas}", &deployment(7, "i:1"))
        .await;
    assert_eq!(dry, "7");
    assert_eq!(kubectl.must("get deployment web -o jsonpath={.spec.replicas}", "").await, "2");
    let unknown = format!("{}  nonsense: 1\n", deployment(2, "i:1"));
    let refused = kubectl.must_not("apply --server-side --validate=false -f -", &unknown).await;
    assert!(refused.contains(".spec.nonsense: field not declared in schema"), "{refused}");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn kubectl_migrates_from_client_side_apply_and_back() {
    let Some((mut cluster, kubectl)) = Kubectl::start().await else { return };
    kubectl.must("apply -f -", &deployment(1, "i:1")).await;
    kubectl.must("apply -f -", &deployment(2, "i:1")).await;
    let managers = "get deployment web --show-managed-fields -o jsonpath={.metadata.managedFields[*].manager}";
    assert_eq!(kubectl.must(managers, "").await, "kubectl-client-side-apply");
    // kubectl asks the server to take over what client-side apply owned.
    kubectl.must("apply --server-side -f -", &deployment(3, "i:2")).await;
    let found = kubectl.must(managers, "").await;
    let mut found: Vec<&str> = found.split_whitespace().collect();
    found.sort_unstable();
    assert_eq!(found, ["kubectl", "kubectl-last-applied"]);
    let annotation =
        "get deployment web -o jsonpath={.metadata.annotations.kubectl\\.kubernetes\\.io/last-applied-configuration}";
    assert!(kubectl.must(annotation, "").await.contains("\"image\":\"i:2\""));
    // And what is no longer applied goes.
    let without = deployment(3, "i:2").replace("        ports:\n        - containerPort: 80\n", "");
    kubectl.must("apply --server-side -f -", &without).await;
    let ports = "get deployment web -o jsonpath={.spec.template.spec.containers[0].ports}";
    assert_eq!(kubectl.must(ports, "").await, "");
    let (same, difference, errors) = kubectl.run("diff -f -", &without).await;
    assert!(same && difference.is_empty(), "{difference}{errors}");
    kubectl.must("apply -f -", &deployment(4, "i:3")).await;
    assert_eq!(kubectl.must("get deployment web -o jsonpath={.spec.replicas}", "").await, "4");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn kubectl_applies_every_kind_strictly() {
    let Some((mut cluster, kubectl)) = Kubectl::start().await else { return };
    let objects = include_str!("../objects.yaml");
    let count = objects.lines().filter(|line| line.starts_with("kind: ")).count();
    // What the rest needs first: a dry run stores nothing.
    kubectl.must("create namespace objects", "").await;
    kubectl.must("create serviceaccount default -n objects", "").await;
    let dry = kubectl.must("apply --validate=strict --dry-run=server -f -", objects).await;
    assert_eq!(dry.lines().filter(|line| line.ends_with(" (server dry run)")).count(), count, "{dry}");
    let made = kubectl.must("apply --validate=strict -f -", objects).await;
    assert_eq!(made.lines().count(), count, "{made}");
    // Lists that are replaced whole conflict with their defaults.
    let again = "apply --server-side --force-conflicts --field-manager=other --validate=strict -f -";
    assert_eq!(kubectl.must(again, objects).await.lines().count(), count);
    for form in ["yaml", "wide", "name"] {
        kubectl.must(&format!("get -f - -o {form}"), objects).await;
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn kubectl_validates_strictly_or_warns() {
    let Some((mut cluster, kubectl)) = Kubectl::start().await else { return };
    let unknown = format!("{}  nonsense: 1\n", deployment(1, "i:1"));
    let nested = deployment(1, "i:1").replace("        ports:", "        prots: []\n        ports:");
    let refusals = [
        (&unknown, "strict decoding error: unknown field \"spec.nonsense\""),
        (&nested, "strict decoding error: unknown field \"spec.template.spec.containers[0].prots\""),
    ];
    for (manifest, told) in refusals {
        for command in ["create --validate=strict -f -", "apply --validate=strict -f -", "apply --validate=true -f -"] {
            let refused = kubectl.must_not(command, manifest).await;
            assert!(refused.contains(told), "{command}: {refused}");
        }
    }
    assert!(kubectl.must_not("get deployment web", "").await.contains("NotFound"));
    let (done, _, warned) = kubectl.run("apply --validate=warn -f -", &nested).await;
    assert!(done && warned.contains("Warning: unknown field \"spec.template.spec.containers[0].prots\""), "{warned}");
    // And what is there is not changed by what is refused.
    let refused = kubectl.must_not("apply --validate=strict -f -", &nested.replace("i:1", "i:2")).await;
    assert!(refused.contains("unknown field \"spec.template.spec.containers[0].prots\""), "{refused}");
    let image = "get deployment web -o jsonpath={.spec.template.spec.containers[0].image}";
    assert_eq!(kubectl.must(image, "").await, "i:1");
    let (done, _, silent) = kubectl.run("apply --validate=ignore -f -", &nested.replace("i:1", "i:3")).await;
    assert!(done && silent.is_empty(), "{silent}");
    assert_eq!(kubectl.must(image, "").await, "i:3");
    cluster.stop().await;
}
