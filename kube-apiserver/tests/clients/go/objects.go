package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/pager"
	"k8s.io/client-go/util/retry"
)

func makeNamespace(ctx context.Context, config *rest.Config) error {
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	made, err := client.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}}, metav1.CreateOptions{})
	if err != nil {
		return err
	}
	return first(
		check("phase", made.Status.Phase, corev1.NamespaceActive),
		check("label", made.Labels["kubernetes.io/metadata.name"], namespace),
	)
}

func discover(_ context.Context, config *rest.Config) error {
	client, err := discovery.NewDiscoveryClientForConfig(config)
	if err != nil {
		return err
	}
	version, err := client.ServerVersion()
	if err != nil {
		return err
	}
	if err := first(check("major", version.Major, "1"), check("minor", version.Minor, "36")); err != nil {
		return err
	}
	groups, aggregated, err := client.ServerGroupsAndResources()
	if err != nil {
		return err
	}
	// The aggregated documents and the plain ones, which old clients read, must tell the same.
	plain, err := client.WithLegacy().ServerPreferredResources()
	if err != nil {
		return err
	}
	preferred, err := client.ServerPreferredResources()
	if err != nil {
		return err
	}
	names := func(lists []*metav1.APIResourceList) sets.Set[string] {
		found := sets.New[string]()
		for _, list := range lists {
			for _, one := range list.APIResources {
				verbs := sets.List(sets.New([]string(one.Verbs)...))
				found.Insert(fmt.Sprintf("%s %s %s %v %v %v", list.GroupVersion, one.Name, one.Kind, one.Namespaced, one.ShortNames, verbs))
			}
		}
		return found
	}
	if left, right := names(plain), names(preferred); !left.Equal(right) {
		return fmt.Errorf("plain and aggregated discovery differ: %v, %v", left.Difference(right), right.Difference(left))
	}
	if len(groups) < 20 || len(aggregated) < 20 {
		return fmt.Errorf("%d groups of %d versions", len(groups), len(aggregated))
	}
	documents, err := client.OpenAPIV3().Paths()
	if err != nil {
		return err
	}
	text, err := documents["apis/apps/v1"].Schema("application/json")
	if err != nil {
		return err
	}
	if !strings.Contains(string(text), "io.k8s.api.apps.v1.Deployment") {
		return errors.New("no Deployment in the OpenAPI document of apps/v1")
	}
	document, err := client.OpenAPISchema()
	if err != nil {
		return err
	}
	if count := len(document.GetDefinitions().GetAdditionalProperties()); count < 500 {
		return fmt.Errorf("%d definitions in the OpenAPI v2 document", count)
	}
	return nil
}

func deployment(name string) *appsv1.Deployment {
	labels := map[string]string{"app": name}
	replicas := int32(2)
	return &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels},
		Spec: appsv1.DeploymentSpec{
			Replicas: &replicas,
			Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: labels},
				Spec: corev1.PodSpec{Containers: []corev1.Container{{
					Name: "c", Image: "i:1",
					Ports: []corev1.ContainerPort{{ContainerPort: 80}},
					Resources: corev1.ResourceRequirements{
						Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("0.25")},
					},
				}}},
			},
		},
	}
}

