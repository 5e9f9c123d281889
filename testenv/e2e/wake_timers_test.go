package e2e

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/go-quicktest/qt"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/snapctl/snapctl/runtime/api"
)

// alarmClock sets a timer when it is told so, and tells how often its timers have expired,
// and whether one did so before it should have, by the clock of the app.
const alarmClock = `import ctypes, os, select, signal, socket, struct, time
libc = ctypes.CDLL(None)
fd = libc.timerfd_create(1, 0o4000)
fired, due, early = {"timerfd": 0, "itimer": 0}, {}, False
def ring(kind, times):
    global early
    fired[kind] += times
    early = early or time.monotonic() < due[kind]
signal.signal(signal.SIGALRM, lambda *_: ring("itimer", 1))
ask = socket.create_server(("0.0.0.0", 7000))
while True:
    ready = select.select([fd, ask], [], [])[0]
    if fd in ready: ring("timerfd", struct.unpack("q", os.read(fd, 8))[0])
    if ask in ready:
        c = ask.accept()[0]
        kind, seconds = c.recv(99).decode().split()
        if kind != "none": fired[kind], due[kind] = 0, time.monotonic() + int(seconds)
        if kind == "timerfd": libc.timerfd_settime(fd, 1, struct.pack("llll", 0, 0, int(due[kind]) + 1, 0), None) # absolute
        if kind == "itimer": signal.setitimer(signal.ITIMER_REAL, int(seconds))
        c.sendall(b"%d %d %s\n" % (fired["timerfd"], fired["itimer"], b"early" if early else b"right"))
        c.close()`

const alarmEndpoint = "10.77.0.61"

// alarmed asks the alarm clock.
func (w *World) alarmed(order string) (timerfd, itimer int, when string) {
	w.t.Helper()
	c := w.Connect(alarmEndpoint, 7000)
	defer c.Close()
	_, err := c.Write([]byte(order))
	qt.Assert(w.t, qt.IsNil(err))
	_, err = fmt.Fscanf(c, "%d %d %s\n", &timerfd, &itimer, &when)
	qt.Assert(w.t, qt.IsNil(err))
	return timerfd, itimer, when
}

// TestWakeTimers has an app's own timer wake it: after a new daemon has begun, too, and
// after all that was held is lost, as in a reboot. The timer expires once.
func TestWakeTimers(t *testing.T) {
	w := New(t, "python3")
	wake := &api.WakePolicy{Mode: api.WakeMode_WAKE_MODE_NEVER, Timers: true}
	w.Run(&api.RunRequest{Name: "clock", Endpoint: alarmEndpoint, Wake: wake, Args: []string{"python3", "-c", alarmClock}})
	for _, test := range []struct {
		kind, timer string
		meanwhile   func()
	}{
		{"timerfd", "timerfd in descriptor", func() {}},
		{"itimer", "ITIMER_REAL", w.killDaemon},
		{"itimer", "ITIMER_REAL", w.loseHolder},
	} {
		w.Until("it is hibernated before its timer expires", func() error {
			w.alarmed(test.kind + " 4")
			r := w.Hibernate("clock")
			qt.Assert(t, qt.HasLen(r.GetNotes(), 0))
			if a := r.GetApp().GetAlarm(); a != nil {
				qt.Assert(t, qt.StringContains(a.GetTimer(), test.timer))
				qt.Assert(t, qt.StringContains(a.GetTimer(), "of process "))
				return nil
			}
			w.Running("clock")
			return errors.New("it expired before")
		})
		test.meanwhile()
		w.Until("its timer wakes it", func() error {
			if a := w.Show("clock"); a.GetStatus() != api.Status_STATUS_RUNNING || a.GetWokenBy() != "timer" {
				return fmt.Errorf("it is %s, woken by %q", a.GetStatus(), a.GetWokenBy())
			}
			return nil
		})
		w.Until("the timer expires", func() error {
			timerfd, itimer, when := w.alarmed("none 0")
			n := map[string]int{"timerfd": timerfd, "itimer": itimer}[test.kind]
			qt.Assert(t, qt.IsTrue(n <= 1))
			qt.Assert(t, qt.Equals(when, "right"))
			if n == 0 {
				return errors.New("it has not expired")
			}
			return nil
		})
	}
	qt.Assert(t, qt.StringContains(w.DaemonLog(), "reason=timer"))

	// An alarm that nobody heeds is told, and so is that nothing is left that could wake.
	w.Run(&api.RunRequest{Name: "deaf", Args: []string{"python3", "-c", "import signal; signal.setitimer(signal.ITIMER_REAL, 3600, 60); signal.pause()"}})
	var r *api.Result
	w.Until("its timer is set", func() error {
		if r = w.Hibernate("deaf"); r.GetApp().GetAlarm() == nil {
			w.Wake("deaf")
			return errors.New("it has not begun")
		}
		return nil
	})
	var notes []string
	for _, n := range r.GetNotes() {
		notes = append(notes, n.GetText())
	}
	qt.Assert(t, qt.HasLen(notes, 2))
	qt.Assert(t, qt.Matches(notes[0], `ITIMER_REAL of process \d+ \(python3\) would expire at \S+Z, and each 1m0s after that: .*`))
	qt.Assert(t, qt.StringContains(notes[1], "nothing but `snapctl wake deaf` can wake it"))
}

// TestIdleWithTimers has apps that only a timer can wake sleep when they are idle, if it
// may, and stay awake if none is armed.
func TestIdleWithTimers(t *testing.T) {
	w := New(t, "python3")
	idle := func(name, program string) {
		w.Run(&api.RunRequest{
			Name: name, Wake: &api.WakePolicy{Timers: true}, HibernateAfter: durationpb.New(200 * time.Millisecond),
			Args: []string{"python3", "-c", "import signal, time\n" + program},
		})
	}
	idle("rings", "signal.signal(signal.SIGALRM, lambda *_: print('rings', flush=True))\nsignal.setitimer(signal.ITIMER_REAL, 8, 8)\nwhile True: signal.pause()")
	idle("sleeps", "time.sleep(1000)")
	w.Until("it sleeps and wakes by itself", func() error {
		if a := w.Show("rings"); a.GetWokenBy() != "timer" {
			return fmt.Errorf("it is %s, woken by %q, awake: %s, error: %s", a.GetStatus(), a.GetWokenBy(), a.GetAwake(), a.GetError())
		}
		return nil
	})
	w.Until("its timer expires", func() error {
		if !strings.Contains(w.OK("logs", "rings"), "rings") {
			return errors.New("it has not")
		}
		return nil
	})
	w.Until("the other stays awake", func() error {
		if a := w.Show("sleeps"); !strings.Contains(a.GetAwake(), "no timer is armed") {
			return fmt.Errorf("it is %s, awake: %s", a.GetStatus(), a.GetAwake())
		}
		return nil
	})
}
