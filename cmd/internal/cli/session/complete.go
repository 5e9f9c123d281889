package session

import (
	"context"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/snapctl/snapctl/cmd/internal/output"
	"github.com/snapctl/snapctl/runtime/api"
	"github.com/snapctl/snapctl/runtime/client"
)

// completionTimeout bounds how long a shell waits for names. A shell has no
// place for an error: then there are none.
const completionTimeout = 2 * time.Second

// Names asks the daemon for names to complete.
type Names func(ctx context.Context, c *client.Client) ([]cobra.Completion, error)

// Ask completes an argument by asking the daemon. limit is how many arguments
// there may be; 0 is any number.
func (s *Session) Ask(limit int, get Names) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
		if limit > 0 && len(args) >= limit {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		ctx, cancel := context.WithTimeout(cmd.Context(), completionTimeout)
		defer cancel()
		c, err := s.Connect(ctx)
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		defer func() { _ = c.Close() }() // nothing was changed
		all, err := get(ctx, c)
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		all = slices.DeleteFunc(all, func(one cobra.Completion) bool { return slices.Contains(args, NameOf(one)) })
		return all, cobra.ShellCompDirectiveNoFileComp
	}
}

// NameOf is a completion without its description.
func NameOf(c cobra.Completion) string {
	for i := range len(c) {
		if c[i] == '\t' {
			return c[:i]
		}
	}
	return c
}

// AppNames lists the apps that have one of the statuses, or all of them.
func AppNames(statuses ...api.Status) Names {
	return func(ctx context.Context, c *client.Client) ([]cobra.Completion, error) {
		apps, err := c.List(ctx)
		if err != nil {
			return nil, err
		}
		var all []cobra.Completion
		for _, a := range apps {
			if len(statuses) == 0 || slices.Contains(statuses, a.GetStatus()) {
				all = append(all, cobra.CompletionWithDesc(a.GetName(), output.Clean(output.Status(a.GetStatus())+" at "+a.GetEndpoint())))
			}
		}
		return all, nil
	}
}

// SnapshotNames lists the snapshots.
func SnapshotNames(ctx context.Context, c *client.Client) ([]cobra.Completion, error) {
	snapshots, err := c.ListSnapshots(ctx)
	if err != nil {
		return nil, err
	}
	var all []cobra.Completion
	for _, snap := range snapshots {
		all = append(all, cobra.CompletionWithDesc(snap.GetName(), output.Clean("of "+snap.GetApp()+", "+output.Size(snap.GetSizeBytes()))))
	}
	return all, nil
}

// HostNames lists the hosts of the installation.
func HostNames(ctx context.Context, c *client.Client) ([]cobra.Completion, error) {
	hosts, err := c.ListHosts(ctx)
	if err != nil {
		return nil, err
	}
	var all []cobra.Completion
	for _, h := range hosts {
		all = append(all, cobra.CompletionWithDesc(h.GetName(), output.Clean(output.NewHost(h).Health)))
	}
	return all, nil
}

// Endpoints lists the addresses and names of the apps of all hosts.
func Endpoints(ctx context.Context, c *client.Client) ([]cobra.Completion, error) {
	r, err := c.Resolve(ctx, &api.ResolveRequest{})
	if err != nil {
		return nil, err
	}
	var all []cobra.Completion
	for _, e := range r.GetFound() {
		all = append(all, cobra.CompletionWithDesc(e.GetEndpoint(), output.Clean("app "+e.GetApp())), cobra.CompletionWithDesc(e.GetApp(), output.Clean("at "+e.GetEndpoint())))
	}
	return all, nil
}

// NetworkNames lists the virtual networks of apps, and the default one.
func NetworkNames(ctx context.Context, c *client.Client) ([]cobra.Completion, error) {
	all := []cobra.Completion{"default"}
	apps, err := c.List(ctx)
	for _, a := range apps {
		if !slices.Contains(all, a.GetNetwork()) {
			all = append(all, a.GetNetwork())
		}
	}
	if r, rerr := c.Resolve(ctx, &api.ResolveRequest{}); rerr == nil {
		for _, e := range r.GetFound() {
			if !slices.Contains(all, e.GetNetwork()) {
				all = append(all, e.GetNetwork())
			}
		}
	}
	return all, err
}

// CompleteFlag sets how a flag's value is completed. The flag exists: the only
// other error is that it was set before.
func CompleteFlag(cmd *cobra.Command, flag string, f cobra.CompletionFunc) {
	if err := cmd.RegisterFlagCompletionFunc(flag, f); err != nil {
		panic(err)
	}
}
