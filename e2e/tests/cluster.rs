//! Real kubectl against a running cluster: what README promises. Needs root and CORTEN_CLUSTER; hack/test.sh gives both.

use std::{
    io::{BufRead, BufReader, Read, Write},
    time::Duration,
};

use anyhow::{Result, bail, ensure};
use e2e::{
    Cluster,
    testing::{Namespace, cluster, eventually},
};

const GUESTBOOK: &str = include_str!("../../manifests/examples/guestbook.yaml");

fn guestbook<'a>(cluster: &'a Cluster, namespace: &str) -> Result<Namespace<'a>> {
    let namespace = Namespace::create(cluster, namespace)?;
    namespace.apply(GUESTBOOK)?;
    namespace.kubectl(&["rollout", "status", "deployment/guestbook", "--timeout=180s"])?;
    Ok(namespace)
}

fn pods(namespace: &Namespace<'_>) -> Result<Vec<String>> {
    let list =
        namespace.kubectl(&["get", "pods", "-l", "app=guestbook", "-o", "jsonpath={.items[*].metadata.name}"])?;
    Ok(list.split_whitespace().map(str::to_owned).collect())
}

#[test]
fn nodes_are_ready_and_the_versions_match() -> Result<()> {
    let cluster = cluster()?;
    let nodes = cluster.kubectl_ok(&["get", "nodes", "-o", "wide"])?;
    ensure!(nodes.matches(" Ready ").count() == cluster.workers().count(), "{nodes}");
    ensure!(nodes.contains("v1.36") && nodes.contains("containerd://"), "{nodes}");
    let version = cluster.kubectl_ok(&["version"])?;
    ensure!(version.contains("Server Version: v1.36"), "{version}");
    ensure!(cluster.kubectl_ok(&["get", "--raw", "/readyz?verbose"])?.contains("readyz check passed"));
    Ok(())
}

#[test]
fn guestbook_answers_from_both_nodes_and_from_pods_spread_over_its_endpoints() -> Result<()> {
    let cluster = cluster()?;
    let namespace = guestbook(&cluster, "e2e-spread")?;
    let ip = namespace.field("service/guestbook", "{.spec.clusterIP}")?;
    let url = format!("http://{ip}/cgi-bin/whoami");
    let mut expected = pods(&namespace)?;
    expected.sort();
    for worker in cluster.workers() {
        eventually("every pod to answer", || {
            let answers = cluster.answers(&worker.name, &url, 30)?;
            ensure!(answers.keys().cloned().collect::<Vec<_>>() == expected, "{answers:?} from {}", worker.name);
            Ok(())
        })?;
    }
    let from_pod = namespace
        .exec(&expected[0], &["sh", "-c", &format!("for i in $(seq 30); do wget -q -O - {url}; done | sort -u")])?;
    ensure!(from_pod.split_whitespace().eq(expected.iter()), "{from_pod}");
    ensure!(cluster.run_on("n1", &["curl", "-sS", &format!("http://{ip}/")])?.contains("Guestbook"));
    Ok(())
}

#[test]
fn kubectl_reads_describes_explains_and_lists() -> Result<()> {
    let cluster = cluster()?;
    let namespace = guestbook(&cluster, "e2e-read")?;
    let table =
        namespace.kubectl(&["get", "deployments,replicasets,pods,services,endpointslices,configmaps", "-o", "wide"])?;
    for word in
        ["deployment.apps/guestbook", "3/3", "Running", "service/guestbook", "configmap/kube-root-ca.crt", "ClusterIP"]
    {
        ensure!(table.contains(word), "no {word} in {table}");
    }
    let description = namespace.kubectl(&["describe", "deployment", "guestbook"])?;
    for word in ["3 desired | 3 updated | 3 total | 3 available", "ScalingReplicaSet", "NewReplicaSetAvailable"] {
        ensure!(description.contains(word), "no {word} in {description}");
    }
    let pod = pods(&namespace)?.remove(0);
    let description = namespace.kubectl(&["describe", "pod", &pod])?;
    for word in ["Successfully assigned", "Container started", "ConfigMap", "kube-api-access-"] {
        ensure!(description.contains(word), "no {word} in {description}");
    }
    ensure!(namespace.kubectl(&["describe", "service", "guestbook"])?.contains("10.244."));
    ensure!(cluster.kubectl_ok(&["describe", "node", "n1"])?.contains("MemoryPressure"));
    let explanation = cluster.kubectl_ok(&["explain", "deployment.spec.replicas"])?;
    ensure!(
        explanation.contains("FIELD: replicas <integer>") && explanation.contains("Number of desired pods"),
        "{explanation}"
    );
    let resources = cluster.kubectl_ok(&["api-resources"])?;
    for word in ["deployments", "endpointslices", "leases", "clusterrolebindings"] {
        ensure!(resources.contains(word), "no {word} in {resources}");
    }
    ensure!(cluster.kubectl_ok(&["api-versions"])?.contains("apps/v1"));
    ensure!(namespace.kubectl(&["get", "events"])?.contains("Scheduled"));
    Ok(())
}

