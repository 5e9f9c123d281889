package main

import (
	"errors"
	"fmt"
	"runtime"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// signals masks a signal in one thread and has it pending there.
func signals() (check, error) {
	const pending, masked = unix.Signal(45), unix.Signal(46)
	ask, tell := make(chan struct{}), make(chan error)
	go func() {
		runtime.LockOSThread()
		mask := &unix.Sigset_t{}
		mask.Val[0] = 1<<(pending-1) | 1<<(masked-1)
		tell <- errors.Join(
			unix.PthreadSigmask(unix.SIG_BLOCK, mask, nil),
			unix.Tgkill(unix.Getpid(), unix.Gettid(), pending),
		)
		<-ask
		var now, waiting unix.Sigset_t
		err := unix.PthreadSigmask(unix.SIG_BLOCK, nil, &now)
		_, _, errno := unix.Syscall(unix.SYS_RT_SIGPENDING, uintptr(unsafe.Pointer(&waiting)), 8, 0)
		if errno != 0 {
			err = errors.Join(err, errno)
		}
		tell <- errors.Join(err, same("the mask", now.Val[0]&mask.Val[0], mask.Val[0]),
			same("what is pending", waiting.Val[0]&mask.Val[0], uint64(1<<(pending-1))))
	}()
	return func(string) error { close(ask); return <-tell }, <-tell
}

// timers are an interval timer and a POSIX one, far from their end.
func timers() (check, error) {
	hour := unix.Timeval{Sec: 3600}
	if _, err := unix.Setitimer(unix.ITIMER_REAL, unix.Itimerval{Value: hour, Interval: unix.Timeval{Sec: 7}}); err != nil {
		return nil, err
	}
	var id int32
	event := [64]byte{12: 1} // struct sigevent: SIGEV_NONE
	if _, _, errno := unix.Syscall(unix.SYS_TIMER_CREATE, unix.CLOCK_MONOTONIC, uintptr(unsafe.Pointer(&event)), uintptr(unsafe.Pointer(&id))); errno != 0 {
		return nil, errno
	}
	spec := unix.ItimerSpec{Value: unix.Timespec{Sec: 3600}, Interval: unix.Timespec{Sec: 9}}
	if _, _, errno := unix.Syscall6(unix.SYS_TIMER_SETTIME, uintptr(id), 0, uintptr(unsafe.Pointer(&spec)), 0, 0, 0); errno != 0 {
		return nil, errno
	}
	ticks := make(chan struct{}) // the runtime's own timers
	fired := time.AfterFunc(time.Hour, func() { close(ticks) })
	return func(string) error {
		it, err := unix.Getitimer(unix.ITIMER_REAL)
		if err != nil {
			return err
		}
		var left unix.ItimerSpec
		if _, _, errno := unix.Syscall(unix.SYS_TIMER_GETTIME, uintptr(id), uintptr(unsafe.Pointer(&left)), 0); errno != 0 {
			return errno
		}
		// Nothing here takes a minute, so at least so much is left.
		if it.Value.Sec < 3540 || it.Value.Sec > 3600 || left.Value.Sec < 3540 || left.Value.Sec > 3600 {
			return fmt.Errorf("interval timer has %d s left, the POSIX one %d s", it.Value.Sec, left.Value.Sec)
		}
		if !fired.Stop() {
			return errors.New("a timer of an hour has fired")
		}
		short := time.NewTimer(10 * time.Millisecond)
		select {
		case <-short.C:
		case <-time.After(time.Minute):
		}
		return errors.Join(same("interval", it.Interval.Sec, 7), same("interval of the POSIX timer", left.Interval.Sec, 9))
	}, nil
}

// clockSlack is for the clocks not being read at one moment, and for the wall
// clock's being adjusted.
const clockSlack = 50 * time.Millisecond

// clock is told afterwards for how long it was held, and proves that this time
// did not pass for it.
func clock() (check, error) {
	type times struct{ mono, boot, wall time.Duration }
	read := func() (times, error) {
		var t [3]unix.Timespec
		var err error
		for i, id := range []int32{unix.CLOCK_MONOTONIC, unix.CLOCK_BOOTTIME, unix.CLOCK_REALTIME} {
			err = errors.Join(err, unix.ClockGettime(id, &t[i]))
		}
		return times{time.Duration(t[0].Nano()), time.Duration(t[1].Nano()), time.Duration(t[2].Nano())}, err
	}
	before, err := read()
	goBefore := time.Now()
	return func(arg string) error {
		held, err := time.ParseDuration(arg)
		if err != nil {
			return err
		}
		after, err := read()
		if err != nil {
			return err
		}
		mono, boot, wall := after.mono-before.mono, after.boot-before.boot, after.wall-before.wall
		held -= clockSlack
		switch {
		case mono < 0 || boot < 0:
			return fmt.Errorf("time went back: monotonic by %v, boot time by %v", mono, boot)
		case mono > wall-held:
			return fmt.Errorf("monotonic went on by %v of %v, although %v were held", mono, wall, held)
		case boot > wall-held:
			return fmt.Errorf("boot time went on by %v of %v, although %v were held", boot, wall, held)
		}
		// The vDSO's clock, which Go uses, is that of the system call.
		if d := time.Since(goBefore) - mono; d < -time.Second || d > time.Second {
			return fmt.Errorf("the vDSO's clock is %v off", d)
		}
		return nil
	}, err
}
