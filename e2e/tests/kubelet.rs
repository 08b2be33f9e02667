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
