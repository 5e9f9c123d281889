// Package moves has the commands that take apps to other hosts.
package moves

import (
	"context"
	"errors"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/snapctl/snapctl/cmd/internal/cli/policy"
	"github.com/snapctl/snapctl/cmd/internal/cli/session"
	"github.com/snapctl/snapctl/cmd/internal/output"
	"github.com/snapctl/snapctl/cmd/internal/value"
	"github.com/snapctl/snapctl/runtime/api"
	"github.com/snapctl/snapctl/runtime/client"
)

// NewMigrate makes the command `snapctl migrate`.
func NewMigrate(s *session.Session) *cobra.Command {
	req := &api.MigrateRequest{}
	var (
		lost  policy.Lost
		pause time.Duration
	)
	cmd := &cobra.Command{
		Use:   "migrate APP --to HOST",
		Short: "Move an app to another host, with its connections",
		Long: `Move an app to another host of the installation: its memory, its files and its
connections. Whoever is connected to it stays connected, and sends to the same address. An
app that runs goes on there; one that sleeps is not woken. One that is stopped stays so: its
files and its address move.

The target is asked first whether the app can come; --dry-run asks and does nothing else.
While the app runs, snapshots of it are sent, one after the other as long as each is done
much sooner than the one before: memory and files that the target has already, of an earlier
snapshot or of another app, are not sent again. Then the app is hibernated, what has changed
since is sent, and the target takes over its sockets. --max-pause has the app stay if what
is left does not get small enough.

If it fails, or is interrupted, before the directory says that the app is the target's, the
app goes on at this host; after that, at the target: never at both, and never at none.

What the app has by --bind it has on the target from the same paths there. That these have
the same files is a promise that --shared-binds makes; without it such an app stays.`,
		Example: `  snapctl migrate cache --to host-b
  snapctl migrate cache --to host-b --dry-run
  snapctl migrate cache --to host-b --max-pause 200ms --bandwidth 100MiB
  snapctl migrate cache --to host-b -o json`,
		Args:              session.Exactly("APP"),
		ValidArgsFunction: s.Ask(1, session.AppNames(api.Status_STATUS_RUNNING, api.Status_STATUS_HELD, api.Status_STATUS_STOPPED)),
		RunE: s.Call(func(ctx context.Context, c *client.Client, args []string) error {
			if req.GetHost() == "" {
				return session.Usagef("snapctl migrate needs --to HOST: the host that the app moves to")
			}
			if pause < 0 {
				return session.Usagef("--max-pause %s is less than nothing", pause)
			}
			if pause > 0 {
				req.MaxPause = durationpb.New(pause)
			}
			req.Name, req.Timeout, req.AcceptLost = args[0], s.Patience(), lost.Words()
			return migrate(ctx, s, c, req)
		}),
	}
	f := cmd.Flags()
	f.StringVar(&req.Host, "to", "", "the `HOST` that it moves to")
	f.BoolVar(&req.DryRun, "dry-run", false, "only tell whether it can move")
	f.BoolVar(&req.Force, "force", false, "also if the target's processor lacks instructions that this one's has")
	f.BoolVar(&req.SharedBinds, "shared-binds", false, "what it has by --bind is the same on the target")
	f.Var(value.One(&req.BandwidthBytes, "SIZE", value.ParseSize), "bandwidth", "send at most so much in a second, such as 100MiB")
	f.DurationVar(&pause, "max-pause", 0, "stay, rather than stand still for longer than this, about, while what is left is sent")
	lost.Add(cmd, "")
	session.CompleteFlag(cmd, "bandwidth", cobra.NoFileCompletions)
	session.CompleteFlag(cmd, "max-pause", cobra.NoFileCompletions)
	session.CompleteFlag(cmd, "to", s.Ask(0, session.HostNames))
	return cmd
}

func migrate(ctx context.Context, s *session.Session, c *client.Client, req *api.MigrateRequest) error {
	ctx, cancel := s.Limit(ctx, session.Grace)
	defer cancel()
	line := s.Progress(req.GetName())
	r, err := c.Migrate(ctx, req, line.Tell)
	line.Clear()
	if err != nil {
		return err
	}
	doc := newMigration(r)
	if s.Format == output.AsTable {
		for _, n := range r.GetNotes() {
			s.Say("note", n.GetText())
		}
	}
	if err := s.Print(doc); err != nil {
		return err
	}
	if doc.Trouble != "" {
		return &session.ExitError{Code: session.Partly, Text: doc.Trouble}
	}
	if len(doc.Lost) > 0 {
		return &session.ExitError{Code: session.Partly, Text: errNotAll.Error()}
	}
	return nil
}

var errNotAll = errors.New("it moved, but not all of its connections did")
