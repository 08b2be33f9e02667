//! Server-side apply: creates, merges, removes, conflicts, takes over from client-side apply; and what it refuses.

use serde_json::{Value, json};

use super::{
    ownership::{DEPLOYMENTS, MAPS, apply, applying, deployment, owners},
    support::{Cluster, call, refused, request},
};

fn map(name: &str, data: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data})
}

#[tokio::test(flavor = "multi_thread")]
async fn applying_creates_merges_and_removes() {
    let mut cluster = Cluster::start().await;
    let admin = cluster.admin().await;
    let path = format!("{MAPS}/m");
    let made = admin
        .send(applying(&path, "fieldManager=a", &map("m", json!({"x": "1", "y": "2"}))).map(Into::into))
        .await
        .unwrap();
    assert_eq!(made.status(), 201);
    let co = apply(&admin, &path, "b", map("m", json!({"x": "1", "z": "3"}))).await;
    assert_eq!(co["data"], json!({"x": "1", "y": "2", "z": "3"}));
    assert_eq!(
        owners(&co),
        [
            ("a Apply".to_owned(), json!({"f:data": {"f:x": {}, "f:y": {}}})),
            ("b Apply".to_owned(), json!({"f:data": {"f:x": {}, "f:z": {}}})),
        ]
    );
    // What the applier leaves out goes, unless another owns it.
    let less = apply(&admin, &path, "a", map("m", json!({}))).await;
    assert_eq!(less["data"], json!({"x": "1", "z": "3"}));
    assert_eq!(owners(&less).len(), 2, "an empty map is owned: {less}");
    let less = apply(&admin, &path, "b", json!({"apiVersion": "v1", "kind": "ConfigMap"}).with_name("m")).await;
    assert_eq!((owners(&less).len(), less.get("data")), (1, None));

    // The same again writes nothing, not even a time.
    let path = format!("{DEPLOYMENTS}/d");
    let first = apply(&admin, &path, "a", deployment("d")).await;
    tokio::time::sleep(std::time::Duration::from_millis(1100)).await;
    let again = apply(&admin, &path, "a", deployment("d")).await;
    assert_eq!(again, first);
    let mut nulls = deployment("d");
    nulls["metadata"]["creationTimestamp"] = Value::Null;
    nulls["status"] = json!({});
    nulls["spec"]["strategy"] = json!({});
    let again = apply(&admin, &path, "a", nulls.clone()).await;
    assert_eq!(again["spec"], first["spec"]);
    let version = again["metadata"]["resourceVersion"].clone();
    assert_eq!(apply(&admin, &path, "a", nulls).await["metadata"]["resourceVersion"], version);
    cluster.stop().await;
}

trait WithName {
    fn with_name(self, name: &str) -> Self;
}