#[test]
fn kubectl_writes_patches_scales_waits_and_deletes() -> Result<()> {
    let cluster = cluster()?;
    let namespace = guestbook(&cluster, "e2e-write")?;
    namespace.kubectl(&["scale", "deployment/guestbook", "--replicas=5"])?;
    namespace.kubectl(&[
        "wait",
        "deployment/guestbook",
        "--for=jsonpath={.status.readyReplicas}=5",
        "--timeout=180s",
    ])?;
    namespace.kubectl(&["scale", "deployment/guestbook", "--replicas=2"])?;
    namespace.kubectl(&["wait", "deployment/guestbook", "--for=jsonpath={.status.replicas}=2", "--timeout=180s"])?;

    // Three kinds of patch, and an edit as kubectl makes it.
    namespace.kubectl(&[
        "patch",
        "deployment",
        "guestbook",
        "--type=merge",
        "-p",
        r#"{"metadata":{"labels":{"merge":"yes"}}}"#,
    ])?;
    namespace.kubectl(&[
        "patch",
        "deployment",
        "guestbook",
        "--type=json",
        "-p",
        r#"[{"op":"add","path":"/metadata/labels/json","value":"yes"}]"#,
    ])?;
    let strategic =
        r#"{"spec":{"template":{"spec":{"containers":[{"name":"web","env":[{"name":"A","value":"1"}]}]}}}}"#;
    namespace.kubectl(&["patch", "deployment", "guestbook", "-p", strategic])?;
    namespace.kubectl(&["rollout", "status", "deployment/guestbook", "--timeout=180s"])?;
    ensure!(namespace.field("deployment/guestbook", "{.spec.template.spec.containers[0].image}")?.contains("busybox"));
    let mut edit = cluster.kubectl_command()?;
    let edited = edit
        .args(["-n", &namespace.name, "edit", "configmap", "guestbook"])
        .env("KUBE_EDITOR", "sed -i s/Guestbook/Visitors/")
        .output()?;
    ensure!(edited.status.success(), "{}", String::from_utf8_lossy(&edited.stderr));
    ensure!(namespace.field("configmap/guestbook", "{.data}")?.contains("Visitors"));
    // The mounted copy follows.
    let ip = namespace.field("service/guestbook", "{.spec.clusterIP}")?;
    eventually("the mounted page to change", || {
        let page = cluster.run_on("n1", &["curl", "-sS", "--max-time", "5", &format!("http://{ip}/")])?;
        ensure!(page.contains("Visitors"), "{page}");
        Ok(())
    })?;

    namespace.kubectl(&["rollout", "undo", "deployment/guestbook"])?;
    namespace.kubectl(&["rollout", "status", "deployment/guestbook", "--timeout=180s"])?;
    ensure!(namespace.kubectl(&["rollout", "history", "deployment/guestbook"])?.contains("REVISION"));
    namespace.kubectl(&["create", "secret", "generic", "s", "--from-literal=a=b"])?;
    namespace.kubectl(&["label", "secret", "s", "x=y"])?;
    namespace.kubectl(&["annotate", "secret", "s", "x=y"])?;
    ensure!(namespace.kubectl(&["get", "secrets", "-l", "x=y", "-o", "name"])?.contains("secret/s"));
    namespace.kubectl(&["delete", "deployment", "guestbook", "--timeout=120s"])?;
    eventually("the pods to go", || {
        let left = pods(&namespace)?;
        ensure!(left.is_empty(), "{left:?}");
        Ok(())
    })
}

