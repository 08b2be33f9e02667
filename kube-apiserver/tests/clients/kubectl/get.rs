//! `kubectl get` in every form, in chunks, and the commands that read: `describe`, `wait`, `auth can-i`.

use super::{Kubectl, deployment};

/// The words of each line.
fn words(text: &str) -> Vec<Vec<&str>> {
    text.lines().map(|line| line.split_whitespace().collect()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn kubectl_gets_in_every_form() {
    let Some((mut cluster, kubectl)) = Kubectl::start().await else { return };
    kubectl.must("create -f -", &deployment(2, "i:1")).await;
    let table = kubectl.must("get deployments", "").await;
    let lines = words(&table);
    assert_eq!(lines[0], ["NAME", "READY", "UP-TO-DATE", "AVAILABLE", "AGE"]);
    assert_eq!(lines[1][..4], ["web", "0/2", "0", "0"]);
    let wide = kubectl.must("get deployments -o wide --show-labels", "").await;
    let lines = words(&wide);
    assert_eq!(lines[0][5..], ["CONTAINERS", "IMAGES", "SELECTOR", "LABELS"]);
    assert_eq!(lines[1][5..], ["c", "i:1", "app=web", "<none>"]);
    for (form, want) in [
        ("name", "deployment.apps/web\n"),
        ("jsonpath={.items[*].spec.replicas}", "2"),
        ("custom-columns=N:.metadata.name,I:.spec.template.spec.containers[*].image", "N     I\nweb   i:1\n"),
        ("go-template={{range.items}}{{.kind}}{{end}}", "Deployment"),
    ] {
        assert_eq!(kubectl.must(&format!("get deployments -o {form}"), "").await, want);
    }
    let yaml = kubectl.must("get deployment web -o yaml", "").await;
    assert!(yaml.starts_with("apiVersion: apps/v1\nkind: Deployment\n"), "{yaml}");
    // What it shows can be sent back.
    kubectl.must("replace --validate=strict -f -", &yaml).await;
    let many = kubectl.must("get deployments,services,serviceaccounts -A --no-headers", "").await;
    assert!(many.contains("deployment.apps/web") && many.contains("service/kubernetes"), "{many}");
    let sorted = kubectl.must("get namespaces --sort-by=.metadata.name --no-headers", "").await;
    let names: Vec<&str> = words(&sorted).iter().map(|line| line[0]).collect();
    assert_eq!(names, ["default", "kube-node-lease", "kube-public", "kube-system"]);
    let raw = kubectl.must("get --raw /apis/apps/v1/namespaces/default/deployments?limit=1", "").await;
    assert!(raw.contains("\"kind\":\"DeploymentList\""), "{raw}");
    assert!(
        kubectl
            .must("describe deployment web", "")
            .await
            .contains("RollingUpdateStrategy:  25% max unavailable, 25% max surge")
    );
    assert_eq!(kubectl.must("auth can-i create pods --subresource=exec", "").await, "yes\n");
    assert_eq!(kubectl.run("auth can-i get pods --as=nobody", "").await.1, "no\n");
    assert!(
        kubectl
            .must("wait deployment/web --for=jsonpath={.spec.replicas}=2 --timeout=300s", "")
            .await
            .contains("condition met")
    );
    assert!(kubectl.must("get deployments -l app=other", "").await.is_empty());
    assert!(
        kubectl.must_not("get deployments -l a=b=c", "").await.contains("found '=', expected: ',' or 'end of string'")
    );
    assert!(
        kubectl
            .must_not("get pods --field-selector=spec.nonsense=x", "")
            .await
            .contains("field label not supported: spec.nonsense")
    );
    kubectl.must("delete deployment web --cascade=background --wait=true", "").await;
    assert!(kubectl.must_not("get deployment web", "").await.contains("deployments.apps \"web\" not found"));
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn kubectl_reads_lists_in_chunks() {
    let Some((mut cluster, kubectl)) = Kubectl::start().await else { return };
    let maps: String = (0..23)
        .map(|n| format!("---\napiVersion: v1\nkind: ConfigMap\nmetadata: {{name: m{n:02}, labels: {{set: s}}}}\n"))
        .collect();
    kubectl.must("create -f -", &maps).await;
    let all: Vec<String> = (0..23).map(|n| format!("configmap/m{n:02}")).collect();
    for (size, requests) in [(0, 1), (5, 5), (23, 1), (22, 2), (500, 1)] {
        let list = format!("get configmaps -l set=s -o name --chunk-size={size} -v=6");
        let (done, output, log) = kubectl.run(&list, "").await;
        assert!(done, "{log}");
        assert_eq!(output.lines().collect::<Vec<_>>(), all, "{size}");
        let asked = log.lines().filter(|line| line.contains("/namespaces/default/configmaps?")).count();
        assert_eq!(asked, requests, "chunks of {size}: {log}");
    }
    let table = kubectl.must("get configmaps -l set=s --chunk-size=4 --no-headers", "").await;
    assert_eq!(table.lines().count(), 23, "{table}");
    cluster.stop().await;
}
