package cli

import (
	"context"
	"io"
	"os"
	"strings"
	"testing"

	"github.com/go-quicktest/qt"

	"github.com/snapctl/snapctl/runtime/client"
)

// screen is a [Terminal] that all streams are.
type screen struct {
	raw      int // how often it was made raw, and not restored
	wasRaw   bool
	size     client.Size
	resizeTo []client.Size
}

func (s *screen) Is(any) bool { return true }

func (s *screen) Raw(any) (func() error, error) {
	s.raw++
	s.wasRaw = true
	return func() error {
		s.raw--
		return nil
	}, nil
}

func (s *screen) Size(any) (client.Size, error) { return s.size, nil }

func (s *screen) Resized(ctx context.Context, _ any) <-chan client.Size {
	sizes := make(chan client.Size)
	go func() {
		defer close(sizes)
		for _, size := range s.resizeTo {
			select {
			case sizes <- size:
			case <-ctx.Done():
			}
		}
		<-ctx.Done()
	}()
	return sizes
}

func withApp(t *testing.T) *bench {
	t.Helper()
	b := newBench(t)
	qt.Assert(t, qt.Equals(b.run(t.Context(), "run", "--name", "cache", "--", "redis-server"), OK))
	return b
}

func TestExec(t *testing.T) {
	for name, test := range map[string]struct {
		args     []string
		stdin    string
		code     ExitCode
		out, err string
	}{
		"output":          {args: []string{"cache", "--", "echo", "-n", "a"}, err: "echo -n a\n"},
		"without dashes":  {args: []string{"cache", "echo"}, err: "echo\n"},
		"exit code":       {args: []string{"cache", "--", "exit", "42"}, code: 42},
		"input":           {args: []string{"-i", "cache", "--", "cat"}, stdin: "hello", out: "hello"},
		"input not asked": {args: []string{"cache", "--", "cat"}, stdin: "hello"},
		"environment":     {args: []string{"--env", "A=b", "--env", "HOME", "cache", "--", "env"}, out: "A=b\nHOME=/home/me\n"},
		"no such app": {
			args: []string{"nobody", "--", "ls"}, code: NotFound,
			err: "snapctl: error: app nobody: not found\nsnapctl: hint: `snapctl ps` lists what there is\n",
		},
		"no terminal": {
			args: []string{"-it", "cache", "--", "sh"}, code: Usage,
			err: "snapctl: error: -t with -i: standard input is no terminal\nsnapctl: hint: leave out -t\n",
		},
	} {
		t.Run(name, func(t *testing.T) {
			b := withApp(t)
			b.In = strings.NewReader(test.stdin)
			code := b.run(t.Context(), append([]string{"exec"}, test.args...)...)
			qt.Check(t, qt.Equals(code, test.code))
			qt.Check(t, qt.Equals(b.out.String(), test.out))
			qt.Check(t, qt.Equals(b.err.String(), test.err))
		})
	}
}

func TestExecOnTerminal(t *testing.T) {
	b := withApp(t)
	s := &screen{size: client.Size{Rows: 24, Columns: 80}, resizeTo: []client.Size{{Rows: 50, Columns: 132}}}
	b.Terminal = s
	in, keep := io.Pipe()
	t.Cleanup(func() { qt.Check(t, qt.IsNil(keep.Close())) })
	b.In = in // stays open: the command ends all the same

	qt.Assert(t, qt.Equals(b.run(t.Context(), "exec", "-it", "cache", "--", "size"), OK), qt.Commentf("%s", b.err.String()))
	qt.Assert(t, qt.Equals(b.out.String(), "24x80\n50x132\n"))
	qt.Assert(t, qt.IsTrue(s.wasRaw))
	qt.Assert(t, qt.Equals(s.raw, 0))

	qt.Assert(t, qt.Equals(b.run(t.Context(), "exec", "-t", "cache", "--", "env"), OK))
	qt.Assert(t, qt.Equals(b.out.String(), "TERM=vt100\n"))
}

// A terminal is restored when the command fails, too.
func TestExecRestoresTerminalOnError(t *testing.T) {
	b := newBench(t)
	s := &screen{}
	b.Terminal = s
	qt.Assert(t, qt.Equals(b.run(t.Context(), "exec", "-it", "nobody", "--", "sh"), NotFound))
	qt.Assert(t, qt.IsTrue(s.wasRaw))
	qt.Assert(t, qt.Equals(s.raw, 0))
}

// The program's own standard input is a file which nothing can be written to,
// such as a terminal where nobody types.
func TestOpenInputEndsByClose(t *testing.T) {
	r, w, err := os.Pipe()
	qt.Assert(t, qt.IsNil(err))
	t.Cleanup(func() { qt.Check(t, qt.IsNil(r.Close())) })
	t.Cleanup(func() { qt.Check(t, qt.IsNil(w.Close())) })
	in, err := openInput(r)
	qt.Assert(t, qt.IsNil(err))
	_, err = w.WriteString("a")
	qt.Assert(t, qt.IsNil(err))
	b := make([]byte, 10)
	n, err := in.Read(b)
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.Equals(string(b[:n]), "a"))

	read := make(chan error)
	go func() {
		_, err := in.Read(b)
		read <- err
	}()
	qt.Assert(t, qt.IsNil(in.Close()))
	qt.Assert(t, qt.Equals(<-read, io.EOF))
	_, err = w.WriteString("b") // not taken away by it
	qt.Assert(t, qt.IsNil(err))
	n, err = r.Read(b)
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.Equals(string(b[:n]), "b"))
}

func TestOpenInputEndsWithItsFile(t *testing.T) {
	r, w, err := os.Pipe()
	qt.Assert(t, qt.IsNil(err))
	t.Cleanup(func() { qt.Check(t, qt.IsNil(r.Close())) })
	qt.Assert(t, qt.IsNil(w.Close()))
	in, err := openInput(r)
	qt.Assert(t, qt.IsNil(err))
	_, err = in.Read(make([]byte, 1))
	qt.Assert(t, qt.Equals(err, io.EOF))
	qt.Assert(t, qt.IsNil(in.Close()))
}
