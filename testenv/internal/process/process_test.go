package process

import (
	"context"
	"os"
	"os/exec"
	"testing"

	"github.com/go-quicktest/qt"
)

func TestParse(t *testing.T) {
	const tail = " 0 0 0 0 0 0 0 0 0 0 0 0 0 0 20 0 1 4711 0 0"
	tests := map[string]struct {
		stat string
		want Proc
		fail bool
	}{
		"plain":        {stat: "42 (sleep) S 1" + tail, want: Proc{PID: 42, PPID: 1, Comm: "sleep", State: 'S', Start: 4711}},
		"nasty name":   {stat: "42 (a) R (b) S 1" + tail, want: Proc{PID: 42, PPID: 1, Comm: "a) R (b", State: 'S', Start: 4711}},
		"empty":        {fail: true},
		"no name":      {stat: "42 sleep S 1" + tail, fail: true},
		"short":        {stat: "42 (sleep) S 1", fail: true},
		"not a number": {stat: "42 (sleep) S x" + tail, fail: true},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			got, err := parse(tt.stat)
			qt.Check(t, qt.Equals(err != nil, tt.fail))
			qt.Check(t, qt.Equals(got, tt.want))
		})
	}
}

func TestHandle(t *testing.T) {
	self, err := Get(os.Getpid())
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.Equals(self.PPID, os.Getppid()))

	child := exec.CommandContext(t.Context(), "sleep", "1005")
	qt.Assert(t, qt.IsNil(child.Start()))
	h, err := Open(child.Process.Pid)
	qt.Assert(t, qt.IsNil(err))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	qt.Check(t, qt.ErrorIs(h.Wait(ctx), context.Canceled))
	qt.Assert(t, qt.IsNil(h.Kill()))
	qt.Assert(t, qt.IsNil(h.Wait(t.Context())))
	qt.Check(t, qt.ErrorMatches(child.Wait(), "signal: killed"))
	qt.Check(t, qt.IsNil(h.Kill())) // whoever has the id now is another process
	qt.Check(t, qt.IsNil(h.Close()))

	_, err = Open(child.Process.Pid)
	qt.Check(t, qt.ErrorIs(err, ErrGone))
	_, err = Get(child.Process.Pid)
	qt.Check(t, qt.ErrorIs(err, ErrGone))
}
