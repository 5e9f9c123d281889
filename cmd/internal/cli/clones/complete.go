package clones

import (
	"context"
	"strings"

	"github.com/spf13/cobra"

	"github.com/snapctl/snapctl/cmd/internal/cli/session"
	"github.com/snapctl/snapctl/cmd/internal/output"
	"github.com/snapctl/snapctl/runtime/client"
)

// templateNames lists the templates.
func templateNames(ctx context.Context, c *client.Client) ([]cobra.Completion, error) {
	templates, err := c.ListTemplates(ctx)
	if err != nil {
		return nil, err
	}
	var all []cobra.Completion
	for _, t := range templates {
		all = append(all, cobra.CompletionWithDesc(t.GetName(), output.Clean("of "+t.GetSnapshot()+", "+output.Size(t.GetMemoryBytes()))))
	}
	return all, nil
}

// placeNames lists where clones can be made.
func placeNames(ctx context.Context, c *client.Client) ([]cobra.Completion, error) {
	all, err := session.HostNames(ctx, c)
	return append(all, cobra.CompletionWithDesc(everywhere, "all hosts that are alive")), err
}

// parameterKeys completes KEY= with the parameters of the template that was
// named before.
func parameterKeys(s *session.Session) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, begun string) ([]cobra.Completion, cobra.ShellCompDirective) {
		if len(args) != 1 || strings.Contains(begun, "=") {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		keys := s.Ask(0, func(ctx context.Context, c *client.Client) ([]cobra.Completion, error) {
			t, err := c.ShowTemplate(ctx, args[0])
			if err != nil {
				return nil, err
			}
			var all []cobra.Completion
			for _, p := range t.GetParameters() {
				all = append(all, cobra.CompletionWithDesc(p.GetKey()+"=", output.Clean(p.GetDescription())))
			}
			return all, nil
		})
		all, _ := keys(cmd, nil, begun)
		return all, cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveNoSpace
	}
}
