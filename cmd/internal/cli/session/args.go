package session

import (
	"slices"
	"strings"

	"github.com/spf13/cobra"
)

// Exactly wants these arguments, no more and no fewer.
func Exactly(names ...string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		switch {
		case len(args) < len(names):
			return Usagef("%s needs %s", cmd.CommandPath(), strings.Join(names[len(args):], " and "))
		case len(args) > len(names):
			return Usagef("%s: unexpected argument %q", cmd.CommandPath(), args[len(names)])
		}
		return nil
	}
}

// AtMost wants these arguments, or fewer.
func AtMost(names ...string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		return Exactly(names[:min(len(args), len(names))]...)(cmd, args)
	}
}

// SomeOf wants one argument or more.
func SomeOf(name string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) == 0 {
			return Usagef("%s needs %s", cmd.CommandPath(), name)
		}
		return nil
	}
}

// mentions tells whether text has name as a word.
func mentions(text, name string) bool {
	word := func(r rune) bool {
		return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("._-", r)
	}
	return slices.Contains(strings.FieldsFunc(text, func(r rune) bool { return !word(r) }), name)
}
