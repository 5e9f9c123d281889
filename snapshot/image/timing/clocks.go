// Package timing puts right what a dump says of time: clocks, timers, and calls that wait.
//
// A dump has of each timer how long it has left. [SetClocks] makes it what it should be now,
// after the processes have been saved for a while, and [PlaceTimers] and [RestartPolls] mend
// what CRIU would not bring back. [Timers] lists the timers of a dump, for somebody who wakes
// it when the first one expires.
package timing

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/snapctl/snapctl/snapshot/image"
	"github.com/snapctl/snapctl/snapshot/image/wire"
)

// A dump has of each timer how long it has left. What follows has restored processes find
// their timers as they should be now, and their clocks.

// Clocks says how time has passed for saved processes.
type Clocks struct {
	SavedAt time.Time // zero: unknown, as in dumps of an older snapctl
	Now     time.Time
	// GoOn has all clocks and timers of the processes count the time since then, as if
	// they had been stopped by a signal. Otherwise CLOCK_MONOTONIC and CLOCK_BOOTTIME
	// stand still while nothing runs, and the timers with them.
	GoOn bool
}

// elapsed is how long the processes have been saved.
func (c Clocks) elapsed() time.Duration {
	if c.SavedAt.IsZero() {
		return 0
	}
	// Without the monotonic clock, which neither outlives a reboot nor counts while the
	// host is suspended.
	return max(0, c.Now.Round(0).Sub(c.SavedAt.Round(0)))
}

// SetClocks makes clocks and timers of a dump what they should be now. If it fails the
// view is only fit to be removed.
func SetClocks(v *image.View, c Clocks) error {
	if err := setTimerFDs(v, c); err != nil {
		return fmt.Errorf("set timers: %w", err)
	}
	passed := c.elapsed()
	if !c.GoOn || passed == 0 {
		return nil
	}
	names, err := image.Names(v.Dir())
	if err != nil {
		return fmt.Errorf("set clocks: %w", err)
	}
	for _, name := range names {
		switch {
		case strings.HasPrefix(name, "core-"):
			err = v.EditAll(name, image.TypeCore, func(msg []byte) ([]byte, error) { return passTimers(msg, passed) })
		case strings.HasPrefix(name, "timens-"):
			err = v.EditAll(name, image.TypeTimens, func(msg []byte) ([]byte, error) { return passNamespace(msg, passed) })
		}
		if err != nil {
			return fmt.Errorf("set clocks: %w", err)
		}
	}
	return nil
}

// A timerSpec is the varint fields of a message that say when a timer expires.
type timerSpec struct {
	sec, fraction           protowire.Number // until it expires
	everySec, everyFraction protowire.Number
	unit                    time.Duration // of the fractions
}

var (
	itimerSpec  = timerSpec{sec: 3, fraction: 4, everySec: 1, everyFraction: 2, unit: time.Microsecond} // itimer_entry
	posixSpec   = timerSpec{sec: 9, fraction: 10, everySec: 7, everyFraction: 8, unit: 1}               // posix_timer_entry
	timerfdSpec = timerSpec{sec: 7, fraction: 8, everySec: 9, everyFraction: 10, unit: 1}               // timerfd_entry
)

// read returns how long a timer has left, 0 if it is not armed, and its interval. Of one
// that repeats and has nothing left CRIU saw the moment at which it expired: it has its
// interval left (timer.c, decode_itimer and decode_posix_timer).
func (s timerSpec) read(fields map[protowire.Number]uint64) (left, every time.Duration) {
	return s.of(fields[s.sec], fields[s.fraction], fields[s.everySec], fields[s.everyFraction])
}

// of is read for fields that have been read already.
func (s timerSpec) of(sec, fraction, everySec, everyFraction uint64) (left, every time.Duration) {
	left, every = s.sum(sec, fraction), s.sum(everySec, everyFraction)
	if left == 0 {
		left = every
	}
	return left, every
}

func (s timerSpec) sum(sec, fraction uint64) time.Duration {
	const most = 1 << 33 // seconds: what is longer never comes
	return time.Duration(min(sec, most))*time.Second + time.Duration(min(fraction, 1e9))*s.unit
}

// write adds how long a timer has left to the fields that are to be set; at least the
// shortest time, since 0 would disarm it.
func (s timerSpec) write(set map[protowire.Number]uint64, left time.Duration) {
	left = max(left, s.unit)
	set[s.sec], set[s.fraction] = uint64(left/time.Second), uint64(left%time.Second/s.unit)
}

// wallClocks are those of timers that count while no process runs. Others count the time
// of processors.
var wallClocks = []uint64{unix.CLOCK_REALTIME, unix.CLOCK_MONOTONIC, unix.CLOCK_BOOTTIME, unix.CLOCK_REALTIME_ALARM, unix.CLOCK_BOOTTIME_ALARM, unix.CLOCK_TAI}

