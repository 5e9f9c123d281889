package timing

import (
	"encoding/binary"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"

	core "github.com/checkpoint-restore/go-criu/v8/crit/images/criu-core"
	"github.com/checkpoint-restore/go-criu/v8/crit/images/fdinfo"
	"github.com/checkpoint-restore/go-criu/v8/crit/images/siginfo"
	"github.com/checkpoint-restore/go-criu/v8/crit/images/timer"
	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/snapshot/image"
)

// Timer is an armed timer of a dump, of a clock that goes on when no process runs.
type Timer struct {
	PID     int    // of the process, as the app knows it; 0 for a timerfd that is in no descriptor table
	Program string // the name of the process; of a timerfd empty
	Name    string // "ITIMER_REAL", "POSIX timer 3", "timerfd in descriptor 5"
	Left    time.Duration
	Every   time.Duration // 0: it expires once
}

// Timers lists the armed timers of a dump: ITIMER_REAL, POSIX timers that tell somebody,
// and timerfds. One that has expired, and nobody has noticed yet, has nothing left. Timers
// of processor time are not among them. Of system calls that wait for a time, such as
// nanosleep(2), poll(2) and futex(2), a dump has no time.
func Timers(images string) ([]Timer, error) {
	names, err := image.Names(images)
	if err != nil {
		return nil, fmt.Errorf("list timers: %w", err)
	}
	slices.Sort(names)
	var out []Timer
	for _, name := range names {
		if !strings.HasPrefix(name, "core-") {
			continue
		}
		of, err := coreTimers(images, name)
		if err != nil {
			return nil, fmt.Errorf("list timers: %w", err)
		}
		out = append(out, of...)
	}
	fds, err := timerFDs(images, names)
	if err != nil {
		return nil, fmt.Errorf("list timers: %w", err)
	}
	return append(out, fds...), nil
}

// coreTimers lists those of one process or thread.
func coreTimers(images, name string) ([]Timer, error) {
	pid, err := image.CoreID(name)
	if err != nil {
		return nil, err
	}
	records, err := image.ReadRecords(filepath.Join(images, name), image.TypeCore)
	if err != nil || len(records) == 0 {
		return nil, err
	}
	entry, err := image.Unmarshal[core.CoreEntry](records[0].Message)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	task := entry.GetTc()
	program := task.GetComm()
	if program == "" {
		program = entry.GetThreadCore().GetComm()
	}
	var out []Timer
	add := func(name string, left, every time.Duration) {
		out = append(out, Timer{PID: pid, Program: program, Name: name, Left: left, Every: every})
	}
	if real := task.GetTimers().GetReal(); real != nil {
		left, every := itimerSpec.of(real.GetVsec(), real.GetVusec(), real.GetIsec(), real.GetIusec())
		if left > 0 {
			add("ITIMER_REAL", left, every)
		}
	}
	for _, t := range task.GetTimers().GetPosix() {
		left, every := posixSpec.of(t.GetVsec(), t.GetVnsec(), t.GetIsec(), t.GetInsec())
		if left > 0 && tells(t) {
			add(fmt.Sprintf("POSIX timer %d", t.GetItId()), left, every)
		}
	}
	for _, s := range slices.Concat(task.GetSignalsS().GetSignals(), entry.GetThreadCore().GetSignalsP().GetSignals()) {
		if sig, ok := timerSignal(s); ok {
			add(fmt.Sprintf("timer of %s, which is pending", unix.SignalName(sig)), 0, 0)
		}
	}
	return out, nil
}

// tells tells whether the end of a POSIX timer reaches a process, by a clock that goes on
// when none runs.
func tells(t *timer.PosixTimerEntry) bool {
	const (
		sigevNone = 1   // SIGEV_NONE
		kinds     = 0x3 // of it_sigev_notify; SIGEV_THREAD_ID is another bit
	)
	return t.GetItSigevNotify()&kinds != sigevNone && slices.Contains(wallClocks, uint64(t.GetClockId()))
}

// timerSignal tells of a pending signal whether a timer has sent it: a POSIX timer, or
// ITIMER_REAL, of which the kernel sends SIGALRM by itself (kernel/time/itimer.c, it_real_fn).
func timerSignal(s *siginfo.SiginfoEntry) (unix.Signal, bool) {
	const (
		siTimer  = -2   // SI_TIMER
		siKernel = 0x80 // SI_KERNEL
	)
	info := s.GetSiginfo()
	if len(info) < 12 {
		return 0, false
	}
	sig, code := unix.Signal(binary.NativeEndian.Uint32(info)), int32(binary.NativeEndian.Uint32(info[8:]))
	return sig, code == siTimer || code == siKernel && sig == unix.SIGALRM
}

// timerFDs lists the timerfds.
func timerFDs(images string, names []string) ([]Timer, error) {
	records, err := image.ReadRecords(filepath.Join(images, "files.img"), image.TypeFiles)
	if err != nil {
		return nil, err
	}
	var at map[uint32]image.DescriptorRef // read only if there is a timer
	var out []Timer
	for _, r := range records {
		file, err := image.ParseOpenFile(r.Message)
		if err != nil {
			return nil, fmt.Errorf("read files.img: %w", err)
		}
		if file.Kind != fileTimerFD {
			continue
		}
		entry, err := image.Unmarshal[fdinfo.FileEntry](r.Message)
		if err != nil {
			return nil, fmt.Errorf("read files.img: %w", err)
		}
		tfd := entry.GetTfd()
		left, every := timerfdSpec.of(tfd.GetVsec(), tfd.GetVnsec(), tfd.GetIsec(), tfd.GetInsec())
		unread := tfd.GetTicks() > 0
		if left == 0 && !unread || !slices.Contains(wallClocks, uint64(tfd.GetClockid())) {
			continue
		}
		if unread {
			left = 0
		}
		if at == nil {
			if at, err = image.Descriptors(images, names); err != nil {
				return nil, err
			}
		}
		ref := at[file.ID]
		name := fmt.Sprintf("timerfd in descriptor %d", ref.FD)
		if ref.PID == 0 {
			name = "timerfd that one process has sent to another"
		}
		out = append(out, Timer{PID: ref.PID, Name: name, Left: left, Every: every})
	}
	return out, nil
}