func typed(ctx context.Context, config *rest.Config) error {
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	api := client.AppsV1().Deployments(namespace)
	made, err := api.Create(ctx, deployment("typed"), metav1.CreateOptions{FieldValidation: metav1.FieldValidationStrict})
	if err != nil {
		return err
	}
	container := made.Spec.Template.Spec.Containers[0]
	if err := first(
		check("generation", made.Generation, 1),
		check("surge", made.Spec.Strategy.RollingUpdate.MaxSurge.String(), "25%"),
		check("protocol", container.Ports[0].Protocol, corev1.ProtocolTCP),
		check("pull policy", container.ImagePullPolicy, corev1.PullIfNotPresent),
		check("cpu", container.Resources.Requests.Cpu().String(), "250m"),
	); err != nil {
		return err
	}
	err = retry.RetryOnConflict(retry.DefaultRetry, func() error {
		current, err := api.Get(ctx, "typed", metav1.GetOptions{})
		if err != nil {
			return err
		}
		current.Spec.Template.Spec.Containers[0].Image = "i:2"
		_, err = api.Update(ctx, current, metav1.UpdateOptions{FieldManager: "typed"})
		return err
	})
	if err != nil {
		return err
	}
	made.Spec.Paused = true
	if _, err := api.Update(ctx, made, metav1.UpdateOptions{}); !apierrors.IsConflict(err) {
		return fmt.Errorf("an update of an old version: %v", err)
	}
	list, err := api.List(ctx, metav1.ListOptions{LabelSelector: "app in (typed)", FieldSelector: "metadata.name=typed"})
	if err != nil {
		return err
	}
	if err := first(
		check("listed", len(list.Items), 1),
		check("image", list.Items[0].Spec.Template.Spec.Containers[0].Image, "i:2"),
		check("generation", list.Items[0].Generation, 2),
	); err != nil {
		return err
	}
	uid := types.UID("other")
	wrong := metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &uid}}
	if err := api.Delete(ctx, "typed", wrong); !apierrors.IsConflict(err) {
		return fmt.Errorf("a delete with a wrong uid: %v", err)
	}
	if err := api.Delete(ctx, "typed", *metav1.NewPreconditionDeleteOptions(string(made.UID))); err != nil {
		return err
	}
	if _, err := api.Get(ctx, "typed", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		return fmt.Errorf("a get after the delete: %v", err)
	}
	return nil
}

func subresources(ctx context.Context, config *rest.Config) error {
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	api := client.AppsV1().Deployments(namespace)
	if _, err := api.Create(ctx, deployment("sub"), metav1.CreateOptions{}); err != nil {
		return err
	}
	scale, err := api.GetScale(ctx, "sub", metav1.GetOptions{})
	if err != nil {
		return err
	}
	if err := first(check("replicas", scale.Spec.Replicas, 2), check("selector", scale.Status.Selector, "app=sub")); err != nil {
		return err
	}
	scale.Spec = autoscalingv1.ScaleSpec{Replicas: 5}
	if scale, err = api.UpdateScale(ctx, "sub", scale, metav1.UpdateOptions{}); err != nil {
		return err
	}
	current, err := api.Get(ctx, "sub", metav1.GetOptions{})
	if err != nil {
		return err
	}
	current.Status = appsv1.DeploymentStatus{Replicas: 5, ObservedGeneration: current.Generation}
	current.Spec.Paused = true
	current, err = api.UpdateStatus(ctx, current, metav1.UpdateOptions{})
	if err != nil {
		return err
	}
	if err := first(
		check("scaled", scale.Spec.Replicas, 5),
		check("spec through status", current.Spec.Paused, false),
		check("status", current.Status.Replicas, 5),
	); err != nil {
		return err
	}
	return evict(ctx, client)
}

