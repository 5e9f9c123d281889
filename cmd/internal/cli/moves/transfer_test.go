package moves

import (
	"encoding/json"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/go-quicktest/qt"

	"github.com/snapctl/snapctl/cmd/internal/output"
	"github.com/snapctl/snapctl/runtime/api"
)

// JSON.md has what the document is like.
func TestTransferredInPromise(t *testing.T) {
	promise, err := os.ReadFile("../../../../JSON.md")
	qt.Assert(t, qt.IsNil(err))
	text, err := json.MarshalIndent(newTransferred(push(nil, "snapshot"), "cache-1", &api.TransferResult{
		Snapshot: "cache-1", Host: "host-b", TookUs: 320_000, Total: &api.TransferProgress{TotalBytes: 12 << 20, SentBytes: 4 << 20, SavedBytes: 30 << 20, Files: 8},
	}), "", "  ")
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.IsTrue(strings.Contains(string(promise), "```json\n"+string(text)+"\n```\n")), qt.Commentf("%s", text))
}

func TestTransferStep(t *testing.T) {
	tr := push(nil, "snapshot")
	tr.host = "host-b"
	p := &api.TransferProgress{SentBytes: 4 << 20, DoneBytes: 6 << 20, TotalBytes: 12 << 20, SavedBytes: 30 << 20}
	qt.Check(t, qt.Equals(output.Step(tr.step(p, 2*time.Second)), "pushed 4.0 MiB to host-b, 2.0 MiB/s, 30.0 MiB were there: 50 % of 12.0 MiB"))
	p = &api.TransferProgress{SentBytes: 100, TotalBytes: 12 << 20}
	qt.Check(t, qt.Equals(output.Step(tr.step(p, 2*time.Millisecond)), "pushed 100 B to host-b: 0 % of 12.0 MiB"))
}