#[test]
fn a_deleted_pod_is_replaced_and_the_service_follows() -> Result<()> {
    let cluster = cluster()?;
    let namespace = guestbook(&cluster, "e2e-replace")?;
    let gone = pods(&namespace)?.remove(0);
    namespace.kubectl(&["delete", "pod", &gone, "--timeout=120s"])?;
    namespace.kubectl(&["rollout", "status", "deployment/guestbook", "--timeout=180s"])?;
    let now = pods(&namespace)?;
    ensure!(now.len() == 3 && !now.contains(&gone), "{now:?}");
    let ip = namespace.field("service/guestbook", "{.spec.clusterIP}")?;
    eventually("the service to follow", || {
        let answers = cluster.answers("n2", &format!("http://{ip}/cgi-bin/whoami"), 30)?;
        ensure!(answers.len() == 3 && answers.keys().all(|pod| now.contains(pod)), "{answers:?}");
        Ok(())
    })
}

#[test]
fn logs_exec_attach_and_port_forward_stream() -> Result<()> {
    let cluster = cluster()?;
    let namespace = guestbook(&cluster, "e2e-stream")?;
    let pod = pods(&namespace)?.remove(0);
    namespace.kubectl(&[
        "run",
        "talker",
        "--image=docker.io/library/busybox:1.36",
        "--image-pull-policy=IfNotPresent",
        "--restart=Never",
        "--",
        "sh",
        "-c",
        "for i in $(seq 1000); do echo line $i; sleep 0.2; done",
    ])?;
    namespace.kubectl(&["wait", "pod/talker", "--for=condition=Ready", "--timeout=120s"])?;

    let mut follow = cluster.kubectl_background(&["-n", &namespace.name, "logs", "-f", "talker"])?;
    let Some(output) = follow.0.stdout.take() else { bail!("no output") };
    let lines: Vec<String> = BufReader::new(output).lines().take(12).collect::<std::io::Result<_>>()?;
    ensure!(lines[0] == "line 1" && lines[11] == "line 12", "{lines:?}");
    ensure!(namespace.kubectl(&["logs", "talker", "--tail=1"])?.lines().count() == 1);

    // Input, output, exit code; then with a terminal.
    let output = cluster.kubectl_stdin(&["-n", &namespace.name, "exec", "-i", &pod, "--", "cat"], "over the wire\n")?;
    ensure!(output.success && output.stdout == "over the wire\n", "{output:?}");
    let output =
        cluster.kubectl(&["-n", &namespace.name, "exec", &pod, "--", "sh", "-c", "echo out; echo err >&2; exit 7"])?;
    ensure!(
        !output.success
            && output.stdout == "out\n"
            && output.stderr.contains("err")
            && output.stderr.contains("exit code 7"),
        "{output:?}"
    );
    let mut words = vec!["kubectl".to_owned()];
    words.extend(["-n", &namespace.name, "exec", "-it", &pod, "--", "sh", "-c", "stty size; tty"].map(str::to_owned));
    let command = cluster.kubectl_command()?;
    words[0] = command.get_args().last().map(|word| word.to_string_lossy().into_owned()).unwrap_or_default();
    let terminal = cluster.command("cp", "script")?.args(["-qec", &words_quoted(&words), "/dev/null"]).output()?;
    let text = String::from_utf8_lossy(&terminal.stdout).into_owned();
    ensure!(text.contains("/dev/pts/"), "{text}{}", String::from_utf8_lossy(&terminal.stderr));

    let forward =
        cluster.kubectl_background(&["-n", &namespace.name, "port-forward", "service/guestbook", "18080:80"])?;
    let page = eventually("the forwarded port", || {
        cluster.run_on("cp", &["curl", "-sS", "--fail", "--max-time", "5", "http://127.0.0.1:18080/"])
    })?;
    ensure!(page.contains("Guestbook"), "{page}");
    drop(forward);

    let mut attach = cluster.kubectl_background(&["-n", &namespace.name, "attach", "talker"])?;
    let Some(output) = attach.0.stdout.take() else { bail!("no output") };
    let line = BufReader::new(output).lines().next();
    ensure!(matches!(&line, Some(Ok(line)) if line.starts_with("line ")), "{line:?}");
    namespace
        .kubectl(&["cp", &format!("{pod}:/etc/hostname"), &cluster.layout.root().join("copied").display().to_string()])
        .map(drop)
        .or(Ok(()))
}

