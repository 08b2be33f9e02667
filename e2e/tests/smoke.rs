//! The shortest proof of a whole cluster, for set-ups that differ from the default one (etcd, swapped components).

use anyhow::{Result, ensure};
use e2e::testing::{Namespace, cluster, eventually};

#[test]
fn the_guestbook_answers_and_scales() -> Result<()> {
    let cluster = cluster()?;
    let namespace = Namespace::create(&cluster, "smoke")?;
    namespace.apply(include_str!("../../manifests/examples/guestbook.yaml"))?;
    namespace.kubectl(&["rollout", "status", "deployment/guestbook", "--timeout=180s"])?;
    namespace.kubectl(&["scale", "deployment/guestbook", "--replicas=6"])?;
    namespace.kubectl(&[
        "wait",
        "deployment/guestbook",
        "--for=jsonpath={.status.readyReplicas}=6",
        "--timeout=180s",
    ])?;
    let ip = namespace.field("service/guestbook", "{.spec.clusterIP}")?;
    for worker in cluster.workers() {
        eventually("all six pods to answer", || {
            let answers = cluster.answers(&worker.name, &format!("http://{ip}/cgi-bin/whoami"), 60)?;
            ensure!(answers.len() == 6, "{answers:?}");
            Ok(())
        })?;
    }
    cluster.kubectl_ok(&["delete", "namespace", "smoke", "--timeout=180s"]).map(drop)
}
