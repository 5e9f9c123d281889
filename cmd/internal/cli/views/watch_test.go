package views_test

import (
	"context"
	"strings"
	"testing"

	"github.com/go-quicktest/qt"

	"github.com/snapctl/snapctl/cmd/internal/cli/clitest"
	"github.com/snapctl/snapctl/cmd/internal/cli/session"
	"github.com/snapctl/snapctl/runtime/client"
)

// watched is what a command prints until it has written so many lines.
func watched(t *testing.T, b *clitest.Bench, lines int, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	out := &endsAfter{lines: lines, end: cancel}
	b.Out = out
	qt.Assert(t, qt.Equals(b.Run(ctx, args...), session.OK), qt.Commentf("%s", b.Stderr.String()))
	return out.String()
}

// What is watched is shown again and again, until it is interrupted: a line for each in JSON, one
// table after the other, or on a terminal one over the other.
func TestWatch(t *testing.T) {
	b := clitest.WithApp(t)
	lines := strings.Split(strings.TrimSpace(watched(t, b, 2, "ps", "--watch=1ms", "-o", "json")), "\n")
	qt.Assert(t, qt.IsTrue(len(lines) >= 2))
	for _, line := range lines {
		qt.Check(t, qt.IsTrue(strings.HasPrefix(line, `{"schema_version":1,"apps":[{"name":"cache"`)))
	}
	text := watched(t, b, 4, "vem", "table", "-w=1ms")
	qt.Check(t, qt.StringContains(text, "\n\nAPP "))

	b.Terminal = &clitest.Screen{Dims: client.Size{Rows: 5, Columns: 20}}
	text = watched(t, b, 6, "vem", "table", "--watch=1ms")
	frames := strings.Split(text, "\x1b[H")
	qt.Assert(t, qt.IsTrue(len(frames) > 2))
	qt.Check(t, qt.Equals(frames[2], "snapctl vem table, …\x1b[K\n\x1b[K\nAPP     NETWORK   P…\x1b[K\ncache   default   t…\x1b[K\n\x1b[J"), qt.Commentf("%q", frames))
}

// An error ends it.
func TestWatchFails(t *testing.T) {
	b := clitest.NewBench(t)
	qt.Check(t, qt.Equals(b.Run(t.Context(), "ps", "--watch", "--socket", "/nowhere/sock"), session.Failed))
}
