package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/go-quicktest/qt"
	"github.com/spf13/cobra"

	"github.com/snapctl/snapctl/runtime/client"
)

// Every command explains itself, and its examples are right.
func TestCommandsAreExplained(t *testing.T) {
	for _, c := range tree(newRoot(&session{world: World{}})) {
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
	c, rest, err := newRoot(&session{world: World{}}).Find(strings.Fields(line))
	qt.Assert(t, qt.IsNil(err), qt.Commentf("%s", line))
	qt.Check(t, qt.IsNil(c.ParseFlags(rest)), qt.Commentf("%s", line))
	qt.Check(t, qt.IsNil(c.ValidateArgs(c.Flags().Args())), qt.Commentf("%s", line))
}

func TestProgress(t *testing.T) {
	b := withApp(t)
	b.Terminal = &screen{size: client.Size{Rows: 24, Columns: 80}}
	qt.Assert(t, qt.Equals(b.run(t.Context(), "hibernate", "cache"), OK))
	qt.Assert(t, qt.Equals(b.err.String(), "\rcache: freeze\x1b[K"+"\rcache: save memory 25 % of 12.0 MiB\x1b[K"+"\r\x1b[K"))
	qt.Assert(t, qt.Equals(b.out.String(), "cache hibernated: frozen 64 ms, 212 sockets held\n"))
}

func TestProgressIsNotWiderThanTheTerminal(t *testing.T) {
	b := withApp(t)
	b.Terminal = &screen{size: client.Size{Rows: 24, Columns: 10}}
	qt.Assert(t, qt.Equals(b.run(t.Context(), "hibernate", "cache"), OK))
	for part := range strings.SplitSeq(b.err.String(), "\r") {
		qt.Check(t, qt.IsTrue(len(strings.TrimSuffix(part, "\x1b[K")) < 10), qt.Commentf("%q", part))
	}
}

// endsWriter ends a context when it is written to.
type endsWriter struct{ end context.CancelFunc }

func (w endsWriter) Write(b []byte) (int, error) {
	w.end()
	return len(b), nil
}

// Ending it with Ctrl-C is the way to end logs -f.
func TestLogsFollow(t *testing.T) {
	b := withApp(t)
	ctx, cancel := context.WithCancel(t.Context())
	b.Out = endsWriter{cancel}
	qt.Assert(t, qt.Equals(b.run(ctx, "logs", "-f", "cache"), OK))
	qt.Assert(t, qt.Equals(b.err.String(), ""))
}

func TestInterrupted(t *testing.T) {
	b := withApp(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for _, args := range [][]string{{"show", "cache"}, {"hibernate", "cache", "nobody"}, {"exec", "cache", "--", "cat"}} {
		qt.Check(t, qt.Equals(b.run(ctx, args...), Failed))
		qt.Check(t, qt.Equals(b.err.String(), "snapctl: error: interrupted\n"), qt.Commentf("%v", args))
	}
}

func TestTimeout(t *testing.T) {
	b := withApp(t)
	qt.Assert(t, qt.Equals(b.run(t.Context(), "logs", "-f", "--timeout", "50ms", "cache"), Failed))
	qt.Assert(t, qt.StringContains(b.err.String(), "snapctl: hint: --timeout 50ms was too short for it\n"))
}

func TestReport(t *testing.T) {
	for name, test := range map[string]struct {
		err  error
		uid  int
		code ExitCode
		want string
	}{
		"plain": {err: errors.New("no luck"), code: Failed, want: "snapctl: error: no luck\n"},
		"several lines": {
			err: errors.New("dump cache: criu failed\n(00.1) Error: x\n\ttab \x1b[31m\n"), code: Failed,
			want: "snapctl: error: dump cache: criu failed\n  (00.1) Error: x\n      tab \\x1b[31m\n",
		},
		"not root": {
			err: fmt.Errorf("connect to s: %w", fs.ErrPermission), uid: 1000, code: Failed,
			want: "snapctl: error: connect to s: permission denied\nsnapctl: hint: only root may use snapctl: try `sudo snapctl`\n",
		},
		"root without rights": {
			err: fs.ErrPermission, code: Failed,
			want: "snapctl: error: permission denied\nsnapctl: hint: the socket can't be opened even by root: " +
				"look for a security module's or a container's restrictions\n",
		},
		"daemon gone": {
			err: fmt.Errorf("error reading from server: EOF: %w", errdefs.ErrUnavailable), code: Failed,
			want: "snapctl: error: error reading from server: EOF: unavailable\n" +
				"snapctl: hint: snapctld went away; it finishes or undoes what was begun when it starts: `systemctl status snapctld`\n",
		},
		"older daemon": {
			err: fmt.Errorf("unknown method Foo: %w", errdefs.ErrNotImplemented), code: Unsupported,
			want: "snapctl: error: unknown method Foo: not implemented\n" +
				"snapctl: hint: snapctld is older than snapctl: `systemctl restart snapctld`; apps go on meanwhile\n",
		},
		"silent":   {err: &exitError{code: 42}, code: 42},
		"argument": {err: fmt.Errorf("name: %w", errdefs.ErrInvalidArgument), code: Usage, want: "snapctl: error: name: invalid argument\n"},
	} {
		t.Run(name, func(t *testing.T) {
			var out strings.Builder
			s := &session{world: World{Err: &out, UID: test.uid}}
			qt.Check(t, qt.Equals(s.report(&cobra.Command{Use: "x"}, test.err), test.code))
			qt.Check(t, qt.Equals(out.String(), test.want))
		})
	}
}

func TestSocketChoice(t *testing.T) {
	none := func(string) (string, bool) { return "", false }
	set := func(string) (string, bool) { return "/env", true }
	qt.Check(t, qt.Equals((&session{world: World{Env: none}}).address(), client.DefaultSocket))
	qt.Check(t, qt.Equals((&session{world: World{Env: set}}).address(), "/env"))
	qt.Check(t, qt.Equals((&session{world: World{Env: set}, socket: "/flag"}).address(), "/flag"))
}

func TestMentions(t *testing.T) {
	qt.Check(t, qt.IsTrue(mentions("app cache: not found", "cache")))
	qt.Check(t, qt.IsFalse(mentions("app cache-1: not found", "cache")))
	qt.Check(t, qt.IsFalse(mentions("no luck", "cache")))
}

// The daemon is asked for names while a shell waits: not for long.
func TestCompletionGivesUp(t *testing.T) {
	b := newBench(t)
	asked := time.Duration(0)
	b.Dial = func(ctx context.Context, _ string) (*client.Client, error) {
		deadline, _ := ctx.Deadline()
		asked = time.Until(deadline)
		return nil, context.DeadlineExceeded
	}
	qt.Assert(t, qt.Equals(b.run(t.Context(), "__complete", "show", ""), OK))
	qt.Assert(t, qt.Equals(b.out.String(), ":4\n"))
	qt.Assert(t, qt.IsTrue(asked > 0 && asked <= completionTimeout))
}
