package views_test

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/go-quicktest/qt"

	"github.com/snapctl/snapctl/cmd/internal/cli/clitest"
	"github.com/snapctl/snapctl/cmd/internal/cli/session"
	"github.com/snapctl/snapctl/cmd/internal/cli/views"
	"github.com/snapctl/snapctl/runtime/event"
)

// endsAfter ends a context when so many lines were written.
type endsAfter struct {
	bytes.Buffer
	lines int
	end   context.CancelFunc
}

func (w *endsAfter) Write(b []byte) (int, error) {
	n, err := w.Buffer.Write(b)
	if strings.Count(w.String(), "\n") >= w.lines {
		w.end()
	}
	return n, err
}

// The help tells how many events are kept.
func TestEventsHelpTellsHowMany(t *testing.T) {
	qt.Check(t, qt.StringContains(views.NewEvents(&session.Session{}).Long, fmt.Sprintf("the last %d\n", event.Kept)))
}

// Following goes on after the past, with steps if they are wanted, until it is interrupted,
// which is no failure.
func TestEventsFollow(t *testing.T) {
	b := clitest.WithApp(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	out := &endsAfter{lines: len(clitest.Happened) + 2, end: cancel}
	b.Out = out
	qt.Assert(t, qt.Equals(b.Run(ctx, "events", "--follow", "--steps"), session.OK))
	qt.Check(t, qt.Equals(b.Stderr.String(), ""))
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	qt.Assert(t, qt.HasLen(lines, len(clitest.Happened)+2))
	qt.Check(t, qt.StringContains(lines[len(clitest.Happened)], "cache: snapshot: freeze"))
	qt.Check(t, qt.StringContains(lines[len(clitest.Happened)+1], "12 events missed"))
}
