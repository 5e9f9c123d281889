package moves

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/snapctl/snapctl/cmd/internal/cli/session"
	"github.com/snapctl/snapctl/cmd/internal/output"
	"github.com/snapctl/snapctl/runtime/api"
	"github.com/snapctl/snapctl/runtime/client"
)

// NewDrain makes the command `snapctl host drain`.
func NewDrain(s *session.Session) *cobra.Command {
	req := &api.DrainRequest{}
	cmd := &cobra.Command{
		Use:   "drain [HOST]",
		Short: "Move all apps of this host to others",
		Long: `Cordon this host, as host cordon does, and move all its apps to other hosts: those that run
go on there, those that sleep are not woken, and those that are stopped stay so. It is as if
snapctl migrate was called for each. It runs on the host that is drained: HOST is its name, or
left out.

Apps go to hosts that are alive, not cordoned, and among those of --to if that is given: each
to the one with the most memory available, after what is on its way there. If that one refuses
the app, or does not answer, the next one is asked. An app that runs does not go to a host that
has less memory available than it uses. --parallel says how many move at the same time. An app
that can't move stays as it is, and the others go on; what stays, and why, is printed at the
end, with exit code 6, or 1 if none has moved. The same command once more goes on with those.

Ctrl-C, and --timeout, have no more apps begin to move, and those that do come to their end.
A second Ctrl-C does not wait for that. The host stays cordoned until host uncordon. Clones that
stand ready, of which nobody has one, stay.`,
		Example: `  snapctl host drain --dry-run
  snapctl host drain
  snapctl host drain --to host-b,host-c --parallel 4 -o json
  snapctl host uncordon   # when the host is back`,
		Args:              session.AtMost("HOST"),
		ValidArgsFunction: s.Ask(1, session.HostNames),
		Annotations:       map[string]string{session.ListKey: "host ls"},
		RunE: s.Call(func(ctx context.Context, c *client.Client, args []string) error {
			if req.GetParallel() < 1 {
				return session.Usagef("--parallel %d: at least one app has to move at a time", req.GetParallel())
			}
			if len(args) > 0 {
				req.Host = args[0]
			}
			return drain(ctx, s, c, req)
		}),
	}
	f := cmd.Flags()
	f.StringSliceVar(&req.To, "to", nil, "the `HOST`s that apps may move to (default: all)")
	f.Int32Var(&req.Parallel, "parallel", 2, "move `N` apps at the same time")
	f.BoolVar(&req.DryRun, "dry-run", false, "only tell where apps could move, and cordon nothing")
	f.BoolVar(&req.SharedBinds, "shared-binds", false, "what apps have by --bind is the same on the other hosts")
	session.CompleteFlag(cmd, "to", s.Ask(0, session.HostNames))
	session.CompleteFlag(cmd, "parallel", cobra.NoFileCompletions)
	return cmd
}

// drain asks for it. When ctx ends the daemon is told to stop, and it is waited for.
func drain(ctx context.Context, s *session.Session, c *client.Client, req *api.DrainRequest) error {
	var ended int
	line := s.Progress("")
	r, err := c.DrainHost(context.WithoutCancel(ctx), req, ctx.Done(), func(p *api.DrainProgress) {
		if e := p.GetEnded(); e != nil {
			line.Clear()
			ended++
			if s.Format == output.AsTable { // each as soon as it is done
				_ = s.Print(oneDrained{newDrained(e), req.GetDryRun()}) // what can't be printed can't be at the end either
			}
			return
		}
		line.Clear()
		line = s.Progress(fmt.Sprintf("%d done, %s to %s", ended, p.GetApp(), p.GetTo()))
		line.Tell(&api.Progress{Step: p.GetStep(), DoneBytes: p.GetDoneBytes(), TotalBytes: p.GetTotalBytes()})
	})
	line.Clear()
	if err != nil {
		return err
	}
	doc := newDrain(r, req)
	if err := s.Print(doc); err != nil {
		return err
	}
	return doc.failure()
}
