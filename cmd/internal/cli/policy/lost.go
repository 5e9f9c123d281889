package policy

import (
	"github.com/spf13/cobra"

	"github.com/snapctl/snapctl/cmd/internal/cli/session"
	"github.com/snapctl/snapctl/cmd/internal/value"
	"github.com/snapctl/snapctl/snapshot/preflight"
)

// Lost says which protections of its processes an app may lose.
type Lost struct{ accepted []preflight.Protection }

// Add adds the flag; when says which operations it is for.
func (f *Lost) Add(cmd *cobra.Command, when string) {
	var words []cobra.Completion
	for _, p := range preflight.Protections() {
		words = append(words, cobra.CompletionWithDesc(string(p), p.Describe()))
	}
	cmd.Flags().Var(value.List(&f.accepted, "PROTECTION", preflight.ParseProtection), "accept-lost",
		"save the app "+when+"although its processes lose this `PROTECTION`: speculation, seal or lock-on-fault; repeatable")
	session.CompleteFlag(cmd, "accept-lost", cobra.FixedCompletions(words, cobra.ShellCompDirectiveNoFileComp))
}

// Words are as the API wants them.
func (f *Lost) Words() []string {
	var out []string
	for _, p := range f.accepted {
		out = append(out, string(p))
	}
	return out
}