const (
	timersReal   protowire.Number = 1 // task_timers_entry.real
	posixClock   protowire.Number = 2 // posix_timer_entry.clock_id
	timerfdClock protowire.Number = 4 // timerfd_entry.clockid
	timerfdTicks protowire.Number = 5
	timerfdFlags protowire.Number = 6 // as in timerfd_settime(2)

	fileTimerFD      = 17                   // fd_types.TIMERFD
	fileEntryTimerFD = protowire.Number(12) // file_entry.tfd
)

// soonest is when at last a timer sends its signal that expired while the processes were
// saved: by then they run. A signal that comes before is there when they return to the
// system call in which they were interrupted, and CRIU has them begin that anew
// (compel/arch/x86/src/lib/infect.c, get_task_regs): pause(2) and others would not end for
// it. A timer that expires again sooner needs no such care, and neither does a timerfd,
// which stays readable.
const soonest = time.Second

// passTimers has the timers of a core_entry count the time that has passed.
func passTimers(msg []byte, passed time.Duration) ([]byte, error) {
	pass := func(spec timerSpec) func([]byte) ([]byte, error) {
		return func(msg []byte) ([]byte, error) {
			fields, err := wire.Varints(msg)
			if err != nil {
				return nil, err
			}
			left, every := spec.read(fields)
			if left == 0 || spec == posixSpec && !slices.Contains(wallClocks, fields[posixClock]) {
				return msg, nil
			}
			set := make(map[protowire.Number]uint64, 2)
			spec.write(set, max(left-passed, min(left, soonest, cmp.Or(every, soonest))))
			return wire.ReplaceVarints(msg, set)
		}
	}
	out, err := wire.EditAt(msg, []protowire.Number{coreTask, taskTimers, timersReal}, pass(itimerSpec))
	if err != nil {
		return nil, err
	}
	return wire.EditAt(out, timersPath, pass(posixSpec))
}

// passNamespace has the clocks of a timens_entry, which are timespecs, go on.
func passNamespace(msg []byte, passed time.Duration) ([]byte, error) {
	for clock := protowire.Number(1); clock <= 2; clock++ { // monotonic, boottime
		var err error
		msg, err = wire.EditAt(msg, []protowire.Number{clock}, func(spec []byte) ([]byte, error) {
			fields, err := wire.Varints(spec)
			if err != nil {
				return nil, err
			}
			fraction := time.Duration(fields[2]) + passed
			return wire.ReplaceVarints(spec, map[protowire.Number]uint64{1: fields[1] + uint64(fraction/time.Second), 2: uint64(fraction % time.Second)})
		})
		if err != nil {
			return nil, err
		}
	}
	return msg, nil
}

// setTimerFDs makes the timerfds of files.img what they should be now.
func setTimerFDs(v *image.View, c Clocks) error {
	return v.EditAll("files.img", image.TypeFiles, func(msg []byte) ([]byte, error) {
		return wire.EditAt(msg, []protowire.Number{fileEntryTimerFD}, c.timerfd)
	})
}

// timerfd edits a timerfd_entry, of which CRIU 4.2 makes something else in these cases
// (criu/pie/restorer.c, timerfd_arm):
//
//   - One that repeats, and had expired unread: the kernel starts it again when it is
//     read (fs/timerfd.c, timerfd_read_iter), and tells until then that it has nothing
//     left (timerfd_show), with which CRIU disarms it for ever.
//   - One that was set to an absolute time: CRIU adds what is left to the whole seconds
//     of the clock. It comes up to a second early; and one that is not armed expires at
//     once. Clocks that nobody can set need no absolute time.
//   - One that was set to an absolute time of the calendar: CRIU puts it off by as long as
//     the processes were saved.
func (c Clocks) timerfd(msg []byte) ([]byte, error) {
	fields, err := wire.Varints(msg)
	if err != nil {
		return nil, err
	}
	set := make(map[protowire.Number]uint64)
	left, _ := timerfdSpec.read(fields)
	absolute := fields[timerfdFlags]&unix.TFD_TIMER_ABSTIME != 0
	calendar := absolute && (fields[timerfdClock] == unix.CLOCK_REALTIME || fields[timerfdClock] == unix.CLOCK_REALTIME_ALARM)
	armed := left > 0
	if armed && (c.GoOn || calendar) {
		left = max(1, left-c.elapsed())
	}
	if left != timerfdSpec.sum(fields[timerfdSpec.sec], fields[timerfdSpec.fraction]) {
		timerfdSpec.write(set, left)
	}
	switch {
	case calendar && armed:
		// CRIU adds the whole seconds of the time at which it sets the timer: it comes
		// late by those that have begun since now, and never early.
		at := c.Now.Add(left)
		set[timerfdSpec.sec], set[timerfdSpec.fraction] = uint64(at.Unix()-c.Now.Unix()), uint64(at.Nanosecond())
	case absolute:
		set[timerfdFlags] = fields[timerfdFlags] &^ unix.TFD_TIMER_ABSTIME
	}
	return wire.ReplaceVarints(msg, set)
}
