// Package alarm finds the first timer of a saved app that expires while it sleeps, and
// waits for that moment.
//
// Nouns: an [Alarm] is one timer, and when it expires by the clock of the host.
//
// The images have of each timer how long it has left. The manifest has when that was, and which
// timer is the first. A held app's record has the alarm too, so that a new daemon waits for it,
// also after a reboot, by the clock of the calendar. At the wake timing.SetClocks tells the
// images that time has passed: what timers have left gets less, and the time namespace's
// CLOCK_MONOTONIC and CLOCK_BOOTTIME go on by as much, since many programs look at the clock
// when a timer has expired. All of this is for apps with --wake-timers. For others clocks and
// timers stand still while the app sleeps.
package alarm

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/snapshot/image/timing"
)

// Alarm is the first timer of a saved app to expire.
type Alarm struct {
	At    time.Time `json:"at"`
	Timer string    `json:"timer"` // which, in words: "ITIMER_REAL of process 12 (cron)"
	// Every is how often it expires; 0: once.
	Every time.Duration `json:"every_ns,omitempty"`
}

// Lead is how long before its first timer expires an app is woken: it should run, and wait
// as it did, when the timer does. A signal that comes while it is being made again reaches
// it before it is back in the call that it slept in, which then sleeps on: pause(2) does
// not return for it.
const Lead = 2 * time.Second

// Wake is when the app is woken for the alarm.
func (a *Alarm) Wake() time.Time { return a.At.Add(-Lead) }

// First finds the first timer of a dump, whose processes were saved at a moment. It
// returns nil if none is armed; see [timing.Timers] for which count.
func First(images string, saved time.Time) (*Alarm, error) {
	timers, err := timing.Timers(images)
	if err != nil {
		return nil, err
	}
	var first *timing.Timer
	for i := range timers {
		if t := &timers[i]; first == nil || t.Left < first.Left {
			first = t
		}
	}
	if first == nil {
		return nil, nil
	}
	return &Alarm{At: saved.Round(0).Add(first.Left), Timer: describe(first), Every: first.Every}, nil
}

func describe(t *timing.Timer) string {
	switch {
	case t.PID == 0:
		return t.Name
	case t.Program == "":
		return fmt.Sprintf("%s of process %d", t.Name, t.PID)
	default:
		return fmt.Sprintf("%s of process %d (%s)", t.Name, t.PID, t.Program)
	}
}

// Wait waits until a moment of the calendar, also if that is set, or the host is
// suspended meanwhile: after that it returns at once. It returns an error wrapping that of
// ctx if that ends first.
func Wait(ctx context.Context, at time.Time) (err error) {
	if err := ctx.Err(); err != nil {
		return err
	}
	fd, err := unix.TimerfdCreate(unix.CLOCK_REALTIME, unix.TFD_CLOEXEC|unix.TFD_NONBLOCK)
	if err != nil {
		return fmt.Errorf("wait until %s: %w", at, err)
	}
	// Non-blocking, so that it waits in the Go runtime's poller.
	f := os.NewFile(uintptr(fd), "timerfd")
	defer func() { err = errors.Join(err, f.Close()) }()
	value := unix.NsecToTimespec(max(at.UnixNano(), 1)) // 0 would not set it
	if err := unix.TimerfdSettime(fd, unix.TFD_TIMER_ABSTIME, &unix.ItimerSpec{Value: value}, nil); err != nil {
		return fmt.Errorf("wait until %s: %w", at, err)
	}
	stop := context.AfterFunc(ctx, func() { _ = f.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	if _, err := f.Read(make([]byte, binary.Size(uint64(0)))); err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return fmt.Errorf("wait until %s: %w", at, err)
	}
	return nil
}
