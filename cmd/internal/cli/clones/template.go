// Package clones has the commands of snapctl for templates and what is made of them: template
// with its subcommands, which make, list, check and remove templates, take them to other hosts and say how
// many clones stand ready, and clone.
package clones

import (
	"github.com/spf13/cobra"

	"github.com/snapctl/snapctl/cmd/internal/cli/moves"
	"github.com/snapctl/snapctl/cmd/internal/cli/session"
)

// NewTemplate makes the command `snapctl template`.
func NewTemplate(s *session.Session) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "template",
		Short: "Make, list or remove templates, and take them to other hosts",
		Long: `A template is a saved app that is made to be copied: its clones share memory and
files with it, and its rules say what differs between them. See snapctl clone.`,
		Example: `  snapctl template create web --from web-1 --rules web.yaml
  snapctl clone web --count 10
  snapctl template push web --to host-b`,
	}
	cmd.AddCommand(newTemplateCreate(s), newTemplateLs(s), newTemplateShow(s), newTemplateRm(s), newTemplateValidate(s), newTemplatePool(s), moves.NewTemplatePush(s, templateNames), moves.NewTemplatePull(s))
	return cmd
}