impl WithName for Value {
    fn with_name(mut self, name: &str) -> Self {
        self["metadata"]["name"] = name.into();
        self
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_merge_by_key_and_ports_have_a_default_protocol() {
    let mut cluster = Cluster::start().await;
    let admin = cluster.admin().await;
    let path = format!("{DEPLOYMENTS}/d");
    apply(&admin, &path, "a", deployment("d")).await;
    let container = |name: &str, rest: Value| {
        let mut container = json!({"name": name});
        container.as_object_mut().unwrap().extend(rest.as_object().unwrap().clone());
        json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"}, "spec": {"template": {"spec": {"containers": [container]}}}})
    };
    let both = apply(&admin, &path, "sidecars", container("s", json!({"image": "s:1"}))).await;
    let names: Vec<_> =
        both["spec"]["template"]["spec"]["containers"].as_array().unwrap().iter().map(|c| c["name"].clone()).collect();
    assert_eq!(names, ["c", "s"]);
    let conflict = refused(
        &admin,
        applying(
            &path,
            "fieldManager=b",
            &container("c", json!({"image": "i:2", "ports": [{"containerPort": 80, "protocol": "TCP", "name": "n"}]})),
        ),
    )
    .await;
    assert_eq!(
        (conflict.0, conflict.1.as_str(), conflict.2.as_str()),
        (
            409,
            "Conflict",
            "Apply failed with 1 conflict: conflict with \"a\": .spec.template.spec.containers[name=\"c\"].image"
        )
    );
    // A port without protocol is the TCP one; another protocol is another port.
    let port = |port: Value| container("c", json!({"ports": [port]}));
    let named = apply(&admin, &path, "b", port(json!({"containerPort": 80, "name": "http"}))).await;
    assert_eq!(
        named["spec"]["template"]["spec"]["containers"][0]["ports"],
        json!([{"containerPort": 80, "name": "http", "protocol": "TCP"}])
    );
    let clash = refused(
        &admin,
        applying(&path, "fieldManager=e", &port(json!({"containerPort": 80, "protocol": "TCP", "name": "other"}))),
    )
    .await;
    assert_eq!(
        clash.2,
        "Apply failed with 1 conflict: conflict with \"b\": .spec.template.spec.containers[name=\"c\"].ports[containerPort=80,protocol=\"TCP\"].name"
    );
    let udp = apply(&admin, &path, "b", port(json!({"containerPort": 80, "protocol": "UDP", "name": "dns"}))).await;
    assert_eq!(
        udp["spec"]["template"]["spec"]["containers"][0]["ports"],
        json!([{"containerPort": 80, "protocol": "TCP"}, {"containerPort": 80, "name": "dns", "protocol": "UDP"}])
    );
    // Without its sidecar the applier's container is gone.
    let gone =
        apply(&admin, &path, "sidecars", json!({"apiVersion": "apps/v1", "kind": "Deployment"}).with_name("d")).await;
    assert_eq!(gone["spec"]["template"]["spec"]["containers"].as_array().unwrap().len(), 1);
    assert!(!owners(&gone).iter().any(|(name, _)| name.starts_with("sidecars")));
    let twice = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"},
        "spec": {"template": {"spec": {"containers": [{"name": "c"}, {"name": "c"}]}}}});
    let error = refused(&admin, applying(&path, "fieldManager=b", &twice)).await;
    assert_eq!(
        (error.0, error.2.as_str()),
        (
            500,
            "failed to create typed patch object (/d; apps/v1, Kind=Deployment): .spec.template.spec.containers: duplicate entries for key [name=\"c\"]"
        )
    );
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn conflicts_name_every_owner_and_can_be_forced() {
    let mut cluster = Cluster::start().await;
    let admin = cluster.admin().await;
    let path = format!("{DEPLOYMENTS}/d");
    apply(&admin, &path, "a", deployment("d")).await;
    let change =
        json!({"spec": {"replicas": 3, "template": {"spec": {"containers": [{"name": "c", "image": "i:3"}]}}}});
    let mut merge = request("PATCH", &format!("{path}?fieldManager=u"), &change);
    merge.headers_mut().insert("content-type", "application/strategic-merge-patch+json".parse().unwrap());
    let _: Value = admin.request(merge).await.unwrap();
    call(&admin, "PATCH", &format!("{path}?fieldManager=l"), json!({"metadata": {"labels": {"app": "y"}}})).await;
    let error = admin.request::<Value>(applying(&path, "fieldManager=a", &deployment("d"))).await.unwrap_err();
    let kube::Error::Api(status) = error else { panic!("{error:?}") };
    assert_eq!(
        status.message,
        "Apply failed with 3 conflicts: conflicts with \"l\" using apps/v1:\n- .metadata.labels.app\nconflicts with \"u\" using apps/v1:\n- .spec.replicas\n- .spec.template.spec.containers[name=\"c\"].image"
    );
    let causes = status.details.unwrap().causes;
    let cause = |at: usize| (causes[at].reason.clone(), causes[at].message.clone(), causes[at].field.clone());
    assert_eq!(
        cause(1),
        (
            "FieldManagerConflict".to_owned(),
            "conflict with \"u\" using apps/v1".to_owned(),
            ".spec.replicas".to_owned()
        )
    );
    let forced: Value = admin.request(applying(&path, "fieldManager=a&force=true", &deployment("d"))).await.unwrap();
    assert_eq!((forced["spec"]["replicas"].as_i64(), owners(&forced).len()), (Some(2), 1));
    // Handing over: who gives up a field that a controller set keeps its value.
    call(&admin, "PATCH", &format!("{path}?fieldManager=hpa"), json!({"spec": {"replicas": 9}})).await;
    let mut without = deployment("d");
    without["spec"].as_object_mut().unwrap().remove("replicas");
    assert_eq!(apply(&admin, &path, "a", without).await["spec"]["replicas"], 9);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn kubectl_takes_over_from_client_side_apply() {
    let mut cluster = Cluster::start().await;
    let admin = cluster.admin().await;
    let path = format!("{MAPS}/m");
    let last = map("m", json!({"same": "1", "changed": "old"})).to_string();
    let mut live = map("m", json!({"same": "1", "changed": "new", "other": "x"}));
    live["metadata"]["annotations"]["kubectl.kubernetes.io/last-applied-configuration"] = last.into();
    call(&admin, "POST", &format!("{MAPS}?fieldManager=kubectl-client-side-apply"), live).await;
    let conflict =
        refused(&admin, applying(&path, "fieldManager=kubectl", &map("m", json!({"same": "2", "changed": "3"})))).await;
    assert_eq!(
        conflict.2,
        "Apply failed with 1 conflict: conflict with \"kubectl-client-side-apply\" using v1: .data.changed"
    );
    let someone = refused(&admin, applying(&path, "fieldManager=someone", &map("m", json!({"same": "2"})))).await;
    assert_eq!(someone.0, 409);
    let taken = apply(&admin, &path, "kubectl", map("m", json!({"same": "2"}))).await;
    assert_eq!(taken["data"], json!({"same": "2", "changed": "new", "other": "x"}));
    assert_eq!(
        taken["metadata"]["annotations"]["kubectl.kubernetes.io/last-applied-configuration"].as_str().unwrap().trim(),
        map("m", json!({"same": "2"})).to_string()
    );
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_apply_refuses() {
    let mut cluster = Cluster::start().await;
    let admin = cluster.admin().await;
    let path = format!("{MAPS}/m");
    let with = |name: &str, value: Value| {
        let mut config = map("m", json!({"k": "v"}));
        *config.pointer_mut("/metadata").unwrap() = json!({"name": "m"});
        config["metadata"][name] = value;
        config
    };
    let fine = map("m", json!({}));
    let mut kind = fine.clone();
    kind["kind"] = "Secret".into();
    let mut version = fine.clone();
    version["apiVersion"] = "v2".into();
    let mut field = fine.clone();
    field["dat"] = json!({});
    let mut number = fine.clone();
    number["data"]["a"] = 1.into();
    let nameless = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {}});
    let by = "fieldManager=a";
    let long = format!("fieldManager={}", "x".repeat(129));
    for (query, config, code, reason, message) in [
        (
            "",
            &fine,
            422,
            "Invalid",
            "PatchOptions.meta.k8s.io \"\" is invalid: fieldManager: Required value: is required for apply patch",
        ),
        (
            long.as_str(),
            &fine,
            422,
            "Invalid",
            "PatchOptions.meta.k8s.io \"\" is invalid: fieldManager: Too long: may not be more than 128 bytes",
        ),
        (
            "fieldManager=a%0Ab",
            &fine,
            422,
            "Invalid",
            "PatchOptions.meta.k8s.io \"\" is invalid: fieldManager: Invalid value: \"a\\nb\": invalid character U+000A (at position 1)",
        ),
        (
            "fieldManager=a&dryRun=Some",
            &fine,
            422,
            "Invalid",
            "PatchOptions.meta.k8s.io \"\" is invalid: dryRun: Unsupported value: [\"Some\"]: supported values: \"All\"",
        ),
        (
            "fieldManager=a&fieldValidation=No",
            &fine,
            422,
            "Invalid",
            "PatchOptions.meta.k8s.io \"\" is invalid: fieldValidation: Unsupported value: \"No\": supported values: \"\", \"Ignore\", \"Strict\", \"Warn\"",
        ),
        (by, &kind, 400, "BadRequest", "invalid object type: /v1, Kind=Secret"),
        (by, &version, 400, "BadRequest", "invalid object type: /v2, Kind=ConfigMap"),
        (by, &with("managedFields", json!([])), 400, "BadRequest", "metadata.managedFields must be nil"),
        (
            by,
            &with("uid", json!("u")),
            409,
            "Conflict",
            "Operation cannot be fulfilled on configmaps \"m\": uid mismatch: the provided object specified uid u, and no existing object was found",
        ),
        (
            by,
            &with("name", json!("other")),
            400,
            "BadRequest",
            "the name of the object (other) does not match the name on the URL (m)",
        ),
        (
            by,
            &with("namespace", json!("other")),
            400,
            "BadRequest",
            "the namespace of the provided object does not match the namespace sent on the request",
        ),
        (
            by,
            &nameless,
            400,
            "BadRequest",
            "the name of the object (m based on URL) was undeterminable: name must be provided",
        ),
        (
            by,
            &field,
            500,
            "",
            "failed to create typed patch object (/m; /v1, Kind=ConfigMap): .dat: field not declared in schema",
        ),
        (
            by,
            &number,
            500,
            "",
            "failed to create typed patch object (/m; /v1, Kind=ConfigMap): .data.a: expected string, got &value.valueUnstructured{Value:1}",
        ),
        (
            by,
            &json!([]),
            400,
            "BadRequest",
            "error decoding YAML: error unmarshaling JSON: while decoding JSON: json: cannot unmarshal array into Go value of type map[string]interface {}",
        ),
    ] {
        let found = refused(&admin, applying(&path, query, config)).await;
        assert_eq!((found.0, found.1.as_str(), found.2.as_str()), (code, reason, message));
    }
    let force = refused(&admin, request("PATCH", &format!("{path}?force=true"), &json!({}))).await;
    assert_eq!(
        (force.0, force.2.as_str()),
        (422, "PatchOptions.meta.k8s.io \"\" is invalid: force: Forbidden: may not be specified for non-apply patch")
    );
    let status = refused(
        &admin,
        applying(
            "/api/v1/nodes/none/status",
            by,
            &json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "none"}}),
        ),
    )
    .await;
    assert_eq!((status.0, status.2.as_str()), (404, "nodes \"none\" not found"));
    let mut cbor = applying(&path, by, &fine);
    cbor.headers_mut().insert("content-type", "application/apply-patch+cbor".parse().unwrap());
    assert_eq!(refused(&admin, cbor).await.0, 415);
    assert_eq!(refused(&admin, request("GET", &path, &Value::Null)).await.0, 404, "nothing was stored");

    let made = apply(&admin, &path, "a", fine.clone()).await;
    let stale = refused(&admin, applying(&path, by, &with("resourceVersion", json!("1")))).await;
    assert_eq!((stale.0, stale.1.as_str()), (409, "Conflict"));
    let current = with("resourceVersion", made["metadata"]["resourceVersion"].clone());
    let fresh = apply(&admin, &path, "a", current).await;
    let dry: Value =
        admin.request(applying(&path, "fieldManager=z&dryRun=All", &map("m", json!({"dry": "run"})))).await.unwrap();
    assert_eq!(dry["data"]["dry"], "run");
    let _: Value =
        admin.request(applying(&format!("{MAPS}/n"), "fieldManager=z&dryRun=All", &map("n", json!({})))).await.unwrap();
    assert_eq!(call(&admin, "GET", &path, Value::Null).await, fresh);
    assert_eq!(refused(&admin, request("GET", &format!("{MAPS}/n"), &Value::Null)).await.0, 404);
    // Who may patch but not create cannot create by applying.
    let role = json!({"metadata": {"name": "patcher"}, "rules": [{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["patch"]}]});
    call(&admin, "POST", "/apis/rbac.authorization.k8s.io/v1/clusterroles", role).await;
    let binding = json!({"metadata": {"name": "patcher"}, "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "patcher"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "patcher"}]});
    call(&admin, "POST", "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", binding).await;
    let patcher = cluster.client("patcher", &[]).await;
    super::support::wait_for("the role is known", async || {
        patcher.request::<Value>(applying(&path, "fieldManager=p", &fine)).await.is_ok()
    })
    .await;
    let forbidden = refused(&patcher, applying(&format!("{MAPS}/n"), "fieldManager=p", &map("n", json!({})))).await;
    assert_eq!(
        (forbidden.0, forbidden.2.as_str()),
        (
            403,
            "configmaps \"n\" is forbidden: User \"patcher\" cannot create resource \"configmaps\" in API group \"\" in the namespace \"default\""
        )
    );
    cluster.stop().await;
}
