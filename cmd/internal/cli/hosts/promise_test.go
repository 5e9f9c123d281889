package hosts

import (
	"encoding/json"
	"os"
	"strings"
	"testing"

	"github.com/go-quicktest/qt"

	"github.com/snapctl/snapctl/cmd/internal/output"
	"github.com/snapctl/snapctl/runtime/api"
)

// JSON.md has what these documents are like.
func TestExamplesInPromise(t *testing.T) {
	promise, err := os.ReadFile("../../../../JSON.md")
	qt.Assert(t, qt.IsNil(err))
	for _, d := range []output.Document{
		NewConflicts([]*api.HostConflict{{
			Kind: "app-name", Mine: "cache", There: "cache", Network: "default",
			Text:   "there is an app cache in the installation, on host host-b with endpoint 10.77.0.7 of network default",
			Remedy: "--on-conflict keep-private keeps network default for this host alone",
		}}),
		NewTakeover(&api.TakeoverResponse{
			App: "cache", Network: "default", Endpoint: "10.77.0.7", Epoch: 2, From: "host-b", By: "host-a", Snapshots: []string{"cache-1"},
		}),
		NewGateway(&api.Gateway{
			Host: "alpha", On: true, Advertise: []string{"203.0.113.0/24"},
			Networks: []*api.GatewayNetwork{{Name: "default", Prefix4: "10.77.0.0/16", Prefix6: "fd77:736e:6170::/64", Address4: "10.77.0.66", Address6: "fd77:736e:6170::42"}},
			Ports: []*api.ForwardedPort{{
				Protocol: "tcp", HostPort: 22, Port: 22, Network: "default", Address: "10.77.0.131", App: "ssh", Host: "beta", Reason: "a program has the port on this host",
			}},
			Others: []*api.OtherGateway{{Host: "beta", Advertise: []string{"203.0.113.0/24"}, Alive: true}},
			Notes:  []string{"network default: carry packets of machines beyond gateways by WireGuard: set channel to host gamma: underlay too small: 1270 bytes are left for endpoints' packets through fd73:6e61:5d1:a8e0:f277:21c4:90:3a1b, and at least 1280 have to be"},
		}),
	} {
		text, err := json.MarshalIndent(d, "", "  ")
		qt.Assert(t, qt.IsNil(err))
		qt.Check(t, qt.IsTrue(strings.Contains(string(promise), "```json\n"+string(text)+"\n```\n")), qt.Commentf("%s", text))
	}
}
