"""Drives an apiserver with the official Python client: typed objects, patches, applies, watches, lists in pages,
subresources, discovery and errors. Ends with a traceback and 1 at the first surprise.

    client.py KUBECONFIG
"""

import datetime
import json
import sys
import threading

import yaml
from kubernetes import client, config, dynamic, utils, watch
from kubernetes.client.rest import ApiException

NAMESPACE = "python"

MANIFEST = """
apiVersion: v1
kind: Service
metadata: {name: made, namespace: python}
spec: {selector: {app: made}, ports: [{port: 80, targetPort: http}]}
---
apiVersion: batch/v1
kind: CronJob
metadata: {name: made, namespace: python}
spec:
  schedule: "*/5 * * * *"
  jobTemplate: {spec: {template: {spec: {restartPolicy: Never, containers: [{name: c, image: "i:1"}]}}}}
"""


def refused(code, reason, call, *args, **kwargs):
    """The call must be refused with this code and reason; answers the message."""
    try:
        call(*args, **kwargs)
    except ApiException as error:
        status = json.loads(error.body)
        assert (error.status, status["reason"], status["code"]) == (code, reason, code), status
        return status["message"]
    raise AssertionError(f"not refused with {code}")


def deployment(name, image="i:1"):
    """A typed Deployment."""
    labels = {"app": name}
    container = client.V1Container(
        name="c",
        image=image,
        ports=[client.V1ContainerPort(container_port=80)],
        resources=client.V1ResourceRequirements(limits={"memory": "64Mi"}, requests={"cpu": "0.1"}),
    )
    template = client.V1PodTemplateSpec(
        metadata=client.V1ObjectMeta(labels=labels), spec=client.V1PodSpec(containers=[container])
    )
    selector = client.V1LabelSelector(match_labels=labels)
    spec = client.V1DeploymentSpec(replicas=2, selector=selector, template=template)
    return client.V1Deployment(metadata=client.V1ObjectMeta(name=name, labels=labels), spec=spec)


def typed_objects(api):
    apps = client.AppsV1Api(api)
    made = apps.create_namespaced_deployment(NAMESPACE, deployment("typed"), field_validation="Strict")
    assert made.spec.strategy.rolling_update.max_surge == "25%", made
    assert made.spec.template.spec.containers[0].resources.requests == {"cpu": "100m"}, made
    assert isinstance(made.metadata.creation_timestamp, datetime.datetime), made
    read = apps.read_namespaced_deployment("typed", NAMESPACE)
    assert read == made, (read, made)
    read.spec.replicas = 3
    replaced = apps.replace_namespaced_deployment("typed", NAMESPACE, read)
    assert replaced.spec.replicas == 3 and replaced.metadata.generation == 2, replaced
    message = refused(409, "Conflict", apps.replace_namespaced_deployment, "typed", NAMESPACE, made)
    assert message.startswith('Operation cannot be fulfilled on deployments.apps "typed": '), message
    dry = apps.create_namespaced_deployment(NAMESPACE, deployment("dry"), dry_run="All")
    assert dry.metadata.uid
    found = apps.list_namespaced_deployment(NAMESPACE, label_selector="app in (typed, dry)")
    assert [one.metadata.name for one in found.items] == ["typed"], found
    scale = apps.read_namespaced_deployment_scale("typed", NAMESPACE)
    assert (scale.spec.replicas, scale.status.selector) == (3, "app=typed"), scale
    scale = apps.patch_namespaced_deployment_scale("typed", NAMESPACE, {"spec": {"replicas": 4}})
    assert scale.spec.replicas == 4, scale
    status = apps.patch_namespaced_deployment_status("typed", NAMESPACE, {"status": {"replicas": 4}})
    assert status.status.replicas == 4 and status.spec.replicas == 4, status