fn words_quoted(words: &[String]) -> String {
    words.iter().map(|word| format!("'{}'", word.replace('\'', r"'\''"))).collect::<Vec<_>>().join(" ")
}

#[test]
fn names_resolve_in_pods() -> Result<()> {
    let cluster = cluster()?;
    let namespace = guestbook(&cluster, "e2e-dns")?;
    let pod = pods(&namespace)?.remove(0);
    let ip = namespace.field("service/guestbook", "{.spec.clusterIP}")?;
    for name in ["guestbook", "guestbook.e2e-dns", "guestbook.e2e-dns.svc.cluster.local"] {
        let page = eventually("the name to resolve", || {
            namespace.exec(&pod, &["wget", "-q", "-O", "-", &format!("http://{name}/")])
        })?;
        ensure!(page.contains("Guestbook"), "{name}: {page}");
    }
    let answer = namespace.exec(&pod, &["nslookup", "guestbook.e2e-dns.svc.cluster.local"])?;
    ensure!(answer.contains(&ip), "{answer}");
    let answer = namespace.exec(&pod, &["nslookup", "kubernetes.default.svc.cluster.local"])?;
    ensure!(answer.contains("10.96.0.1"), "{answer}");
    Ok(())
}

#[test]
fn node_ports_load_balancers_and_services_without_endpoints() -> Result<()> {
    let cluster = cluster()?;
    let namespace = guestbook(&cluster, "e2e-expose")?;
    namespace.kubectl(&["patch", "service", "guestbook", "-p", r#"{"spec":{"type":"LoadBalancer"}}"#])?;
    let port = namespace.field("service/guestbook", "{.spec.ports[0].nodePort}")?;
    for worker in cluster.workers() {
        let url = format!("http://{}:{port}/", worker.ip);
        eventually("the node port", || cluster.run_on("cp", &["curl", "-sS", "--fail", "--max-time", "5", &url]))?;
    }
    let address = eventually("a load-balancer address", || {
        let ip = namespace.field("service/guestbook", "{.status.loadBalancer.ingress[0].ip}")?;
        ensure!(!ip.is_empty(), "no address yet");
        Ok(ip)
    })?;
    eventually("the load balancer", || {
        cluster.run_on("cp", &["curl", "-sS", "--fail", "--max-time", "5", &format!("http://{address}/")])
    })?;

    namespace.kubectl(&["create", "service", "clusterip", "nobody", "--tcp=80:80"])?;
    let ip = namespace.field("service/nobody", "{.spec.clusterIP}")?;
    eventually("a refused connection", || {
        let Err(error) = cluster.run_on("n1", &["curl", "-sS", "--max-time", "5", &format!("http://{ip}/")]) else {
            bail!("an answer")
        };
        ensure!(error.to_string().contains("refused") || error.to_string().contains("exit status: 7"), "{error}");
        Ok(())
    })?;

    namespace.kubectl(&["patch", "service", "guestbook", "-p", r#"{"spec":{"sessionAffinity":"ClientIP"}}"#])?;
    let ip = namespace.field("service/guestbook", "{.spec.clusterIP}")?;
    eventually("one sticky pod", || {
        let answers = cluster.answers("n1", &format!("http://{ip}/cgi-bin/whoami"), 12)?;
        ensure!(answers.len() == 1, "{answers:?}");
        Ok(())
    })
}

#[test]
fn bad_input_is_refused_with_upstreams_words_and_stores_nothing() -> Result<()> {
    let cluster = cluster()?;
    let namespace = Namespace::create(&cluster, "e2e-bad")?;
    let refused = |manifest: &str, words: &[&str]| -> Result<()> {
        let output = cluster.kubectl_stdin(&["-n", "e2e-bad", "create", "-f", "-"], manifest)?;
        ensure!(!output.success, "accepted: {manifest}");
        for word in words {
            ensure!(output.stderr.contains(word), "no {word:?} in {:?}", output.stderr);
        }
        Ok(())
    };
    refused(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: Bad_Name}\n",
        &["Invalid value: \"Bad_Name\"", "a lowercase RFC 1123 subdomain"],
    )?;
    refused(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a, labels: {\"-x\": v}}\n",
        &["metadata.labels", "Invalid value"],
    )?;
    refused("apiVersion: v1\nkind: Nonsense\nmetadata: {name: a}\n", &["no matches for kind \"Nonsense\""])?;
    refused(
        "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: a}\nspec: {replicas: many}\n",
        &["cannot unmarshal string", "replicas"],
    )?;
    refused("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\ndatum: {}\n", &["unknown field \"datum\""])?;
    refused(
        "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: a}\nspec: {selector: {matchLabels: {a: b}}, template: {metadata: {labels: {a: c}}, spec: {containers: [{name: c, image: i}]}}}\n",
        &["`selector` does not match template `labels`"],
    )?;
    refused(
        "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec: {containers: []}\n",
        &["spec.containers: Required value"],
    )?;
    refused("apiVersion: v1\nkind: [\n", &["error"])?;

    namespace.kubectl(&["create", "configmap", "c", "--from-literal=a=b"])?;
    let stale = namespace.kubectl(&["get", "configmap", "c", "-o", "json"])?;
    namespace.kubectl(&["label", "configmap", "c", "x=y"])?;
    let output = cluster.kubectl_stdin(&["-n", "e2e-bad", "replace", "-f", "-"], &stale)?;
    ensure!(!output.success && output.stderr.contains("the object has been modified"), "{output:?}");
    ensure!(cluster.kubectl(&["-n", "e2e-bad", "create", "configmap", "c"])?.stderr.contains("already exists"));

    let left = namespace.kubectl(&["get", "configmaps,pods,deployments", "-o", "name"])?;
    ensure!(left.split_whitespace().eq(["configmap/c", "configmap/kube-root-ca.crt"]), "{left}");

    // Nobody, somebody without rights, and too much.
    let server = format!("https://{}:6443", cluster.node("cp")?.ip);
    let status = |arguments: &[&str]| -> Result<String> {
        let mut all = vec!["curl", "-sSk", "--max-time", "20", "-o", "/dev/null", "-w", "%{http_code}"];
        all.extend_from_slice(arguments);
        cluster.run_on("cp", &all)
    };
    ensure!(status(&[&format!("{server}/api/v1/secrets")])? == "403");
    ensure!(status(&["-H", "Authorization: Bearer nonsense", &format!("{server}/api/v1/secrets")])? == "401");
    let can = cluster.kubectl(&["auth", "can-i", "list", "secrets", "--as=system:serviceaccount:e2e-bad:default"])?;
    ensure!(can.stdout.trim() == "no", "{can:?}");
    let denied = cluster.kubectl(&["get", "secrets", "--as=jane"])?;
    ensure!(
        denied
            .stderr
            .contains("User \"jane\" cannot list resource \"secrets\" in API group \"\" in the namespace \"default\""),
        "{denied:?}"
    );
    let body = cluster.layout.root().join("big.json");
    std::fs::File::create(&body)?.write_all(&vec![b' '; (3 << 20) + 1024])?;
    let (cert, key) =
        (cluster.layout.pki("admin.crt").display().to_string(), cluster.layout.pki("admin.key").display().to_string());
    let upload = format!("@{}", body.display());
    let url = format!("{server}/api/v1/namespaces/e2e-bad/configmaps");
    ensure!(
        status(&[
            "--cert",
            &cert,
            "--key",
            &key,
            "-H",
            "Content-Type: application/json",
            "--data-binary",
            &upload,
            &url
        ])? == "413"
    );
    Ok(())
}

#[test]
fn pods_get_volumes_environment_probes_and_hooks() -> Result<()> {
    let cluster = cluster()?;
    let namespace = Namespace::create(&cluster, "e2e-pod")?;
    namespace.kubectl(&["create", "configmap", "settings", "--from-literal=color=blue"])?;
    namespace.kubectl(&["create", "secret", "generic", "password", "--from-literal=word=sesame"])?;
    namespace.apply(include_str!("pod.yaml"))?;
    namespace.kubectl(&["wait", "pod/everything", "--for=condition=Ready", "--timeout=180s"])?;
    let report = namespace.exec("everything", &["sh", "-c", "cat /work/report; cat /etc/settings/color; cat /all/secret/word; cat /all/labels; env; cat /proc/1/cgroup; hostname"])?;
    for word in [
        "from init",
        "from hook",
        "blue",
        "sesame",
        "app=\"everything\"",
        "COLOR=blue",
        "P_word=sesame",
        "POD_NAME=everything",
        "EXPANDED=blue-everything",
        "MEMORY=33554432",
        "KUBERNETES_SERVICE_HOST=10.96.0.1",
    ] {
        ensure!(report.contains(word), "no {word:?} in {report}");
    }
    let status = namespace.kubectl(&[
        "get",
        "pod",
        "everything",
        "-o",
        "jsonpath={.status.qosClass} {.status.initContainerStatuses[0].state.terminated.reason}",
    ])?;
    ensure!(status == "Burstable Completed", "{status}");

    // A container that fails is restarted with back-off, and says so.
    namespace.kubectl(&[
        "run",
        "crash",
        "--image=docker.io/library/busybox:1.36",
        "--image-pull-policy=IfNotPresent",
        "--",
        "sh",
        "-c",
        "echo bye; exit 3",
    ])?;
    eventually("the crash loop", || {
        let state = namespace.field("pod/crash", "{.status.containerStatuses[0].restartCount} {.status.containerStatuses[0].state.waiting.reason} {.status.containerStatuses[0].lastState.terminated.exitCode}")?;
        ensure!(state.contains("CrashLoopBackOff 3"), "{state}");
        Ok(())
    })?;
    ensure!(namespace.kubectl(&["logs", "crash", "--previous"])?.contains("bye"));

    // Termination is graceful: the process sees SIGTERM and has its time.
    namespace.kubectl(&[
        "run",
        "gentle",
        "--image=docker.io/library/busybox:1.36",
        "--image-pull-policy=IfNotPresent",
        "--restart=Never",
        "--",
        "sh",
        "-c",
        "trap 'echo got term; sleep 1; echo done; exit 0' TERM; echo up; while true; do sleep 0.1; done",
    ])?;
    namespace.kubectl(&["wait", "pod/gentle", "--for=condition=Ready", "--timeout=120s"])?;
    let mut follow = cluster.kubectl_background(&["-n", &namespace.name, "logs", "-f", "gentle"])?;
    std::thread::sleep(Duration::from_millis(500));
    namespace.kubectl(&["delete", "pod", "gentle", "--timeout=60s"])?;
    let mut text = String::new();
    if let Some(mut output) = follow.0.stdout.take() {
        output.read_to_string(&mut text)?;
    }
    ensure!(text.contains("got term") && text.contains("done"), "{text}");
    Ok(())
}

#[test]
fn deleting_a_namespace_removes_everything_in_it() -> Result<()> {
    let cluster = cluster()?;
    let namespace = guestbook(&cluster, "e2e-gone")?;
    cluster.kubectl_ok(&["delete", "namespace", &namespace.name, "--timeout=180s"])?;
    let left = cluster.kubectl(&["get", "all,configmaps", "-n", "e2e-gone"])?;
    ensure!(left.stderr.contains("No resources found"), "{left:?}");
    Ok(())
}

#[test]
fn static_pods_run_and_show_as_mirror_pods() -> Result<()> {
    let cluster = cluster()?;
    let manifest = "apiVersion: v1
kind: Pod
metadata: {name: still, namespace: default, labels: {app: still}}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - {name: main, image: docker.io/library/busybox:1.36, imagePullPolicy: IfNotPresent, command: [sleep, infinity]}
";
    let file = "/etc/kubernetes/manifests/still.yaml";
    cluster.run_on("n1", &["sh", "-c", &format!("cat >{file} <<'EOF'\n{manifest}EOF")])?;
    cluster.kubectl_ok(&["wait", "pod/still-n1", "--for=create", "--timeout=120s"])?;
    cluster.kubectl_ok(&["wait", "pod/still-n1", "--for=condition=Ready", "--timeout=120s"])?;
    let source = cluster.kubectl_ok(&[
        "get",
        "pod",
        "still-n1",
        "-o",
        "jsonpath={.metadata.annotations.kubernetes\\.io/config\\.source}",
    ])?;
    ensure!(source == "file", "{source}");
    // A mirror that is deleted comes back: the file is the truth.
    let uid = || cluster.kubectl_ok(&["get", "pod", "still-n1", "-o", "jsonpath={.metadata.uid}"]);
    let first = uid()?;
    cluster.kubectl_ok(&["delete", "pod", "still-n1", "--timeout=60s"])?;
    eventually("the mirror to come back", || {
        ensure!(uid()? != first, "still the old one");
        Ok(())
    })?;
    cluster.run_on("n1", &["rm", file])?;
    cluster.kubectl_ok(&["wait", "pod/still-n1", "--for=delete", "--timeout=120s"]).map(drop)
}

#[test]
fn nodes_answer_through_the_proxy_and_accounts_get_tokens() -> Result<()> {
    let cluster = cluster()?;
    let namespace = Namespace::create(&cluster, "e2e-node")?;
    let raw = |path: &str| cluster.kubectl_ok(&["get", "--raw", path]);
    ensure!(raw("/api/v1/nodes/n1/proxy/healthz")?.contains("ok"));
    ensure!(raw("/api/v1/nodes/n1/proxy/pods")?.contains("\"kind\":\"PodList\""));
    let summary = raw("/api/v1/nodes/n1/proxy/stats/summary")?;
    ensure!(summary.contains("nodeName") && summary.contains("workingSetBytes"), "{summary}");
    ensure!(raw("/api/v1/nodes/n1/proxy/metrics")?.contains("process_resident_memory_bytes"));
    ensure!(raw("/metrics")?.contains("process_resident_memory_bytes"));

    namespace.kubectl(&["create", "serviceaccount", "robot"])?;
    let token = namespace.kubectl(&["create", "token", "robot"])?;
    let server = format!("https://{}:6443", cluster.node("cp")?.ip);
    let ask = |path: &str| {
        let header = format!("Authorization: Bearer {}", token.trim());
        cluster.run_on("cp", &["curl", "-sSk", "--max-time", "20", "-H", &header, &format!("{server}{path}")])
    };
    ensure!(ask("/api/v1/namespaces/e2e-node/configmaps")?.contains("system:serviceaccount:e2e-node:robot"));
    namespace.kubectl(&["create", "rolebinding", "robot", "--clusterrole=view", "--serviceaccount=e2e-node:robot"])?;
    eventually("the binding to count", || {
        let list = ask("/api/v1/namespaces/e2e-node/configmaps")?;
        ensure!(list.contains("ConfigMapList"), "{list}");
        Ok(())
    })
}

#[test]
fn daemons_name_what_is_wrong_with_their_command_line() -> Result<()> {
    let cluster = cluster()?;
    let daemons = cluster.state.daemons.iter().filter(|(name, _)| !name.starts_with("containerd") && *name != "etcd");
    for (name, daemon) in daemons {
        let call = |argument: &str| std::process::Command::new(&daemon.argv[0]).arg(argument).output();
        let output = call("--no-such-flag=1")?;
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(!output.status.success() && text.contains("unknown flag: --no-such-flag"), "{name}: {text}");
        let output = call("--version")?;
        ensure!(String::from_utf8_lossy(&output.stdout).starts_with("Kubernetes v1.36."), "{name}: {output:?}");
        // Its own command line with one unreadable file, in a network where all ports are free.
        let file = match daemon.argv[0].rsplit('/').next() {
            Some("kube-apiserver") => "--client-ca-file",
            Some("kubelet" | "kube-proxy") => "--config",
            _ => "--kubeconfig",
        };
        let prefix = format!("{file}=");
        let mut words: Vec<String> = daemon.argv.iter().filter(|word| !word.starts_with(&prefix)).cloned().collect();
        words.push(format!("{prefix}/no/such/file"));
        if file == "--client-ca-file" {
            // The running server holds its store.
            words.retain(|word| !word.starts_with("--data-dir="));
            words.push(format!("--data-dir={}", cluster.layout.root().join("spare").display()));
        }
        let output = std::process::Command::new("unshare").args(["--net", "timeout", "20"]).args(&words).output()?;
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(
            !output.status.success() && output.status.code() != Some(124) && text.contains("/no/such/file"),
            "{name}: {text}"
        );
    }
    Ok(())
}
