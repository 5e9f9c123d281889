// Package clitest has what tests of snapctl's commands need: a [Daemon] that answers the whole API and
// only keeps records, and a [Bench], a world in which commands are run in-process.
package clitest

import (
	"bytes"
	"cmp"
	"context"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/go-quicktest/qt"

	"github.com/snapctl/snapctl/cmd/internal/cli"
	"github.com/snapctl/snapctl/cmd/internal/cli/session"
	"github.com/snapctl/snapctl/cmd/internal/output"
	"github.com/snapctl/snapctl/runtime/client"
	"github.com/snapctl/snapctl/runtime/doctor"
)

// Bench is a world with a fake daemon, whose streams can be read.
type Bench struct {
	session.World
	Daemon         *Daemon
	Stdout, Stderr bytes.Buffer
}

// NewBench returns a world whose daemon has no apps.
func NewBench(t *testing.T) *Bench {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "s")
	b := &Bench{Daemon: &Daemon{}}
	b.Daemon.serveFor(t, socket)
	b.World = session.World{
		In: bytes.NewReader(nil), Out: &b.Stdout, Err: &b.Stderr, Terminal: &NoTerminal{},
		Env: func(name string) (string, bool) {
			v, ok := map[string]string{session.SocketVariable: socket, "HOME": "/home/me", "TERM": "vt100"}[name]
			return v, ok
		},
		Dir:  func() (string, error) { return "/home/me", nil },
		Now:  func() time.Time { return Began.Add(2 * time.Minute) },
		Dial: client.Dial, Doctor: Healthy, Build: output.Build{Version: "1.2.3", GoVersion: "go1.26.0"},
	}
	return b
}

// Healthy is the doctor of a good host, as this process sees it.
func Healthy(_ context.Context, opt doctor.Options) []doctor.Check {
	return []doctor.Check{
		{Name: "kernel", Status: doctor.OK, Found: "6.18.0"},
		{Name: "criu", Status: doctor.OK, Found: cmp.Or(strings.Join(opt.CRIU, ""), "/usr/sbin/criu") + " 4.2.1"},
		{Name: "overlay", Status: doctor.Warning, Found: "user 1000 can't see " + opt.StateDir, Remedy: "sudo snapctl doctor"},
	}
}

// Run runs a command line and forgets what earlier ones printed.
func (b *Bench) Run(ctx context.Context, args ...string) session.ExitCode {
	b.Stdout.Reset()
	b.Stderr.Reset()
	return cli.Run(ctx, b.World, args)
}

// WithApp returns a world with an app called cache, which is running.
func WithApp(t *testing.T) *Bench {
	t.Helper()
	b := NewBench(t)
	qt.Assert(t, qt.Equals(b.Run(t.Context(), "run", "--name", "cache", "--", "redis-server"), session.OK))
	return b
}
