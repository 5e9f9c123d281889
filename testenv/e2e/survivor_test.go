package e2e

import (
	"bufio"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-quicktest/qt"
	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/runtime/api"
	"github.com/snapctl/snapctl/testenv/host"
)

// survivor is a connection to the program that knows what it had before; see
// testenv/cmd/survivor.
type survivor struct {
	t    *testing.T
	conn net.Conn
	in   *bufio.Reader
}

// in is the world for a subtest, at whose end no app is left.
func (w *World) in(t *testing.T) *World {
	t.Helper()
	sub := *w
	sub.t = t
	t.Cleanup(func() {
		sub.RemoveAll()
		w.API = sub.API // it may have met a new daemon
	})
	return &sub
}

// killDaemon has a new daemon take over after the old one's sudden death.
func (w *World) killDaemon() {
	w.t.Helper()
	qt.Assert(w.t, qt.IsNil(w.RestartDaemon(w.t.Context(), unix.SIGKILL, host.Daemon{})))
	qt.Assert(w.t, qt.IsNil(w.API.Close()))
	w.Dial()
}

const (
	survivorEndpoint = "10.77.0.20"
	copyEndpoint     = "10.77.0.21"
)

// survivor runs a survivor as an app.
func (w *World) survivor(name string, binds ...*api.Bind) *survivor {
	w.t.Helper()
	path, err := w.Install(w.t.Context(), "survivor")
	qt.Assert(w.t, qt.IsNil(err))
	w.Run(&api.RunRequest{
		Name: name, Endpoint: survivorEndpoint, Args: []string{path}, Binds: binds,
		Wake: &api.WakePolicy{Mode: api.WakeMode_WAKE_MODE_NEVER},
	})
	return w.control(survivorEndpoint)
}

// control connects to a survivor.
func (w *World) control(endpoint string) *survivor {
	w.t.Helper()
	conn := w.Connect(endpoint, 7000)
	return &survivor{w.t, conn, bufio.NewReader(conn)}
}

// ask sends a command and returns the answer.
func (s *survivor) ask(format string, args ...any) string {
	s.t.Helper()
	qt.Assert(s.t, qt.IsNil(s.conn.SetDeadline(time.Now().Add(30*time.Second))))
	_, err := fmt.Fprintf(s.conn, format+"\n", args...)
	qt.Assert(s.t, qt.IsNil(err))
	answer, err := s.in.ReadString('\n')
	qt.Assert(s.t, qt.IsNil(err))
	return strings.TrimSpace(answer)
}

// ok sends a command that must succeed.
func (s *survivor) ok(format string, args ...any) {
	s.t.Helper()
	qt.Assert(s.t, qt.Equals(s.ask(format, args...), "ok"), qt.Commentf("%s", fmt.Sprintf(format, args...)))
}

// ordeals are what an app has to survive: one of them that is drawn, or all if [Rounds] is
// set.
func ordeals(t *testing.T) map[string]func(w *World, app string) {
	t.Helper()
	all := map[string]func(*World, string){
		"hibernate and wake": func(w *World, app string) {
			w.Hibernate(app)
			w.Wake(app)
		},
		"hibernate, kill daemon, wake": func(w *World, app string) {
			w.Hibernate(app)
			w.killDaemon()
			w.Wake(app)
		},
		"kill daemon, hibernate and wake twice": func(w *World, app string) {
			w.killDaemon()
			for range 2 {
				w.Hibernate(app)
				w.Wake(app)
			}
		},
	}
	if os.Getenv(Rounds) != "" {
		return all
	}
	names := slices.Sorted(maps.Keys(all))
	name := names[seeded(t).IntN(len(names))]
	return map[string]func(*World, string){name: all[name]}
}

// A trial is one thing that must survive.
type trial struct {
	arg string // for check
	// noCopy says why a copy that is restored from a snapshot can't have it.
	noCopy string
}

// survive proves that each thing survives each ordeal, and that a snapshot of
// it has it too, while the app goes on.
func survive(t *testing.T, trials map[string]trial) {
	t.Helper()
	w := New(t)
	for thing, trial := range trials {
		t.Run(thing, func(t *testing.T) {
			for name, ordeal := range ordeals(t) {
				t.Run(name, func(t *testing.T) {
					w := w.in(t)
					s := w.survivor("survivor")
					s.ok("setup %s", thing)
					ordeal(w, "survivor")
					s.ok("check %s %s", thing, trial.arg)
				})
			}
			t.Run("snapshot and restore", func(t *testing.T) {
				w := w.in(t)
				s := w.survivor("survivor")
				s.ok("setup %s", thing)
				_, err := w.API.TakeSnapshot(t.Context(), &api.SnapshotRequest{App: "survivor", Name: "saved"}, nil)
				qt.Assert(t, qt.IsNil(err))
				s.ok("check %s %s", thing, trial.arg)
				if trial.noCopy != "" {
					t.Skip(trial.noCopy)
				}
				_, err = w.API.Restore(t.Context(), &api.RestoreRequest{Snapshot: "saved", As: "copy", Endpoint: copyEndpoint}, nil)
				qt.Assert(t, qt.IsNil(err))
				w.control(copyEndpoint).ok("check %s copy", thing)
			})
		})
	}
}

// loseHolder ends the daemon and what holds for it, and starts a new one: all
// that was held is lost, as in a reboot.
func (w *World) loseHolder() {
	w.t.Helper()
	conn, err := w.DialContext(w.t.Context(), "unixpacket", w.Outside(host.RunDir+"/holder.sock"))
	qt.Assert(w.t, qt.IsNil(err))
	raw, err := conn.(*net.UnixConn).SyscallConn()
	qt.Assert(w.t, qt.IsNil(err))
	var cred *unix.Ucred
	var cerr error
	err = raw.Control(func(fd uintptr) { cred, cerr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) })
	qt.Assert(w.t, qt.IsNil(errors.Join(err, cerr, conn.Close(), w.KillDaemon(w.t.Context(), unix.SIGKILL))))
	pidfd, err := unix.PidfdOpen(int(cred.Pid), 0)
	qt.Assert(w.t, qt.IsNil(err))
	defer unix.Close(pidfd)
	qt.Assert(w.t, qt.IsNil(unix.PidfdSendSignal(pidfd, unix.SIGKILL, nil, 0)))
	_, err = unix.Poll([]unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}, 10_000)
	qt.Assert(w.t, qt.IsNil(err))
	qt.Assert(w.t, qt.IsNil(w.StartDaemon(w.t.Context(), host.Daemon{})))
	qt.Assert(w.t, qt.IsNil(w.API.Close()))
	w.Dial()
}
