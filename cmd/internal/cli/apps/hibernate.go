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

// NewHibernate makes the command `snapctl hibernate`.
func NewHibernate(s *session.Session) *cobra.Command {
	endSessions, ifQuiet := false, false
	var lost policy.Lost
	cmd := &cobra.Command{
		Use:   "hibernate APP...",
		Short: "Put apps to sleep; traffic wakes them",
		Long: `Put apps to sleep: save their processes, end them, and hold their sockets. Peers
stay connected and can connect: what they send waits, and wakes the app as its
--wake says. If it fails the app runs on. A connection that can't be held, since one
process had just passed it to another one, is listed, and the exit code is 6. A note
tells of a timer of the app that will not wake it (see --wake-timers of snapctl run), and
of an app that nothing but snapctl wake can wake.

An app in which something runs by snapctl exec can't be saved: let that end, or give
--end-sessions. --hibernate-after waits until it has ended.

Traffic that comes while an app is being saved waits, and wakes it once it sleeps. With
--if-quiet it calls the hibernation off instead, and is answered at once: the command
fails, and the app runs on. --hibernate-after does the same by itself; snapctl show counts
how often.`,
		Example: `  snapctl hibernate cache
  snapctl hibernate --timeout 10s cache web
  snapctl hibernate --if-quiet web
  snapctl hibernate --end-sessions devbox`,
		Args:              session.SomeOf("APP"),
		ValidArgsFunction: s.Ask(0, session.AppNames(api.Status_STATUS_RUNNING)),
		RunE: s.Operate(output.Hibernate, func(ctx context.Context, c *client.Client, name string, tell client.Progress) (*api.Result, error) {
			return c.Hibernate(ctx, &api.HibernateRequest{Name: name, EndSessions: endSessions, IfQuiet: ifQuiet, Timeout: s.Patience(), AcceptLost: lost.Words()}, tell)
		}),
	}
	cmd.Flags().BoolVar(&endSessions, "end-sessions", false, endSessionsUsage)
	cmd.Flags().BoolVar(&ifQuiet, "if-quiet", false, "let traffic that would wake an app call its hibernation off")
	lost.Add(cmd, "")
	return cmd
}

const endSessionsUsage = "first end what runs in the app by snapctl exec, as when a terminal is closed"
