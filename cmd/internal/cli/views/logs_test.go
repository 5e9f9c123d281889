package views_test

import (
	"context"
	"testing"

	"github.com/go-quicktest/qt"

	"github.com/snapctl/snapctl/cmd/internal/cli/clitest"
	"github.com/snapctl/snapctl/cmd/internal/cli/session"
)

// endsWriter ends a context when it is written to.
type endsWriter struct{ end context.CancelFunc }

func (w endsWriter) Write(b []byte) (int, error) {
	w.end()
	return len(b), nil
}

// Ending it with Ctrl-C is the way to end logs -f.
func TestLogsFollow(t *testing.T) {
	b := clitest.WithApp(t)
	ctx, cancel := context.WithCancel(t.Context())
	b.Out = endsWriter{cancel}
	qt.Assert(t, qt.Equals(b.Run(ctx, "logs", "-f", "cache"), session.OK))
	qt.Assert(t, qt.Equals(b.Stderr.String(), ""))
}
