package moves

import (
	"encoding/json"
	"os"
	"strings"
	"testing"

	"github.com/go-quicktest/qt"

	"github.com/snapctl/snapctl/runtime/api"
)

// JSON.md has what the document is like.
func TestMigrationInPromise(t *testing.T) {
	promise, err := os.ReadFile("../../../../JSON.md")
	qt.Assert(t, qt.IsNil(err))
	text, err := json.MarshalIndent(newMigration(&api.Result{TotalUs: 610_000, StepsUs: map[string]int64{"hand sockets over": 4_100}, Move: &api.Move{
		App: "cache", From: "host-a", To: "host-b", SentBytes: 4 << 20, SavedBytes: 30 << 20, PauseUs: 5_200, StoodUs: 160_000, WokenUs: 40_000, Connections: 12,
		Rounds: []*api.Round{{SentBytes: 4_000_000, SavedBytes: 30 << 20, FrozenUs: 22_000, TookUs: 290_000}},
	}}), "", "  ")
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.IsTrue(strings.Contains(string(promise), "```json\n"+string(text)+"\n```\n")), qt.Commentf("%s", text))

	text, err = json.MarshalIndent(newDrain(&api.DrainResult{Host: "host-a", TotalUs: 2_100_000, Apps: []*api.DrainedApp{
		{App: "cache", Status: "running", Move: &api.Move{To: "host-b", SentBytes: 4 << 20, SavedBytes: 30 << 20, PauseUs: 5_200, StoodUs: 160_000, Connections: 12}},
		{App: "web", Status: "held", Error: "no host takes it: host host-b: it is silent"},
	}}, &api.DrainRequest{}), "", "  ")
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.IsTrue(strings.Contains(string(promise), "```json\n"+string(text)+"\n```\n")), qt.Commentf("%s", text))
}
