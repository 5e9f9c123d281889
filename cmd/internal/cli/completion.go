package cli

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/snapctl/snapctl/cmd/internal/cli/session"
)

// addCompletion adds cobra's command that prints completion scripts, and what it
// lacks.
func addCompletion(root *cobra.Command) {
	root.InitDefaultCompletionCmd()
	for _, c := range root.Commands() {
		if c.Name() != "completion" {
			continue
		}
		c.Short = "Print the completion script of a shell"
		c.Example = "  . <(snapctl completion bash)"
		for _, shell := range c.Commands() {
			shell.Args = session.Exactly()
			shell.Annotations = session.Raw()
			shell.Example = fmt.Sprintf("  snapctl completion %s", shell.Name())
		}
	}
}
