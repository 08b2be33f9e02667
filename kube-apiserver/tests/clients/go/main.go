// Command client-go drives an apiserver with upstream's Go client: typed and dynamic clients, informers, patches, applies,
// discovery, subresources and leader election. Ends with 1 and says what at the first surprise.
//
//	client-go KUBECONFIG
package main

import (
	"context"
	"fmt"
	"os"
	"time"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// limit is how long the whole run may take: generous, the machine may be busy.
const limit = 8 * time.Minute

const namespace = "client-go"

func main() {
	if len(os.Args) != 2 {
		fail("arguments", fmt.Errorf("usage: client-go KUBECONFIG"))
	}
	config, err := clientcmd.BuildConfigFromFlags("", os.Args[1])
	if err != nil {
		fail("kubeconfig", err)
	}
	config.QPS, config.Burst = 500, 500
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	protobuf := rest.CopyConfig(config)
	protobuf.ContentType = "application/vnd.kubernetes.protobuf"
	protobuf.AcceptContentTypes = "application/vnd.kubernetes.protobuf,application/json"

	steps := []struct {
		name string
		run  func(context.Context, *rest.Config) error
		with *rest.Config
	}{
		{"namespace", makeNamespace, protobuf},
		{"discovery", discover, config},
		{"typed objects in protobuf", typed, protobuf},
		{"typed objects in JSON", typed, config},
		{"patches", patches, protobuf},
		{"apply", applies, protobuf},
		{"subresources", subresources, protobuf},
		{"lists in pages", pages, protobuf},
		{"metadata only", metadataOnly, protobuf},
		{"dynamic client", dynamicClient, config},
		{"informer by list and watch", informerByList, protobuf},
		{"informer by watch list", informerByWatch, protobuf},
		{"leader election", leads, protobuf},
		{"errors", errorsAreTyped, protobuf},
	}
	for _, step := range steps {
		if err := step.run(ctx, step.with); err != nil {
			fail(step.name, err)
		}
		fmt.Println("ok", step.name)
	}
}

func fail(what string, err error) {
	fmt.Fprintf(os.Stderr, "%s: %v\n", what, err)
	os.Exit(1)
}

// check is an error unless got is what was wanted.
func check[T comparable](what string, got, want T) error {
	if got != want {
		return fmt.Errorf("%s: got %v, want %v", what, got, want)
	}
	return nil
}

// first is the first error.
func first(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}
