package apps_test

import (
	"io"
	"strings"
	"testing"

	"github.com/go-quicktest/qt"

	"github.com/snapctl/snapctl/cmd/internal/cli/clitest"
	"github.com/snapctl/snapctl/cmd/internal/cli/session"
	"github.com/snapctl/snapctl/runtime/client"
)

func TestExec(t *testing.T) {
	for name, test := range map[string]struct {
		args     []string
		stdin    string
		code     session.ExitCode
		out, err string
	}{
		"output":          {args: []string{"cache", "--", "echo", "-n", "a"}, err: "echo -n a\n"},
		"without dashes":  {args: []string{"cache", "echo"}, err: "echo\n"},
		"exit code":       {args: []string{"cache", "--", "exit", "42"}, code: 42},
		"input":           {args: []string{"-i", "cache", "--", "cat"}, stdin: "hello", out: "hello"},
		"input not asked": {args: []string{"cache", "--", "cat"}, stdin: "hello"},
		"environment":     {args: []string{"--env", "A=b", "--env", "HOME", "cache", "--", "env"}, out: "A=b\nHOME=/home/me\n"},
		"no such app": {
			args: []string{"nobody", "--", "ls"}, code: session.NotFound,
			err: "snapctl: error: app nobody: not found\nsnapctl: hint: `snapctl ps` lists what there is\n",
		},
		"no terminal": {
			args: []string{"-it", "cache", "--", "sh"}, code: session.Usage,
			err: "snapctl: error: -t with -i: standard input is no terminal\nsnapctl: hint: leave out -t\n",
		},
	} {
		t.Run(name, func(t *testing.T) {
			b := clitest.WithApp(t)
			b.In = strings.NewReader(test.stdin)
			code := b.Run(t.Context(), append([]string{"exec"}, test.args...)...)
			qt.Check(t, qt.Equals(code, test.code))
			qt.Check(t, qt.Equals(b.Stdout.String(), test.out))
			qt.Check(t, qt.Equals(b.Stderr.String(), test.err))
		})
	}
}

func TestExecOnTerminal(t *testing.T) {
	b := clitest.WithApp(t)
	s := &clitest.Screen{Dims: client.Size{Rows: 24, Columns: 80}, ResizeTo: []client.Size{{Rows: 50, Columns: 132}}}
	b.Terminal = s
	in, keep := io.Pipe()
	t.Cleanup(func() { qt.Check(t, qt.IsNil(keep.Close())) })
	b.In = in // stays open: the command ends all the same

	qt.Assert(t, qt.Equals(b.Run(t.Context(), "exec", "-it", "cache", "--", "size"), session.OK), qt.Commentf("%s", b.Stderr.String()))
	qt.Assert(t, qt.Equals(b.Stdout.String(), "24x80\n50x132\n"))
	qt.Assert(t, qt.IsTrue(s.WasRaw))
	qt.Assert(t, qt.Equals(s.Raws, 0))

	qt.Assert(t, qt.Equals(b.Run(t.Context(), "exec", "-t", "cache", "--", "env"), session.OK))
	qt.Assert(t, qt.Equals(b.Stdout.String(), "TERM=vt100\n"))
}

// A terminal is restored when the command fails, too.
func TestExecRestoresTerminalOnError(t *testing.T) {
	b := clitest.NewBench(t)
	s := &clitest.Screen{}
	b.Terminal = s
	qt.Assert(t, qt.Equals(b.Run(t.Context(), "exec", "-it", "nobody", "--", "sh"), session.NotFound))
	qt.Assert(t, qt.IsTrue(s.WasRaw))
	qt.Assert(t, qt.Equals(s.Raws, 0))
}