def secrets_and_bytes(api):
    core = client.CoreV1Api(api)
    body = client.V1Secret(metadata=client.V1ObjectMeta(name="s"), string_data={"a": "b"}, data={"c": "ZA=="})
    made = core.create_namespaced_secret(NAMESPACE, body)
    assert made.data == {"a": "Yg==", "c": "ZA=="} and made.string_data is None, made
    assert made.type == "Opaque", made
    body.immutable = True
    body.string_data = None
    body.data = {"a": "Yg==", "c": "ZA=="}
    core.replace_namespaced_secret("s", NAMESPACE, body)
    body.data = {"a": "YQ=="}
    message = refused(422, "Invalid", core.replace_namespaced_secret, "s", NAMESPACE, body)
    assert "field is immutable when `immutable` is set" in message, message


def patches(api):
    """The client chooses a patch's type by its shape, or by what the caller asks for."""
    apps = client.AppsV1Api(api)
    apps.create_namespaced_deployment(NAMESPACE, deployment("patched"))

    def patch(body, content_type=None):
        kwargs = {"_content_type": content_type} if content_type else {}
        patched = apps.patch_namespaced_deployment("patched", NAMESPACE, body, **kwargs)
        return {one.name: one.image for one in patched.spec.template.spec.containers}

    def containers(*found):
        return {"spec": {"template": {"spec": {"containers": list(found)}}}}

    strategic = "application/strategic-merge-patch+json"
    assert patch(containers({"name": "s", "image": "i:s"}), strategic) == {"s": "i:s", "c": "i:1"}
    assert patch(containers({"name": "s", "$patch": "delete"}), strategic) == {"c": "i:1"}
    assert patch(containers({"name": "m", "image": "i:m"}), "application/merge-patch+json") == {"m": "i:m"}
    operations = [{"op": "replace", "path": "/spec/template/spec/containers/0/image", "value": "i:j"}]
    assert patch(operations) == {"m": "i:j"}


def applies(api):
    dynamic_client = dynamic.DynamicClient(api)
    maps = dynamic_client.resources.get(api_version="v1", kind="ConfigMap")
    body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "applied", "namespace": NAMESPACE}}

    def apply(data, manager, **kwargs):
        return maps.server_side_apply(body={**body, "data": data}, field_manager=manager, **kwargs)

    apply({"a": "1", "b": "1"}, "one")
    try:
        apply({"a": "2"}, "two")
    except dynamic.exceptions.ConflictError as error:
        status = json.loads(error.body)
        assert status["message"] == 'Apply failed with 1 conflict: conflict with "one": .data.a', status
        assert status["details"]["causes"][0]["reason"] == "FieldManagerConflict", status
    else:
        raise AssertionError("no conflict")
    assert apply({"a": "2"}, "two", force_conflicts=True).data.to_dict() == {"a": "2", "b": "1"}
    assert apply({}, "one").data.to_dict() == {"a": "2"}


def watches(api):
    core = client.CoreV1Api(api)
    since = core.list_namespaced_config_map(NAMESPACE).metadata.resource_version
    labels = {"watched": "yes"}

    def write():
        meta = client.V1ObjectMeta(name="watched", labels=labels)
        core.create_namespaced_config_map(NAMESPACE, client.V1ConfigMap(metadata=meta))
        core.patch_namespaced_config_map("watched", NAMESPACE, {"data": {"k": "v"}})
        core.delete_namespaced_config_map("watched", NAMESPACE)

    writer = threading.Thread(target=write)
    writer.start()
    seen = []
    events = watch.Watch()
    options = {"label_selector": "watched=yes", "resource_version": since, "timeout_seconds": 300}
    for event in events.stream(core.list_namespaced_config_map, NAMESPACE, **options):
        seen.append((event["type"], (event["object"].data or {}).get("k")))
        if len(seen) == 3:
            events.stop()
    writer.join()
    assert seen == [("ADDED", None), ("MODIFIED", "v"), ("DELETED", "v")], seen


