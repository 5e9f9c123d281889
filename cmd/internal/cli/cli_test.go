package cli_test

import (
	"context"
	"strings"
	"testing"

	"github.com/go-quicktest/qt"
	"github.com/spf13/cobra"

	"github.com/snapctl/snapctl/cmd/internal/cli"
	"github.com/snapctl/snapctl/cmd/internal/cli/clitest"
	"github.com/snapctl/snapctl/cmd/internal/cli/session"
	"github.com/snapctl/snapctl/runtime/client"
)

// tree lists a command and all below it.
func tree(c *cobra.Command) []*cobra.Command {
	all := []*cobra.Command{c}
	for _, sub := range c.Commands() {
		all = append(all, tree(sub)...)
	}
	return all
}

// Every command explains itself, and its examples are right.
func TestCommandsAreExplained(t *testing.T) {
	for _, c := range tree(cli.Commands(session.World{})) {
		t.Run(c.CommandPath(), func(t *testing.T) {
			qt.Check(t, qt.Not(qt.Equals(c.Short, "")))
			qt.Check(t, qt.IsFalse(strings.HasSuffix(c.Short, ".")))
			qt.Check(t, qt.Not(qt.Equals(c.Example, "")))
			qt.Check(t, qt.IsNotNil(c.Args), qt.Commentf("takes any arguments"))
			if c.HasParent() && !c.HasSubCommands() && !c.Hidden {
				qt.Check(t, qt.IsNotNil(c.ValidArgsFunction), qt.Commentf("completes file names"))
			}
			for line := range strings.SplitSeq(c.Example, "\n") {
				if args, ok := strings.CutPrefix(line, "  snapctl "); ok {
					checkExample(t, args)
				}
			}
		})
	}
}

// checkExample parses an example, up to a pipe or comment.
func checkExample(t *testing.T, line string) {
	t.Helper()
	for _, end := range []string{" | ", " # "} {
		line, _, _ = strings.Cut(line, end)
	}
	c, rest, err := cli.Commands(session.World{}).Find(strings.Fields(line))
	qt.Assert(t, qt.IsNil(err), qt.Commentf("%s", line))
	qt.Check(t, qt.IsNil(c.ParseFlags(rest)), qt.Commentf("%s", line))
	qt.Check(t, qt.IsNil(c.ValidateArgs(c.Flags().Args())), qt.Commentf("%s", line))
}

func TestProgress(t *testing.T) {
	b := clitest.WithApp(t)
	b.Terminal = &clitest.Screen{Dims: client.Size{Rows: 24, Columns: 80}}
	qt.Assert(t, qt.Equals(b.Run(t.Context(), "hibernate", "cache"), session.OK))
	qt.Assert(t, qt.Equals(b.Stderr.String(), "\rcache: freeze\x1b[K"+"\rcache: save memory 25 % of 12.0 MiB\x1b[K"+"\r\x1b[K"))
	qt.Assert(t, qt.Equals(b.Stdout.String(), "cache hibernated: frozen 64 ms, 212 sockets held\n"))
}

func TestProgressIsNotWiderThanTheTerminal(t *testing.T) {
	b := clitest.WithApp(t)
	b.Terminal = &clitest.Screen{Dims: client.Size{Rows: 24, Columns: 10}}
	qt.Assert(t, qt.Equals(b.Run(t.Context(), "hibernate", "cache"), session.OK))
	for part := range strings.SplitSeq(b.Stderr.String(), "\r") {
		qt.Check(t, qt.IsTrue(len(strings.TrimSuffix(part, "\x1b[K")) < 10), qt.Commentf("%q", part))
	}
}

func TestInterrupted(t *testing.T) {
	b := clitest.WithApp(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for _, args := range [][]string{{"show", "cache"}, {"hibernate", "cache", "nobody"}, {"exec", "cache", "--", "cat"}} {
		qt.Check(t, qt.Equals(b.Run(ctx, args...), session.Failed))
		qt.Check(t, qt.Equals(b.Stderr.String(), "snapctl: error: interrupted\n"), qt.Commentf("%v", args))
	}
}

func TestTimeout(t *testing.T) {
	b := clitest.WithApp(t)
	qt.Assert(t, qt.Equals(b.Run(t.Context(), "logs", "-f", "--timeout", "50ms", "cache"), session.Failed))
	qt.Assert(t, qt.StringContains(b.Stderr.String(), "snapctl: hint: --timeout 50ms was too short for it\n"))
}
