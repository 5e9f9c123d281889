package fault

import (
	"bufio"
	"context"
	"go/ast"
	"go/parser"
	"go/token"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"testing"

	"github.com/go-quicktest/qt"
)

func TestParse(t *testing.T) {
	tests := map[string]struct {
		text string
		want map[Name]step
		err  string
	}{
		"empty": {},
		"one":   {text: "wake.after-restore=kill", want: map[Name]step{WakeAfterRestore: {action: Kill}}},
		"all": {
			text: "wake.after-restore=kill, wake.before-restore=error,hibernate.after-dump=pause:/a:b",
			want: map[Name]step{
				WakeAfterRestore: {action: Kill}, WakeBeforeRestore: {action: Error},
				HibernateAfterDump: {action: Pause, path: "/a:b"},
			},
		},
		"no action":       {text: "wake.after-restore", err: ".*want NAME=ACTION"},
		"unknown name":    {text: "wake.sometime=kill", err: ".*no point has this name"},
		"unknown action":  {text: "wake.after-restore=explode", err: ".*want kill, error or pause:PATH"},
		"pause nowhere":   {text: "wake.after-restore=pause", err: ".*want kill, error or pause:PATH"},
		"kill with a way": {text: "wake.after-restore=kill:9", err: ".*want kill, error or pause:PATH"},
		"trailing comma":  {text: "wake.after-restore=kill,", err: ".*want NAME=ACTION"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			got, err := Parse(tt.text)
			if tt.err != "" {
				qt.Assert(t, qt.ErrorMatches(err, tt.err))
				return
			}
			qt.Assert(t, qt.IsNil(err))
			qt.Check(t, qt.Equals(len(got.steps), len(tt.want)))
			for n, s := range tt.want {
				qt.Check(t, qt.Equals(got.steps[n], s))
			}
		})
	}
}

// TestNames reads the source: a constant that is missing in the list would be
// refused by Parse and skipped by every test that visits all points.
func TestNames(t *testing.T) {
	file, err := parser.ParseFile(token.NewFileSet(), "names.go", nil, 0)
	qt.Assert(t, qt.IsNil(err))
	var want []Name
	ast.Inspect(file, func(n ast.Node) bool {
		if lit, ok := n.(*ast.BasicLit); ok && lit.Kind == token.STRING {
			text, err := strconv.Unquote(lit.Value)
			qt.Assert(t, qt.IsNil(err))
			if text != "slices" {
				want = append(want, Name(text))
			}
		}
		return true
	})
	qt.Check(t, qt.DeepEquals(Names(), want))
	seen := make(map[Name]bool)
	for _, n := range want {
		qt.Check(t, qt.IsFalse(seen[n]), qt.Commentf("%s", n))
		seen[n] = true
		qt.Check(t, qt.IsTrue(regexp.MustCompile(`^[a-z]+\.[a-z-]+$`).MatchString(string(n))), qt.Commentf("%s", n))
	}
}

func plan(t *testing.T, text string) context.Context {
	t.Helper()
	p, err := Parse(text)
	qt.Assert(t, qt.IsNil(err))
	return With(t.Context(), p)
}

func TestPointInactive(t *testing.T) {
	qt.Check(t, qt.IsNil(Point(t.Context(), WakeAfterRestore)))
	qt.Check(t, qt.IsNil(Point(plan(t, "wake.before-restore=error"), WakeAfterRestore)))
}

func TestPointError(t *testing.T) {
	err := Point(plan(t, "wake.after-restore=error"), WakeAfterRestore)
	qt.Check(t, qt.ErrorIs(err, ErrInjected))
	qt.Check(t, qt.ErrorMatches(err, "at wake.after-restore: injected fault"))
}

func TestPointKillFromEnvironment(t *testing.T) {
	if os.Getenv(Env) != "" {
		_ = Point(t.Context(), WakeAfterRestore)
		return // a failure: the parent expects a signal
	}
	self, err := os.Executable()
	qt.Assert(t, qt.IsNil(err))
	cmd := exec.CommandContext(t.Context(), self, "-test.run", "^TestPointKillFromEnvironment$")
	cmd.Env = append(os.Environ(), Env+"=wake.after-restore=kill")
	qt.Check(t, qt.ErrorMatches(cmd.Run(), "signal: killed"))
}

func TestPointPause(t *testing.T) {
	tests := map[string]struct {
		answer string
		want   error
	}{
		"go on":  {answer: "\n"},
		"closed": {},
		"error":  {answer: "error\n", want: ErrInjected},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "gate")
			l, err := new(net.ListenConfig).Listen(t.Context(), "unix", path)
			qt.Assert(t, qt.IsNil(err))
			defer l.Close()
			result := make(chan error, 1)
			ctx := plan(t, "wake.after-restore=pause:"+path)
			go func() { result <- Point(ctx, WakeAfterRestore) }()

			conn, err := l.Accept()
			qt.Assert(t, qt.IsNil(err))
			line, err := bufio.NewReader(conn).ReadString('\n')
			qt.Assert(t, qt.IsNil(err))
			qt.Check(t, qt.Equals(line, "wake.after-restore\n"))
			select {
			case early := <-result:
				t.Fatalf("Point did not wait: %v", early)
			default:
			}
			_, err = conn.Write([]byte(tt.answer))
			qt.Assert(t, qt.IsNil(err))
			qt.Assert(t, qt.IsNil(conn.Close()))
			qt.Check(t, qt.ErrorIs(<-result, tt.want))
		})
	}
}

func TestPointPauseEnds(t *testing.T) {
	path := filepath.Join(t.TempDir(), "gate")
	ctx := plan(t, "wake.after-restore=pause:"+path)
	qt.Check(t, qt.ErrorMatches(Point(ctx, WakeAfterRestore), "pause at wake.after-restore: dial unix .*"))

	l, err := new(net.ListenConfig).Listen(t.Context(), "unix", path)
	qt.Assert(t, qt.IsNil(err))
	defer l.Close()
	ctx, cancel := context.WithCancel(ctx)
	go func() {
		conn, err := l.Accept()
		if err == nil {
			defer conn.Close()
			_, _ = bufio.NewReader(conn).ReadString('\n')
		}
		cancel()
	}()
	qt.Check(t, qt.ErrorIs(Point(ctx, WakeAfterRestore), context.Canceled))
}

func BenchmarkPointInactive(b *testing.B) {
	for b.Loop() {
		_ = Point(b.Context(), WakeAfterRestore)
	}
}
