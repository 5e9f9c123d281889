package views

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/snapctl/snapctl/cmd/internal/cli/session"
	"github.com/snapctl/snapctl/cmd/internal/output"
	"github.com/snapctl/snapctl/runtime/api"
	"github.com/snapctl/snapctl/runtime/client"
)

func newVemTrace(s *session.Session) *cobra.Command {
	req := &api.TraceRequest{}
	cmd := &cobra.Command{
		Use:   "trace (ADDRESS|APP)",
		Short: "Follow the way to an app step by step",
		Long: `Follow the way from an app of this host to another app, which may be on another host,
and tell how long each step takes, which one fails, and what to do about it: who has
the address, whether that host is there and answers on the control channel, whether the
channel is up (if it is not it is brought up, as by any packet), and whether a small and
a full-size packet (ICMP echo) come back. Nothing wakes a hibernated app by it. The exit
code is 1 if a step fails.`,
		Example: `  snapctl vem trace 10.77.64.2
  snapctl vem trace web --from cache
  snapctl vem trace web --output json | jq '.steps[] | select(.status != "ok")'`,
		Args:              session.Exactly("ADDRESS|APP"),
		ValidArgsFunction: s.Ask(1, session.Endpoints),
		RunE: s.Call(func(ctx context.Context, c *client.Client, args []string) error {
			req.Endpoint = args[0]
			var steps []*api.TraceStep
			err := c.Trace(ctx, req, func(step *api.TraceStep) error {
				steps = append(steps, step)
				if s.Format != output.AsTable {
					return nil
				}
				return s.Print(NewTraceStep(step))
			})
			if err != nil {
				return err
			}
			if s.Format != output.AsTable {
				if err := s.Print(NewTrace(steps)); err != nil {
					return err
				}
			}
			return broken(args[0], steps)
		}),
	}
	f := cmd.Flags()
	f.StringVar(&req.From, "from", "", "the `APP` of this host that packets come from (default: any that is in the network)")
	f.StringVar(&req.Network, "network", "", "the virtual network with this `NAME` (default: any that has the address)")
	session.CompleteFlag(cmd, "from", s.Ask(0, session.AppNames()))
	session.CompleteFlag(cmd, "network", s.Ask(0, session.NetworkNames))
	return cmd
}

// broken is that the way to an endpoint ends at a step; nil if it does not.
func broken(to string, steps []*api.TraceStep) error {
	for _, step := range steps {
		if step.GetStatus() != output.CheckFailed {
			continue
		}
		err := error(&session.ExitError{Code: session.Failed, Text: fmt.Sprintf("the way to %s ends at step %s", to, step.GetName())})
		if step.GetRemedy() != "" {
			err = &session.AdviceError{Err: err, Advice: []string{step.GetRemedy()}}
		}
		return err
	}
	return nil
}
