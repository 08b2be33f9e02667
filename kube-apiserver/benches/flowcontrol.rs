//! What priority and fairness costs a request while seats are free: `cargo bench -p kube-apiserver --bench flowcontrol`.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use kube_apiserver::{
    authn::User,
    flowcontrol::{FlowControl, Stock, defaults},
    request::{Query, RequestInfo},
};

const REQUESTS: u32 = 200_000;

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let control = FlowControl::new(600);
    let levels = [defaults::mandatory_levels(), defaults::suggested_levels()].concat();
    let schemas = [defaults::mandatory_schemas(), defaults::suggested_schemas()].concat();
    control.configure(&levels, &schemas);
    let until = tokio::time::Instant::now() + Duration::from_secs(3600);
    for (what, method, url, user, groups) in [
        ("the first schema: an admin's get", "GET", "/api/v1/namespaces/a/pods/b", "admin", "system:masters"),
        ("a node's lease", "PUT", "/apis/coordination.k8s.io/v1/namespaces/a/leases/b", "n", "system:nodes"),
        ("the last schema: somebody's list", "GET", "/api/v1/namespaces/a/pods", "jane", "people"),
        ("the last schema: somebody's write", "PUT", "/api/v1/namespaces/a/pods/b", "jane", "people"),
    ] {
        let query = Query::default();
        let Ok(info) = RequestInfo::parse(method, url, &query) else { continue };
        let groups = vec![groups.to_owned(), "system:authenticated".to_owned()];
        let (info, user) = (Arc::new(info), Arc::new(User { name: user.to_owned(), groups, ..User::default() }));
        let stock = || Some(Stock { objects: 1000, size: 3000 });
        let started = Instant::now();
        for _ in 0..REQUESTS {
            let entry = control.enter(&info, &user, &query, stock, until).await;
            assert!(entry.is_some_and(|entry| entry.pass.is_ok()));
        }
        println!("{what}: {} ns", started.elapsed().as_nanos() / u128::from(REQUESTS));
    }
}
