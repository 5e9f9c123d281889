package cli

import (
	"github.com/spf13/cobra"

	"github.com/snapctl/snapctl/cmd/internal/value"
	"github.com/snapctl/snapctl/snapshot/preflight"
)

// protectionFlag says which protections of its processes an app may lose.
type protectionFlag struct{ accepted []preflight.Protection }

func (f *protectionFlag) add(cmd *cobra.Command, when string) {
	var words []cobra.Completion
	for _, p := range preflight.Protections() {
		words = append(words, cobra.CompletionWithDesc(string(p), p.Describe()))
	}
	cmd.Flags().Var(value.List(&f.accepted, "PROTECTION", preflight.ParseProtection), "accept-lost",
		"save the app "+when+"although its processes lose this `PROTECTION`: speculation, seal or lock-on-fault; repeatable")
	completeFlag(cmd, "accept-lost", cobra.FixedCompletions(words, cobra.ShellCompDirectiveNoFileComp))
}

// names are as the API wants them.
func (f *protectionFlag) names() []string {
	var out []string
	for _, p := range f.accepted {
		out = append(out, string(p))
	}
	return out
}