def pages(api):
    core = client.CoreV1Api(api)
    for index in range(7):
        meta = client.V1ObjectMeta(generate_name="page-", labels={"set": "pages"})
        core.create_namespaced_config_map(NAMESPACE, client.V1ConfigMap(metadata=meta, data={"n": str(index)}))
    found, token, left = [], None, []
    while True:
        page = core.list_namespaced_config_map(NAMESPACE, label_selector="set=pages", limit=3, _continue=token)
        found += [one.data["n"] for one in page.items]
        left.append(page.metadata.remaining_item_count)
        token = page.metadata._continue
        if not token:
            break
    # With a selector upstream does not count what is left.
    assert sorted(found) == [str(index) for index in range(7)] and left == [None] * 3, (found, left)
    deleted = core.delete_collection_namespaced_config_map(NAMESPACE, label_selector="set=pages")
    assert deleted.status is None or deleted.status == "Success", deleted
    assert not core.list_namespaced_config_map(NAMESPACE, label_selector="set=pages").items


def manifests(api):
    made = utils.create_from_yaml(api, yaml_objects=list(yaml.safe_load_all(MANIFEST)))
    service, job = made[0][0], made[1][0]
    assert service.spec.cluster_ip.startswith("10.96.") and service.spec.ports[0].target_port == "http", service
    assert job.spec.concurrency_policy == "Allow" and job.spec.successful_jobs_history_limit == 3, job
    client.BatchV1Api(api).delete_namespaced_cron_job("made", NAMESPACE, propagation_policy="Background")
    client.CoreV1Api(api).delete_namespaced_service("made", NAMESPACE)


def evictions(api):
    core = client.CoreV1Api(api)
    core.create_namespaced_service_account(NAMESPACE, client.V1ServiceAccount(metadata=client.V1ObjectMeta(name="default")))
    template = deployment("evicted").spec.template
    core.create_namespaced_pod(NAMESPACE, client.V1Pod(metadata=client.V1ObjectMeta(name="evicted"), spec=template.spec))
    body = client.V1Eviction(metadata=client.V1ObjectMeta(name="evicted", namespace=NAMESPACE))
    core.create_namespaced_pod_eviction("evicted", NAMESPACE, body)
    refused(404, "NotFound", core.read_namespaced_pod, "evicted", NAMESPACE)


def discovery(api):
    assert client.VersionApi(api).get_code().minor == "36"
    groups = [group.name for group in client.ApisApi(api).get_api_versions().groups]
    assert {"apps", "batch", "rbac.authorization.k8s.io"} <= set(groups), groups
    found = dynamic.DynamicClient(api).resources.get(api_version="apps/v1", kind="Deployment")
    assert found.name == "deployments" and found.namespaced and "deploy" in found.short_names
    assert "scale" in found.subresources, found.subresources


def errors(api):
    core = client.CoreV1Api(api)
    message = refused(404, "NotFound", core.read_namespaced_config_map, "absent", NAMESPACE)
    assert message == 'configmaps "absent" not found', message
    one = client.V1ConfigMap(metadata=client.V1ObjectMeta(name="twice"))
    core.create_namespaced_config_map(NAMESPACE, one)
    refused(409, "AlreadyExists", core.create_namespaced_config_map, NAMESPACE, one)
    bad = client.V1ConfigMap(metadata=client.V1ObjectMeta(name="A_B"))
    refused(422, "Invalid", core.create_namespaced_config_map, NAMESPACE, bad)
    refused(400, "BadRequest", core.list_namespaced_config_map, NAMESPACE, label_selector="a in")
    refused(400, "BadRequest", core.list_namespaced_config_map, NAMESPACE, _continue="nonsense")
    review = client.V1SelfSubjectAccessReview(
        spec=client.V1SelfSubjectAccessReviewSpec(resource_attributes=client.V1ResourceAttributes(verb="get", resource="pods"))
    )
    assert client.AuthorizationV1Api(api).create_self_subject_access_review(review).status.allowed


def main():
    api = config.new_client_from_config(sys.argv[1])
    namespace = client.V1Namespace(metadata=client.V1ObjectMeta(name=NAMESPACE))
    assert client.CoreV1Api(api).create_namespace(namespace).status.phase == "Active"
    for step in (
        typed_objects,
        secrets_and_bytes,
        patches,
        applies,
        watches,
        pages,
        manifests,
        evictions,
        discovery,
        errors,
    ):
        step(api)
        print("ok", step.__name__)


main()
