package cli

import (
	"bytes"
	"cmp"
	"context"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/snapctl/snapctl/cmd/internal/output"
	"github.com/snapctl/snapctl/runtime/client"
	"github.com/snapctl/snapctl/runtime/doctor"
)

// noTerminal is a [Terminal] where no stream is one.
type noTerminal struct{}

func (*noTerminal) Is(any) bool                   { return false }
func (*noTerminal) Raw(any) (func() error, error) { return nil, errNoTerminal }
func (*noTerminal) Size(any) (client.Size, error) { return client.Size{}, errNoTerminal }
func (*noTerminal) Resized(context.Context, any) <-chan client.Size {
	none := make(chan client.Size)
	close(none)
	return none
}

// bench is a world with a fake daemon, whose streams can be read.
type bench struct {
	World
	fake     *fake
	out, err bytes.Buffer
}

func newBench(t *testing.T) *bench {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "s")
	b := &bench{fake: &fake{}}
	b.fake.serveFor(t, socket)
	b.World = World{
		In: bytes.NewReader(nil), Out: &b.out, Err: &b.err, Terminal: &noTerminal{},
		Env: func(name string) (string, bool) {
			v, ok := map[string]string{SocketVariable: socket, "HOME": "/home/me", "TERM": "vt100"}[name]
			return v, ok
		},
		Dir:  func() (string, error) { return "/home/me", nil },
		Now:  func() time.Time { return began.Add(2 * time.Minute) },
		Dial: client.Dial, Doctor: healthy, Build: output.Build{Version: "1.2.3", GoVersion: "go1.26.0"},
	}
	return b
}

// healthy is the doctor of a good host, as this process sees it.
func healthy(_ context.Context, opt doctor.Options) []doctor.Check {
	return []doctor.Check{
		{Name: "kernel", Status: doctor.OK, Found: "6.18.0"},
		{Name: "criu", Status: doctor.OK, Found: cmp.Or(strings.Join(opt.CRIU, ""), "/usr/sbin/criu") + " 4.2.1"},
		{Name: "overlay", Status: doctor.Warning, Found: "user 1000 can't see " + opt.StateDir, Remedy: "sudo snapctl doctor"},
	}
}

// run runs a command line and forgets what earlier ones printed.
func (b *bench) run(ctx context.Context, args ...string) ExitCode {
	b.out.Reset()
	b.err.Reset()
	return Run(ctx, b.World, args)
}
