package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/features"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/leaderelection"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
)

type runtimeObject = runtime.Object

func informerByList(ctx context.Context, config *rest.Config) error {
	return informs(ctx, config, "by-list", false)
}

func informerByWatch(ctx context.Context, config *rest.Config) error {
	return informs(ctx, config, "by-watch", true)
}

// gates decides how informers get the state first.
type gates struct {
	features.Gates
	watchList bool
}

func (g gates) Enabled(feature features.Feature) bool {
	if feature == features.WatchListClient {
		return g.watchList
	}
	return g.Gates.Enabled(feature)
}

// informs checks that a shared informer sees what was there, what comes, what changes and what goes, in this order.
func informs(ctx context.Context, config *rest.Config, name string, watchList bool) error {
	features.ReplaceFeatureGates(gates{features.FeatureGates(), watchList})
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	api := client.CoreV1().ConfigMaps(namespace)
	labels := map[string]string{"informer": name}
	made := func(suffix string) error {
		one := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name + suffix, Labels: labels}}
		_, err := api.Create(ctx, one, metav1.CreateOptions{})
		return err
	}
	if err := made("-before"); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	factory := informers.NewSharedInformerFactoryWithOptions(client, 0, informers.WithNamespace(namespace),
		informers.WithTweakListOptions(func(options *metav1.ListOptions) { options.LabelSelector = "informer=" + name }))
	informer := factory.Core().V1().ConfigMaps().Informer()
	events := make(chan string, 100)
	key := func(object any) string {
		name, err := cache.DeletionHandlingMetaNamespaceKeyFunc(object)
		if err != nil {
			return err.Error()
		}
		return name
	}
	if _, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(object any) { events <- "add " + key(object) },
		UpdateFunc: func(_, object any) { events <- "update " + key(object) + " " + object.(*corev1.ConfigMap).Data["k"] },
		DeleteFunc: func(object any) { events <- "delete " + key(object) },
	}); err != nil {
		return err
	}
	factory.StartWithContext(ctx)
	if !cache.WaitForCacheSync(ctx.Done(), informer.HasSynced) {
		return errors.New("the cache did not synchronize")
	}
	if err := expect(ctx, events, "add "+namespace+"/"+name+"-before"); err != nil {
		return err
	}
	if err := made("-after"); err != nil {
		return err
	}
	if err := expect(ctx, events, "add "+namespace+"/"+name+"-after"); err != nil {
		return err
	}
	if _, err := api.Patch(ctx, name+"-after", types.MergePatchType, []byte(`{"data":{"k":"v"}}`), metav1.PatchOptions{}); err != nil {
		return err
	}
	if err := expect(ctx, events, "update "+namespace+"/"+name+"-after v"); err != nil {
		return err
	}
	// Leaving the selection is a deletion, coming back an addition.
	if _, err := api.Patch(ctx, name+"-after", types.MergePatchType, []byte(`{"metadata":{"labels":null}}`), metav1.PatchOptions{}); err != nil {
		return err
	}
	if err := expect(ctx, events, "delete "+namespace+"/"+name+"-after"); err != nil {
		return err
	}
	if err := api.Delete(ctx, name+"-before", metav1.DeleteOptions{}); err != nil {
		return err
	}
	if err := expect(ctx, events, "delete "+namespace+"/"+name+"-before"); err != nil {
		return err
	}
	return check("left in the cache", len(informer.GetStore().ListKeys()), 0)
}

func expect(ctx context.Context, events <-chan string, want string) error {
	select {
	case event := <-events:
		return check("event", event, want)
	case <-ctx.Done():
		return fmt.Errorf("no event %q: %w", want, ctx.Err())
	}
}

// leads: two candidates and one lease; the second leads when the first has let go.
func leads(ctx context.Context, config *rest.Config) error {
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	changes := make(chan string, 10)
	candidate := func(name string) context.CancelFunc {
		ctx, cancel := context.WithCancel(ctx)
		go leaderelection.RunOrDie(ctx, leaderelection.LeaderElectionConfig{
			Lock: &resourcelock.LeaseLock{
				LeaseMeta: metav1.ObjectMeta{Namespace: namespace, Name: "lock"}, Client: client.CoordinationV1(),
				LockConfig: resourcelock.ResourceLockConfig{Identity: name},
			},
			LeaseDuration: 60 * time.Second, RenewDeadline: 40 * time.Second, RetryPeriod: time.Second, ReleaseOnCancel: true,
			Callbacks: leaderelection.LeaderCallbacks{
				OnStartedLeading: func(context.Context) { changes <- name + " leads" },
				OnStoppedLeading: func() { changes <- name + " stops" },
			},
		})
		return cancel
	}
	stop := candidate("one")
	if err := expect(ctx, changes, "one leads"); err != nil {
		return err
	}
	stopTwo := candidate("two")
	stop()
	if err := expect(ctx, changes, "one stops"); err != nil {
		return err
	}
	if err := expect(ctx, changes, "two leads"); err != nil {
		return err
	}
	lease, err := client.CoordinationV1().Leases(namespace).Get(ctx, "lock", metav1.GetOptions{})
	if err != nil {
		return err
	}
	stopTwo()
	return first(check("holder", *lease.Spec.HolderIdentity, "two"), expect(ctx, changes, "two stops"))
}
