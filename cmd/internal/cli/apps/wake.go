package apps

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/snapctl/snapctl/cmd/internal/cli/policy"
	"github.com/snapctl/snapctl/cmd/internal/cli/session"
	"github.com/snapctl/snapctl/cmd/internal/output"
	"github.com/snapctl/snapctl/runtime/api"
	"github.com/snapctl/snapctl/runtime/client"
)

// NewWake makes the command `snapctl wake`.
func NewWake(s *session.Session) *cobra.Command {
	var mode copyFlag
	var files policy.Files
	var on string
	cmd := &cobra.Command{
		Use:   "wake APP...",
		Short: "Wake hibernated apps",
		Long: `Wake hibernated apps without waiting for traffic. If it fails the app stays
hibernated, and its sockets held.

If connections are lost, for snapctld and its holder both ended or the host was
started anew, they are listed, and the exit code is 6: the app finds them closed.

With --on an app moves to another host of the installation first, see snapctl migrate, and
is woken there; one that runs moves, too. If it can't move it stays as it is, here.

` + policy.FilesText + ` That flag of run, restore and clone does so
whenever the app comes back, also when traffic wakes it.

` + memoryText,
		Example: `  snapctl wake cache
  snapctl wake cache --on host-b
  snapctl wake cache --on any
  snapctl wake --copy cache
  snapctl wake --accept-changed-files cache`,
		Args:              session.SomeOf("APP"),
		ValidArgsFunction: s.Ask(0, session.AppNames(api.Status_STATUS_HELD)),
		RunE: s.Operate(output.WakeUp, func(ctx context.Context, c *client.Client, name string, tell client.Progress) (*api.Result, error) {
			if on != "" && (mode.copy || files.Accept) {
				return nil, session.Usagef("--on goes without --copy and --accept-changed-files: there the app is woken as its policy says")
			}
			return c.Wake(ctx, &api.WakeRequest{Name: name, Timeout: s.Patience(), Copy: mode.copy, AcceptChangedFiles: files.Accept, Host: on}, tell)
		}),
	}
	cmd.Flags().StringVar(&on, "on", "", "the `HOST` that they are woken on, or any: that with most memory available (default: this one)")
	session.CompleteFlag(cmd, "on", s.Ask(0, policy.Places))
	mode.add(cmd)
	files.Add(cmd, "this time, ", "")
	return cmd
}

// copyFlag has processes get their memory back by copying, this time.
type copyFlag struct{ copy bool }

const memoryText = `Memory is mapped from what was saved, and only what is written to is copied: it takes
as long for much memory as for little. With --copy all of it is read and copied
first, as CRIU does it; --restore-memory copied of run, restore and clone does so at
each wake.`

func (f *copyFlag) add(cmd *cobra.Command) {
	cmd.Flags().BoolVar(&f.copy, "copy", false, "copy the memory this time, as CRIU does it")
}