func evict(ctx context.Context, client kubernetes.Interface) error {
	account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "default"}}
	if _, err := client.CoreV1().ServiceAccounts(namespace).Create(ctx, account, metav1.CreateOptions{}); err != nil {
		return err
	}
	template := deployment("evicted").Spec.Template
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "evicted", Labels: template.Labels}, Spec: template.Spec}
	if _, err := client.CoreV1().Pods(namespace).Create(ctx, pod, metav1.CreateOptions{}); err != nil {
		return err
	}
	one := intstr.FromInt32(1)
	budget := &policyv1.PodDisruptionBudget{ObjectMeta: metav1.ObjectMeta{Name: "b"}, Spec: policyv1.PodDisruptionBudgetSpec{
		MinAvailable: &one, Selector: &metav1.LabelSelector{MatchLabels: template.Labels},
	}}
	if _, err := client.PolicyV1().PodDisruptionBudgets(namespace).Create(ctx, budget, metav1.CreateOptions{}); err != nil {
		return err
	}
	binding := &corev1.Binding{ObjectMeta: metav1.ObjectMeta{Name: "evicted"}, Target: corev1.ObjectReference{Kind: "Node", Name: "n"}}
	if err := client.CoreV1().Pods(namespace).Bind(ctx, binding, metav1.CreateOptions{}); err != nil {
		return err
	}
	// A running pod needs the budget's leave; nobody keeps the budget's status here, so it stays without any.
	running := []byte(`{"status":{"phase":"Running","conditions":[{"type":"Ready","status":"True"}]}}`)
	if _, err := client.CoreV1().Pods(namespace).Patch(ctx, "evicted", types.StrategicMergePatchType, running, metav1.PatchOptions{}, "status"); err != nil {
		return err
	}
	eviction := &policyv1.Eviction{ObjectMeta: metav1.ObjectMeta{Name: "evicted", Namespace: namespace}}
	// Without the client's retries: it would wait ten times as long as the server says.
	err := client.PolicyV1().RESTClient().Post().AbsPath("/api/v1").Namespace(namespace).Resource("pods").Name("evicted").
		SubResource("eviction").MaxRetries(0).Body(eviction).Do(ctx).Error()
	if !apierrors.IsTooManyRequests(err) || !apierrors.HasStatusCause(err, policyv1.DisruptionBudgetCause) {
		return fmt.Errorf("an eviction without a budget: %v", err)
	}
	if err := client.PolicyV1().PodDisruptionBudgets(namespace).Delete(ctx, "b", metav1.DeleteOptions{}); err != nil {
		return err
	}
	if err := client.PolicyV1().Evictions(namespace).Evict(ctx, eviction); err != nil {
		return err
	}
	evicted, err := client.CoreV1().Pods(namespace).Get(ctx, "evicted", metav1.GetOptions{})
	if err != nil {
		return err
	}
	return check("being deleted", evicted.DeletionTimestamp != nil, true)
}

func pages(ctx context.Context, config *rest.Config) error {
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	api := client.CoreV1().ConfigMaps(namespace)
	for index := range 25 {
		one := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{GenerateName: "page-", Labels: map[string]string{"set": "pages"}},
			Data: map[string]string{"index": fmt.Sprint(index)}}
		if _, err := api.Create(ctx, one, metav1.CreateOptions{}); err != nil {
			return err
		}
	}
	asked, seen := 0, sets.New[string]()
	each := pager.New(func(ctx context.Context, options metav1.ListOptions) (object runtimeObject, err error) {
		asked++
		return api.List(ctx, options)
	})
	each.PageSize = 10
	err = each.EachListItem(ctx, metav1.ListOptions{LabelSelector: "set=pages"}, func(object runtimeObject) error {
		seen.Insert(object.(*corev1.ConfigMap).Data["index"])
		return nil
	})
	if err != nil {
		return err
	}
	if err := api.DeleteCollection(ctx, metav1.DeleteOptions{}, metav1.ListOptions{LabelSelector: "set=pages"}); err != nil {
		return err
	}
	left, err := api.List(ctx, metav1.ListOptions{LabelSelector: "set=pages"})
	if err != nil {
		return err
	}
	return first(check("pages", asked, 3), check("items", seen.Len(), 25), check("left", len(left.Items), 0))
}

func metadataOnly(ctx context.Context, config *rest.Config) error {
	client, err := metadata.NewForConfig(metadata.ConfigFor(config))
	if err != nil {
		return err
	}
	api := client.Resource(corev1.SchemeGroupVersion.WithResource("namespaces"))
	found, err := api.Get(ctx, namespace, metav1.GetOptions{})
	if err != nil {
		return err
	}
	list, err := api.List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	return first(check("name", found.Name, namespace), check("some", len(list.Items) >= 4, true))
}

