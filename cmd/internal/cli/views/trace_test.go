package views

import (
	"encoding/json"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/go-quicktest/qt"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/snapctl/snapctl/runtime/api"
)

// JSON.md has what the document is like.
func TestTraceInPromise(t *testing.T) {
	promise, err := os.ReadFile("../../../../JSON.md")
	qt.Assert(t, qt.IsNil(err))
	text, err := json.MarshalIndent(NewTrace([]*api.TraceStep{
		{Name: "owner", Status: "ok", Found: "app db at 10.77.64.2, on host host-b with epoch 2, known from: cache", Took: durationpb.New(30 * time.Microsecond)},
		{Name: "control", Status: "failed", Found: "host host-b can't be reached: 192.0.2.8:7077: connection refused", Remedy: "start snapctld on host-b", Took: durationpb.New(time.Millisecond)},
	}), "", "  ")
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.IsTrue(strings.Contains(string(promise), "```json\n"+string(text)+"\n```\n")), qt.Commentf("%s", text))
}
