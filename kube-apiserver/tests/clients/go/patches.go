package main

import (
	"context"
	"fmt"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	applyappsv1 "k8s.io/client-go/applyconfigurations/apps/v1"
	applycorev1 "k8s.io/client-go/applyconfigurations/core/v1"
	applymetav1 "k8s.io/client-go/applyconfigurations/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

func patches(ctx context.Context, config *rest.Config) error {
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	api := client.AppsV1().Deployments(namespace)
	if _, err := api.Create(ctx, deployment("patched"), metav1.CreateOptions{}); err != nil {
		return err
	}
	names := func(found *appsv1.Deployment) string {
		var all []string
		for _, container := range found.Spec.Template.Spec.Containers {
			all = append(all, container.Name+"="+container.Image)
		}
		return strings.Join(all, " ")
	}
	for _, step := range []struct {
		kind  types.PatchType
		patch string
		want  string
	}{
		{types.StrategicMergePatchType, `{"spec":{"template":{"spec":{"containers":[{"name":"b","image":"i:b"}]}}}}`, "b=i:b c=i:1"},
		{types.StrategicMergePatchType, `{"spec":{"template":{"spec":{"$setElementOrder/containers":[{"name":"c"},{"name":"b"}],"containers":[{"name":"c","image":"i:2"}]}}}}`, "c=i:2 b=i:b"},
		{types.StrategicMergePatchType, `{"spec":{"template":{"spec":{"containers":[{"$patch":"delete","name":"b"}]}}}}`, "c=i:2"},
		{types.MergePatchType, `{"spec":{"template":{"spec":{"containers":[{"name":"m","image":"i:m"}]}}}}`, "m=i:m"},
		{types.JSONPatchType, `[{"op":"test","path":"/spec/replicas","value":2},{"op":"add","path":"/spec/template/spec/containers/-","value":{"name":"j","image":"i:j"}}]`, "m=i:m j=i:j"},
	} {
		found, err := api.Patch(ctx, "patched", step.kind, []byte(step.patch), metav1.PatchOptions{FieldManager: "patcher"})
		if err != nil {
			return fmt.Errorf("%s: %w", step.patch, err)
		}
		if err := check(step.patch, names(found), step.want); err != nil {
			return err
		}
	}
	_, err = api.Patch(ctx, "patched", types.JSONPatchType, []byte(`[{"op":"test","path":"/spec/replicas","value":9}]`), metav1.PatchOptions{})
	if !apierrors.IsInvalid(err) && apierrors.ReasonForError(err) != metav1.StatusReasonInvalid {
		return fmt.Errorf("a failing test: %v", err)
	}
	status, err := api.Patch(ctx, "patched", types.MergePatchType, []byte(`{"status":{"replicas":7},"spec":{"paused":true}}`), metav1.PatchOptions{}, "status")
	if err != nil {
		return err
	}
	if err := first(check("status", status.Status.Replicas, 7), check("spec", status.Spec.Paused, false)); err != nil {
		return err
	}
	return api.Delete(ctx, "patched", metav1.DeleteOptions{})
}

func applies(ctx context.Context, config *rest.Config) error {
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	api := client.AppsV1().Deployments(namespace)
	wanted := func(image string) *applyappsv1.DeploymentApplyConfiguration {
		labels := map[string]string{"app": "applied"}
		container := applycorev1.Container().WithName("c").WithImage(image).
			WithEnv(applycorev1.EnvVar().WithName("A").WithValue("1")).
			WithPorts(applycorev1.ContainerPort().WithContainerPort(80))
		return applyappsv1.Deployment("applied", namespace).WithSpec(applyappsv1.DeploymentSpec().WithReplicas(1).
			WithSelector(applymetav1.LabelSelector().WithMatchLabels(labels)).
			WithTemplate(applycorev1.PodTemplateSpec().WithLabels(labels).WithSpec(applycorev1.PodSpec().WithContainers(container))))
	}
	if _, err := api.Apply(ctx, wanted("i:1"), metav1.ApplyOptions{FieldManager: "one"}); err != nil {
		return err
	}
	_, err = api.Apply(ctx, wanted("i:2"), metav1.ApplyOptions{FieldManager: "two"})
	if !apierrors.IsConflict(err) || !apierrors.HasStatusCause(err, metav1.CauseTypeFieldManagerConflict) {
		return fmt.Errorf("an apply of another's field: %v", err)
	}
	found, err := api.Apply(ctx, wanted("i:2"), metav1.ApplyOptions{FieldManager: "two", Force: true})
	if err != nil {
		return err
	}
	if err := check("image", found.Spec.Template.Spec.Containers[0].Image, "i:2"); err != nil {
		return err
	}
	// What a manager owns can be taken out of an object, changed and applied again.
	extracted, err := applyappsv1.ExtractDeployment(found, "two")
	if err != nil {
		return err
	}
	extracted.Spec.Template.Spec.Containers[0].Env = nil
	if found, err = api.Apply(ctx, extracted, metav1.ApplyOptions{FieldManager: "two"}); err != nil {
		return err
	}
	// The first manager still owns the variable.
	if err := check("variables", len(found.Spec.Template.Spec.Containers[0].Env), 1); err != nil {
		return err
	}
	only := applyappsv1.Deployment("applied", namespace).WithLabels(map[string]string{"l": "v"})
	if found, err = api.Apply(ctx, only, metav1.ApplyOptions{FieldManager: "one"}); err != nil {
		return err
	}
	if err := first(
		check("variables", len(found.Spec.Template.Spec.Containers[0].Env), 0),
		check("label", found.Labels["l"], "v"),
	); err != nil {
		return err
	}
	status := applyappsv1.Deployment("applied", namespace).WithStatus(applyappsv1.DeploymentStatus().WithReplicas(3).
		WithConditions(applyappsv1.DeploymentCondition().WithType(appsv1.DeploymentAvailable).WithStatus(corev1.ConditionTrue)))
	if found, err = api.ApplyStatus(ctx, status, metav1.ApplyOptions{FieldManager: "one"}); err != nil {
		return err
	}
	return first(check("status", found.Status.Replicas, 3), check("conditions", len(found.Status.Conditions), 1))
}
