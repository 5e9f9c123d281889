package session

import (
	"context"
	"testing"
	"time"

	"github.com/go-quicktest/qt"
	"github.com/spf13/cobra"

	"github.com/snapctl/snapctl/runtime/client"
)

// The daemon is asked for names while a shell waits: not for long.
func TestCompletionGivesUp(t *testing.T) {
	asked := time.Duration(0)
	s := &Session{World: World{Env: func(string) (string, bool) { return "", false }, Dial: func(ctx context.Context, _ string) (*client.Client, error) {
		deadline, _ := ctx.Deadline()
		asked = time.Until(deadline)
		return nil, context.DeadlineExceeded
	}}}
	cmd := &cobra.Command{Use: "show"}
	cmd.SetContext(t.Context())
	names, directive := s.Ask(1, AppNames())(cmd, nil, "")
	qt.Assert(t, qt.HasLen(names, 0))
	qt.Assert(t, qt.Equals(directive, cobra.ShellCompDirectiveNoFileComp))
	qt.Assert(t, qt.IsTrue(asked > 0 && asked <= completionTimeout))
}