func dynamicClient(ctx context.Context, config *rest.Config) error {
	client, err := dynamic.NewForConfig(config)
	if err != nil {
		return err
	}
	api := client.Resource(schema.GroupVersionResource{Group: "networking.k8s.io", Version: "v1", Resource: "ingresses"}).Namespace(namespace)
	ingress := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "networking.k8s.io/v1", "kind": "Ingress",
		"metadata": map[string]any{"name": "d"},
		"spec":     map[string]any{"defaultBackend": map[string]any{"service": map[string]any{"name": "s", "port": map[string]any{"number": int64(80)}}}},
	}}
	made, err := api.Create(ctx, ingress, metav1.CreateOptions{})
	if err != nil {
		return err
	}
	if err := unstructured.SetNestedField(made.Object, "x", "spec", "ingressClassName"); err != nil {
		return err
	}
	updated, err := api.Update(ctx, made, metav1.UpdateOptions{})
	if err != nil {
		return err
	}
	class, _, _ := unstructured.NestedString(updated.Object, "spec", "ingressClassName")
	ingress.Object["spec"].(map[string]any)["ingressClassName"] = "y"
	_, err = api.Apply(ctx, "d", ingress, metav1.ApplyOptions{FieldManager: "dynamic"})
	if !apierrors.IsConflict(err) {
		return fmt.Errorf("an apply of another's field: %v", err)
	}
	applied, err := api.Apply(ctx, "d", ingress, metav1.ApplyOptions{FieldManager: "dynamic", Force: true})
	if err != nil {
		return err
	}
	taken, _, _ := unstructured.NestedString(applied.Object, "spec", "ingressClassName")
	if err := first(check("updated", class, "x"), check("applied", taken, "y"), check("generation", applied.GetGeneration(), 3)); err != nil {
		return err
	}
	return api.Delete(ctx, "d", metav1.DeleteOptions{})
}

func errorsAreTyped(ctx context.Context, config *rest.Config) error {
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	api := client.CoreV1().ConfigMaps(namespace)
	one := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "typed-errors"}}
	if _, err := api.Create(ctx, one, metav1.CreateOptions{}); err != nil {
		return err
	}
	_, again := api.Create(ctx, one, metav1.CreateOptions{})
	_, invalid := api.Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "A_B"}}, metav1.CreateOptions{})
	_, absent := api.Get(ctx, "absent", metav1.GetOptions{})
	_, gone := api.List(ctx, metav1.ListOptions{ResourceVersion: "1", ResourceVersionMatch: metav1.ResourceVersionMatchExact, Limit: 1})
	_, bad := api.List(ctx, metav1.ListOptions{LabelSelector: "a in"})
	large := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "large"}, Data: map[string]string{"k": strings.Repeat("x", 4<<20)}}
	_, tooLarge := api.Create(ctx, large, metav1.CreateOptions{})
	limited := rest.CopyConfig(config)
	limited.Impersonate = rest.ImpersonationConfig{UserName: "nobody"}
	other, err := kubernetes.NewForConfig(limited)
	if err != nil {
		return err
	}
	_, forbidden := other.CoreV1().ConfigMaps(namespace).List(ctx, metav1.ListOptions{})
	nowhere := client.CoreV1().RESTClient().Get().AbsPath("/api/v1/nothing").Do(ctx).Error()
	raw := client.CoreV1().RESTClient().Post().AbsPath("/api/v1/namespaces/"+namespace+"/configmaps").SetHeader("Content-Type", "text/plain").Body([]byte("x")).Do(ctx).Error()
	for name, is := range map[string]bool{
		"already exists": apierrors.IsAlreadyExists(again), "invalid": apierrors.IsInvalid(invalid), "not found": apierrors.IsNotFound(absent),
		"bad request": apierrors.IsBadRequest(bad), "too large": apierrors.IsRequestEntityTooLargeError(tooLarge),
		"forbidden": apierrors.IsForbidden(forbidden), "unknown path": apierrors.IsNotFound(nowhere),
		"unsupported media type": apierrors.IsUnsupportedMediaType(raw),
		"old version":            apierrors.IsResourceExpired(gone) || gone == nil,
	} {
		if !is {
			return fmt.Errorf("%s: not recognized among %v", name, []error{again, invalid, absent, gone, bad, tooLarge, forbidden, nowhere, raw})
		}
	}
	return streamOfLogs(ctx, client)
}

// streamOfLogs asks for what no kubelet can answer here: the error must be a Status, too.
func streamOfLogs(ctx context.Context, client kubernetes.Interface) error {
	stream, err := client.CoreV1().Pods(namespace).GetLogs("absent", &corev1.PodLogOptions{}).Stream(ctx)
	if err == nil {
		text, _ := io.ReadAll(stream)
		return fmt.Errorf("logs of no pod: %s", text)
	}
	var status apierrors.APIStatus
	if !errors.As(err, &status) || status.Status().Code != http.StatusNotFound {
		return fmt.Errorf("logs of no pod: %v", err)
	}
	return nil
}
