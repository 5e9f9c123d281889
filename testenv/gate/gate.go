// Package gate stops a daemon at named points: it makes plans for the package
// runtime/fault, and is the other side of its pauses.
//
//	g := gate.New(t, h.Dir(), "hibernate.dumped")
//	h.StartDaemon(ctx, host.Daemon{Env: gate.Env(g.Fault())})
//	... start the operation ...
//	stop, err := g.Wait(ctx) // the daemon is at the point
//	... look around, or kill the daemon ...
//	stop.Continue()
package gate

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"time"

	"github.com/snapctl/snapctl/runtime/fault"
	"github.com/snapctl/snapctl/testenv"
)

// Fault is what is to happen at one point, as runtime/fault reads it.
type Fault string

// Kill has the process kill itself at a point.
func Kill(name fault.Name) Fault { return set(name, string(fault.Kill)) }

// Fail has the point fail.
func Fail(name fault.Name) Fault { return set(name, string(fault.Error)) }

func set(name fault.Name, action string) Fault { return Fault(string(name) + "=" + action) }

// Env is the environment of a process in which all of the faults happen.
func Env(faults ...Fault) []string {
	texts := make([]string, len(faults))
	for i, f := range faults {
		texts[i] = string(f)
	}
	return []string{fault.Env + "=" + strings.Join(texts, ",")}
}

// Gate is a point at which processes wait to be let through.
type Gate struct {
	name     fault.Name
	listener *net.UnixListener
}

// New makes a gate for a test, closed after it, as [Open] does.
func New(t testenv.TB, dir string, name fault.Name) *Gate {
	t.Helper()
	g, err := Open(t.Context(), dir, name)
	if err != nil {
		t.Fatalf("open gate: %v", err)
	}
	t.Cleanup(func() {
		if err := g.Close(); err != nil {
			t.Errorf("close gate: %v", err)
		}
	})
	return g
}

// Open makes a gate, a socket in dir, which must be the same directory for the
// process that is to wait: a scratch host's Dir is.
func Open(ctx context.Context, dir string, name fault.Name) (*Gate, error) {
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "unix", filepath.Join(dir, "gate."+string(name)))
	if err != nil {
		return nil, fmt.Errorf("open gate %s: %w", name, err)
	}
	return &Gate{name: name, listener: l.(*net.UnixListener)}, nil //nolint:errcheck // what "unix" makes
}

// Close closes the gate's socket. Who waits at a [Stop] waits on; the point
// fails in a process that comes later.
func (g *Gate) Close() error { return g.listener.Close() }

// Fault has the process wait at the gate.
func (g *Gate) Fault() Fault {
	return set(g.name, string(fault.Pause)+":"+g.listener.Addr().String())
}

// Wait waits until a process is at the gate; one caller at a time. The caller lets it go on by one
// of the Stop's methods.
func (g *Gate) Wait(ctx context.Context) (*Stop, error) {
	var conn net.Conn
	if err := g.listener.SetDeadline(time.Time{}); err != nil {
		return nil, fmt.Errorf("wait at gate %s: %w", g.name, err)
	}
	now := func() { _ = g.listener.SetDeadline(time.Unix(1, 0)) } // ends Accept
	err := interruptible(ctx, now, func() (err error) {
		conn, err = g.listener.Accept()
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("wait at gate %s: %w", g.name, err)
	}
	s := &Stop{name: g.name, conn: conn, r: bufio.NewReader(conn)}
	err = interruptible(ctx, func() { _ = conn.Close() }, func() error {
		_, rerr := s.r.ReadString('\n')
		return rerr
	})
	if err != nil {
		return nil, fmt.Errorf("wait at gate %s: %w", g.name, err)
	}
	return s, nil
}

// Stop is a process that waits at a gate.
type Stop struct {
	name fault.Name
	conn net.Conn
	r    *bufio.Reader
}

// Continue lets the process go on.
func (s *Stop) Continue() error { return s.answer("") }

// Fail has the point fail.
func (s *Stop) Fail() error { return s.answer(string(fault.Error)) }

// Kill has the process kill itself, and waits until it has: the kernel closes
// its end of the socket then.
func (s *Stop) Kill(ctx context.Context) error {
	if _, err := fmt.Fprintln(s.conn, fault.Kill); err != nil {
		return fmt.Errorf("kill at gate %s: %w", s.name, err)
	}
	return s.Gone(ctx)
}

// Gone waits for the end of the process.
func (s *Stop) Gone(ctx context.Context) error {
	err := interruptible(ctx, func() { _ = s.conn.Close() }, func() error {
		_, _ = s.r.ReadByte() // there is no more to read: this waits for the end
		return s.conn.Close()
	})
	if err != nil {
		return fmt.Errorf("wait for death at gate %s: %w", s.name, err)
	}
	return nil
}

func (s *Stop) answer(text string) error {
	_, err := fmt.Fprintln(s.conn, text)
	if cerr := s.conn.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return fmt.Errorf("let go at gate %s: %w", s.name, err)
	}
	return nil
}

// interruptible runs fn, which stop ends when ctx does.
func interruptible(ctx context.Context, stop func(), fn func() error) error {
	cancel := context.AfterFunc(ctx, stop)
	err := fn()
	if !cancel() {
		return ctx.Err()
	}
	return err
}
