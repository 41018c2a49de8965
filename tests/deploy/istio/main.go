// What istiod sends an ingress gateway, made by its own code from resources and a mesh's
// configuration: `istio-translate RESOURCES MESH OUT` writes listeners, clusters and routes as JSON.
// (Its logs go to where a program prints.)
package main

import (
	"encoding/json"
	"fmt"
	"os"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"istio.io/istio/pilot/pkg/model"
	"istio.io/istio/pilot/pkg/networking/core"
	"istio.io/istio/pkg/config/mesh"
	"istio.io/istio/pkg/test"
)

// Of the gateway's pods.
const (
	namespace = "istio-ingress"
	version   = "1.31.0"
)

var labels = map[string]string{"istio": "ingressgateway"}

func main() {
	if len(os.Args) != 4 {
		fail("usage: istio-translate RESOURCES MESH OUT")
	}
	resources, settings := read(os.Args[1]), read(os.Args[2])
	meshConfig, err := mesh.ApplyMeshConfigDefaults(settings)
	if err != nil {
		fail(fmt.Sprintf("the mesh's configuration: %v", err))
	}
	out := map[string][]json.RawMessage{}
	err = test.Wrap(func(t test.Failer) {
		made := core.NewConfigGenTest(t, core.TestOptions{ConfigString: resources, MeshConfig: meshConfig})
		proxy := made.SetupProxy(&model.Proxy{
			Type:            model.Router,
			ConfigNamespace: namespace,
			Labels:          labels,
			Metadata:        &model.NodeMetadata{Namespace: namespace, Labels: labels, IstioVersion: version},
		})
		listeners := made.Listeners(proxy)
		out["listeners"] = written(listeners)
		out["clusters"] = written(made.Clusters(proxy))
		out["routes"] = written(made.RoutesFromListeners(proxy, listeners))
	})
	if err != nil {
		fail(err.Error())
	}
	text, err := json.Marshal(out)
	if err == nil {
		err = os.WriteFile(os.Args[3], text, 0o600)
	}
	if err != nil {
		fail(err.Error())
	}
}

func written[M proto.Message](messages []M) []json.RawMessage {
	found := []json.RawMessage{}
	for _, each := range messages {
		text, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(each)
		if err != nil {
			fail(err.Error())
		}
		found = append(found, text)
	}
	return found
}

func read(path string) string {
	text, err := os.ReadFile(path)
	if err != nil {
		fail(err.Error())
	}
	return string(text)
}

func fail(what string) {
	fmt.Fprintln(os.Stderr, what)
	os.Exit(1)
}
