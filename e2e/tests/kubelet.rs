//! What the kubelet does with real containers.

use anyhow::{Result, ensure};
use e2e::{
    image::Image,
    testing::{Namespace, cluster, eventually, program},
};

const GRPC_IMAGE: &str = "corten.dev/grpc-health:v1";

fn grpc_pod(name: &str, probe: &str) -> String {
    format!(
        "apiVersion: v1
kind: Pod
metadata: {{name: {name}}}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: main
    image: {GRPC_IMAGE}
    imagePullPolicy: IfNotPresent
    command: [/bin/busybox, sh, -c]
    args: ['/bin/busybox mkdir /status; echo SERVING >/status/-; echo NOT_SERVING >/status/store; exec /grpc-health 5000 /status']
    {probe}
"
    )
}

#[test]
fn grpc_probes_ask_the_named_service() -> Result<()> {
    let cluster = cluster()?;
    cluster.import_image(&Image {
        reference: GRPC_IMAGE.into(),
        files: vec![("/bin/busybox".into(), "bin/busybox".into()), (program("grpc-health"), "grpc-health".into())],
        entrypoint: vec!["/grpc-health".into()],
        ..Image::default()
    })?;
    let namespace = Namespace::create(&cluster, "e2e-grpc")?;
    let ready = |pod: &str, want: &str| {
        eventually(&format!("{pod} to be Ready={want}"), || {
            let path = "{.status.conditions[?(@.type=='Ready')].status} {.status.containerStatuses[0].restartCount}";
            let seen = namespace.field(&format!("pod/{pod}"), path)?;
            ensure!(seen == format!("{want} 0"), "{seen}");
            Ok(())
        })
    };
    let set = |pod: &str, service: &str, status: &str| {
        let command = format!("echo {status} >/status/{service}");
        namespace.exec(pod, &["/bin/busybox", "sh", "-c", &command]).map(drop)
    };
    // The server as a whole, and one service of it.
    namespace
        .apply(&grpc_pod("whole", "readinessProbe: {grpc: {port: 5000}, periodSeconds: 1, failureThreshold: 1}"))?;
    let probe = "readinessProbe: {grpc: {port: 5000, service: store}, periodSeconds: 1, failureThreshold: 1}";
    namespace.apply(&grpc_pod("service", probe))?;
    ready("whole", "True")?;
    ready("service", "False")?;
    eventually("an event that says why", || {
        let events = namespace.kubectl(&["get", "events", "-o", "jsonpath={.items[*].message}"])?;
        let reason = "Readiness probe failed: service unhealthy (responded with \"NOT_SERVING\")";
        ensure!(events.contains(reason), "{events}");
        Ok(())
    })?;
    set("service", "store", "SERVING")?;
    ready("service", "True")?;
    set("whole", "-", "NOT_SERVING")?;
    ready("whole", "False")?;

    // Liveness: a service that the server does not know is not healthy, and the container is restarted for it.
    let probe = "livenessProbe: {grpc: {port: 5000, service: absent}, periodSeconds: 1, failureThreshold: 2}";
    namespace.apply(&grpc_pod("stranger", probe))?;
    eventually("a restart", || {
        let count = namespace.field("pod/stranger", "{.status.containerStatuses[0].restartCount}")?;
        ensure!(count.parse::<u32>().is_ok_and(|count| count > 0), "{count}");
        Ok(())
    })
}

#[test]
fn a_running_container_is_resized_in_its_cgroup() -> Result<()> {
    let cluster = cluster()?;
    let namespace = Namespace::create(&cluster, "e2e-resize")?;
    namespace.apply(
        "apiVersion: v1
kind: Pod
metadata: {name: web}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: main
    image: docker.io/library/busybox:1.36
    imagePullPolicy: IfNotPresent
    command: [sleep, infinity]
    resources: {requests: {cpu: 100m, memory: 32Mi}, limits: {cpu: 200m, memory: 64Mi}}
",
    )?;
    namespace.kubectl(&["wait", "pod/web", "--for=condition=Ready", "--timeout=120s"])?;
    // Inside the container its own cgroup is the root, on v1 by controller.
    let limits = || {
        let files = "cat /sys/fs/cgroup/cpu/cpu.shares /sys/fs/cgroup/cpu/cpu.cfs_quota_us /sys/fs/cgroup/memory/memory.limit_in_bytes \
            2>/dev/null || cat /sys/fs/cgroup/cpu.max /sys/fs/cgroup/memory.max";
        namespace.exec("web", &["sh", "-c", files])
    };
    let before = limits()?;
    ensure!(before.contains("20000") && before.contains("67108864"), "{before}");
    for (cpu, memory, quota, bytes) in [("400m", "128Mi", "40000", "134217728"), ("300m", "96Mi", "30000", "100663296")]
    {
        let patch = format!(
            r#"{{"spec": {{"containers": [{{"name": "main", "resources": {{"limits": {{"cpu": "{cpu}", "memory": "{memory}"}}}}}}]}}}}"#
        );
        namespace.kubectl(&["patch", "pod", "web", "--subresource=resize", "-p", &patch])?;
        eventually("the new limits in the container's cgroup", || {
            let now = limits()?;
            ensure!(now.contains(quota) && now.contains(bytes), "{now}");
            Ok(())
        })?;
        eventually("the status to say so", || {
            let status = namespace.field("pod/web", "{.status.containerStatuses[0].resources.limits.cpu} {.status.containerStatuses[0].restartCount} {.status.conditions[?(@.type=='PodResizeInProgress')].status}")?;
            ensure!(status.trim() == format!("{cpu} 0"), "{status}");
            Ok(())
        })?;
    }
    Ok(())
}
