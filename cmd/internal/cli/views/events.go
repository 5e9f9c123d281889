package views

import (
	"context"
	"errors"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/snapctl/snapctl/cmd/internal/cli/session"
	"github.com/snapctl/snapctl/cmd/internal/output"
	"github.com/snapctl/snapctl/cmd/internal/value"
	"github.com/snapctl/snapctl/runtime/api"
	"github.com/snapctl/snapctl/runtime/client"
)

// NewEvents makes the command `snapctl events`.
func NewEvents(s *session.Session) *cobra.Command {
	var since value.Moment
	var filters []value.EventFilter
	req := &api.EventsRequest{}
	cmd := &cobra.Command{
		Use:   "events [-f] [--since TIME] [--filter KEY=VALUE]...",
		Short: "Show what has happened",
		Long: `Show what has happened: operations that began and ended, apps that were woken and by
what, programs that ended, apps that were removed. snapctld keeps the last 1000
events since it was started; with --follow, snapctl goes on with what happens from
now on, until it is interrupted. With --output json each event is a document of its
own, in a line of its own. Of filters with the same key one has to fit, of different
keys all have to.`,
		Example: `  snapctl events --since 10m
  snapctl events -f --filter app=cache --filter type=woken
  snapctl events --follow --output json | jq -r .type`,
		Args:              session.Exactly(),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: s.Call(func(ctx context.Context, c *client.Client, _ []string) error {
			if since != nil {
				req.Since = timestamppb.New(since(s.World.Now()))
			}
			for _, add := range filters {
				add(req)
			}
			if req.GetSteps() && !req.GetFollow() {
				return session.Usagef("--steps needs --follow: only the end of an operation is kept, and tells how long each step took")
			}
			err := c.Events(ctx, req, func(e *api.EventRecord) error {
				return output.WriteLine(s.World.Out, s.Format, s.World.Now(), output.NewEvent(e))
			})
			interrupted := errors.Is(err, context.Canceled) && ctx.Err() != nil
			if err == nil || interrupted && req.GetFollow() { // the way to end it
				return nil
			}
			return err
		}),
	}
	f := cmd.Flags()
	f.BoolVarP(&req.Follow, "follow", "f", false, "go on with what happens from now on")
	f.BoolVar(&req.Steps, "steps", false, "with --follow: also each step of an operation, when it begins")
	f.Var(value.One(&since, "TIME", value.ParseMoment), "since", "nothing older: a time such as 2026-01-02T15:04:05Z, or how long ago, such as 10m")
	f.Var(value.List(&filters, "KEY=VALUE", value.ParseEventFilter), "filter", "only these: app=NAME, type=TYPE or operation=KIND")
	session.CompleteFlag(cmd, "since", cobra.NoFileCompletions)
	session.CompleteFlag(cmd, "filter", func(cmd *cobra.Command, args []string, typed string) ([]cobra.Completion, cobra.ShellCompDirective) {
		apps := func() []string { all, _ := s.Ask(0, session.AppNames())(cmd, args, ""); return all }
		return value.CompleteEventFilter(typed, apps), cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveNoSpace
	})
	return cmd
}
