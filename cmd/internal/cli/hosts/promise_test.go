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
	} {
		text, err := json.MarshalIndent(d, "", "  ")
		qt.Assert(t, qt.IsNil(err))
		qt.Check(t, qt.IsTrue(strings.Contains(string(promise), "```json\n"+string(text)+"\n```\n")), qt.Commentf("%s", text))
	}
}
