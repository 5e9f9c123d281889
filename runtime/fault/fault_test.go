package fault

import (
	"bufio"
	"context"
	"net"
	"os"
	"os/exec"
	"path/filepath"
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
		"one":   {text: "wake.restored=kill", want: map[Name]step{"wake.restored": {action: Kill}}},
		"all": {
			text: "wake.restored=kill, wake.starting=error,hibernate.dumped=pause:/a:b",
			want: map[Name]step{
				"wake.restored": {action: Kill}, "wake.starting": {action: Error},
				"hibernate.dumped": {action: Pause, path: "/a:b"},
			},
		},
		"no action":       {text: "wake.restored", err: ".*want NAME=ACTION"},
		"unknown action":  {text: "wake.restored=explode", err: ".*want kill, error or pause:PATH"},
		"pause nowhere":   {text: "wake.restored=pause", err: ".*want kill, error or pause:PATH"},
		"kill with a way": {text: "wake.restored=kill:9", err: ".*want kill, error or pause:PATH"},
		"trailing comma":  {text: "wake.restored=kill,", err: ".*want NAME=ACTION"},
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

func plan(t *testing.T, text string) context.Context {
	t.Helper()
	p, err := Parse(text)
	qt.Assert(t, qt.IsNil(err))
	return With(t.Context(), p)
}

func TestPointInactive(t *testing.T) {
	qt.Check(t, qt.IsNil(Point(t.Context(), "wake.restored")))
	qt.Check(t, qt.IsNil(Point(plan(t, "wake.starting=error"), "wake.restored")))
}

func TestPointError(t *testing.T) {
	err := Point(plan(t, "wake.restored=error"), "wake.restored")
	qt.Check(t, qt.ErrorIs(err, ErrInjected))
	qt.Check(t, qt.ErrorMatches(err, "at wake.restored: injected fault"))
}

func TestPointKillFromEnvironment(t *testing.T) {
	if os.Getenv(Env) != "" {
		_ = Point(t.Context(), "wake.restored")
		return // a failure: the parent expects a signal
	}
	self, err := os.Executable()
	qt.Assert(t, qt.IsNil(err))
	cmd := exec.CommandContext(t.Context(), self, "-test.run", "^TestPointKillFromEnvironment$")
	cmd.Env = append(os.Environ(), Env+"=wake.restored=kill")
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
			ctx := plan(t, "wake.restored=pause:"+path)
			go func() { result <- Point(ctx, "wake.restored") }()

			conn, err := l.Accept()
			qt.Assert(t, qt.IsNil(err))
			line, err := bufio.NewReader(conn).ReadString('\n')
			qt.Assert(t, qt.IsNil(err))
			qt.Check(t, qt.Equals(line, "wake.restored\n"))
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
	ctx := plan(t, "wake.restored=pause:"+path)
	qt.Check(t, qt.ErrorMatches(Point(ctx, "wake.restored"), "pause at wake.restored: dial unix .*"))

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
	qt.Check(t, qt.ErrorIs(Point(ctx, "wake.restored"), context.Canceled))
}

func BenchmarkPointInactive(b *testing.B) {
	for b.Loop() {
		_ = Point(b.Context(), "wake.restored")
	}
}
