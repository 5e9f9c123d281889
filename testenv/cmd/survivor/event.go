package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"

	"golang.org/x/sys/unix"
)

// epoll watches a pipe, an event and a socket, level and edge triggered.
func epoll() (check, error) {
	ep, err := unix.EpollCreate1(0)
	if err != nil {
		return nil, err
	}
	ev, err := unix.Eventfd(0, unix.EFD_NONBLOCK)
	if err != nil {
		return nil, err
	}
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	if err != nil {
		return nil, err
	}
	var p [2]int
	if err := unix.Pipe(p[:]); err != nil {
		return nil, err
	}
	watch := func(fd int, events uint32, data int32) error {
		return unix.EpollCtl(ep, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: events, Fd: data, Pad: ^data})
	}
	err = errors.Join(
		watch(ev, unix.EPOLLIN, 1), watch(p[0], unix.EPOLLIN|unix.EPOLLET, 2), watch(pair[0], unix.EPOLLIN|unix.EPOLLONESHOT, 3),
		write(pair[1], "before"),
	)
	next := func(want int32) error {
		events := make([]unix.EpollEvent, 4)
		n, err := unix.EpollWait(ep, events, waitTime)
		if err != nil {
			return err
		}
		return errors.Join(same("number of events", n, 1), same("event", events[0].Fd, want), same("its data", events[0].Pad, ^want))
	}
	return func(string) error {
		return errors.Join(
			next(3), write(p[1], "x"), next(2),
			write(ev, "\x01\x00\x00\x00\x00\x00\x00\x00"), next(1), next(1),
		)
	}, err
}

// eventfd has a count.
func eventfd() (check, error) {
	ev, err := unix.Eventfd(5, unix.EFD_NONBLOCK)
	return func(string) error {
		return errors.Join(counts(ev, 5), write(ev, "\x01\x00\x00\x00\x00\x00\x00\x00"), counts(ev, 1))
	}, err
}

// eventfdSemaphore counts down by one, through two descriptors, and a poller
// sees it.
func eventfdSemaphore() (check, error) {
	sem, err := unix.Eventfd(3, unix.EFD_NONBLOCK|unix.EFD_SEMAPHORE)
	if err != nil {
		return nil, err
	}
	again, err := unix.FcntlInt(uintptr(sem), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	ep, err := unix.EpollCreate1(0)
	if err != nil {
		return nil, err
	}
	err = unix.EpollCtl(ep, unix.EPOLL_CTL_ADD, sem, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: 77})
	ready := func(want int) error {
		events := make([]unix.EpollEvent, 2)
		n, err := unix.EpollWait(ep, events, 0)
		if err == nil && n > 0 {
			err = same("event", events[0].Fd, 77)
		}
		return errors.Join(err, same("events", n, want))
	}
	return func(string) error {
		flags, err := unix.FcntlInt(uintptr(sem), unix.F_GETFL, 0)
		return errors.Join(
			err, same("O_NONBLOCK", flags&unix.O_NONBLOCK, unix.O_NONBLOCK),
			ready(1), counts(sem, 1), counts(again, 1), counts(sem, 1), ready(0),
			write(again, "\x02\x00\x00\x00\x00\x00\x00\x00"), ready(1), counts(sem, 1),
		)
	}, err
}

// counts reads a number.
func counts(fd int, want uint64) error {
	s, err := readN(fd, 8)
	if err != nil {
		return err
	}
	return same("count", binary.NativeEndian.Uint64([]byte(s)), want)
}

// timerfd has one timer that has ended unread, one far from its end, one that ends soon
// after, and one that repeats and has ended unread.
func timerfd() (check, error) {
	set := func(value, interval unix.Timespec) (int, error) {
		fd, err := unix.TimerfdCreate(unix.CLOCK_MONOTONIC, unix.TFD_NONBLOCK)
		if err != nil {
			return 0, err
		}
		return fd, unix.TimerfdSettime(fd, 0, &unix.ItimerSpec{Value: value, Interval: interval}, nil)
	}
	ended, err := set(unix.Timespec{Nsec: 1}, unix.Timespec{})
	if err != nil {
		return nil, err
	}
	again, err := set(unix.Timespec{Nsec: 1}, unix.Timespec{Nsec: 1e8})
	if err != nil {
		return nil, err
	}
	if err := errors.Join(readable(ended), readable(again)); err != nil {
		return nil, err
	}
	far, err := set(unix.Timespec{Sec: 3600}, unix.Timespec{Sec: 5})
	if err != nil {
		return nil, err
	}
	ticking, err := set(unix.Timespec{Nsec: 1e8}, unix.Timespec{Nsec: 1e8})
	return func(string) error {
		var left unix.ItimerSpec
		if err := unix.TimerfdGettime(far, &left); err != nil {
			return err
		}
		if left.Value.Sec < 3540 || left.Value.Sec > 3600 {
			return fmt.Errorf("the timer has %d s left", left.Value.Sec)
		}
		if _, err := readN(again, 8); err != nil {
			return fmt.Errorf("read a timer that repeats: %w", err)
		}
		return errors.Join(same("interval", left.Interval.Sec, 5), counts(ended, 1), readable(ticking), readable(again))
	}, err
}

// timerfdAbsolute has timers that were set to a time of their clock: of each clock one
// that is due in an hour, and one that has ended and was read.
func timerfdAbsolute() (check, error) {
	const far = 3600
	type timer struct {
		clock       int32
		open, spent int
		at          int64 // in ns
	}
	var all []timer
	now := func(clock int32) (int64, error) {
		var ts unix.Timespec
		err := unix.ClockGettime(clock, &ts)
		return ts.Nano(), err
	}
	for _, clock := range []int32{unix.CLOCK_MONOTONIC, unix.CLOCK_REALTIME, unix.CLOCK_BOOTTIME} {
		t := timer{clock: clock}
		began, err := now(clock)
		if err != nil {
			return nil, err
		}
		t.at = began + far*1e9
		for fd, at := range map[*int]int64{&t.open: t.at, &t.spent: 1} {
			if *fd, err = unix.TimerfdCreate(int(clock), unix.TFD_NONBLOCK); err != nil {
				return nil, err
			}
			if err := unix.TimerfdSettime(*fd, unix.TFD_TIMER_ABSTIME, &unix.ItimerSpec{Value: unix.NsecToTimespec(at)}, nil); err != nil {
				return nil, err
			}
		}
		if err := errors.Join(readable(t.spent), counts(t.spent, 1)); err != nil {
			return nil, err
		}
		all = append(all, t)
	}
	return func(string) error {
		for _, t := range all {
			if _, err := unix.Read(t.spent, make([]byte, 8)); !errors.Is(err, unix.EAGAIN) {
				return errors.Join(err, fmt.Errorf("a timer of clock %d has ended twice", t.clock))
			}
			var left unix.ItimerSpec
			if err := unix.TimerfdGettime(t.open, &left); err != nil {
				return err
			}
			now, err := now(t.clock)
			if err != nil {
				return err
			}
			if early := t.at - now - left.Value.Nano(); early > 0 {
				return fmt.Errorf("a timer of clock %d comes %d ns early", t.clock, early)
			}
		}
		return nil
	}, nil
}

// signalfd tells of a signal that is pending.
func signalfd() (check, error) {
	const sig = unix.Signal(47)
	ask, tell := make(chan struct{}), make(chan error)
	go func() {
		runtime.LockOSThread()
		mask := &unix.Sigset_t{}
		mask.Val[0] = 1 << (sig - 1)
		fd, err := unix.Signalfd(-1, mask, unix.SFD_NONBLOCK)
		tell <- errors.Join(err, unix.PthreadSigmask(unix.SIG_BLOCK, mask, nil), unix.Tgkill(unix.Getpid(), unix.Gettid(), sig))
		<-ask
		info, err := readN(fd, 128)
		if err == nil {
			err = same("signal", info[0], byte(sig))
		}
		tell <- err
	}()
	return func(string) error { close(ask); return <-tell }, <-tell
}

func inotify() (check, error)    { return watchDir("/tmp/watched") }
func inotifyShm() (check, error) { return watchDir("/dev/shm/watched") }

// watchDir has a watch on a directory.
func watchDir(dir string) (check, error) {
	fd, wd, err := inotifyOn(dir)
	return func(string) error { return noticed(fd, wd, dir, "fresh") }, err
}

func inotifyOn(dir string) (fd, wd int, err error) {
	if err := os.Mkdir(dir, 0o700); err != nil {
		return 0, 0, err
	}
	fd, err = unix.InotifyInit1(unix.IN_NONBLOCK)
	if err != nil {
		return 0, 0, err
	}
	wd, err = unix.InotifyAddWatch(fd, dir, unix.IN_CREATE)
	return fd, wd, err
}

func noticed(fd, wd int, dir, name string) error {
	if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
		return err
	}
	return event(fd, wd, name)
}

func event(fd, wd int, name string) error {
	event, err := readN(fd, 32)
	if err != nil {
		return err
	}
	return errors.Join(same("watch", int(binary.NativeEndian.Uint32([]byte(event))), wd), same("name", event[16:16+len(name)], name))
}

// inotifyQueued has an event that is not read yet, and a poller that sees it.
func inotifyQueued() (check, error) {
	const dir = "/tmp/queued"
	fd, wd, err := inotifyOn(dir)
	if err != nil {
		return nil, err
	}
	ep, err := unix.EpollCreate1(0)
	if err != nil {
		return nil, err
	}
	err = errors.Join(
		unix.EpollCtl(ep, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: 7}),
		os.WriteFile(filepath.Join(dir, "early"), nil, 0o600),
	)
	return func(string) error {
		events := make([]unix.EpollEvent, 2)
		n, err := unix.EpollWait(ep, events, waitTime)
		return errors.Join(err, same("events", n, 1), same("event", events[0].Fd, 7),
			event(fd, wd, "early"), noticed(fd, wd, dir, "fresh"))
	}, err
}

// inotifyBind watches a directory of the host, in which something happened
// before the hibernation and something during it.
func inotifyBind() (check, error) {
	const dir = "/bind/watched"
	fd, wd, err := inotifyOn(dir)
	if err != nil {
		return nil, err
	}
	err = os.WriteFile(filepath.Join(dir, "before"), nil, 0o600)
	return func(string) error {
		return errors.Join(event(fd, wd, "before"), event(fd, wd, "during"), noticed(fd, wd, dir, "after"))
	}, err
}

// inotifyProc watches a file system that only the app has, with an event that is
// not read yet.
func inotifyProc() (check, error) {
	fd, err := unix.InotifyInit1(unix.IN_NONBLOCK)
	if err != nil {
		return nil, err
	}
	if _, err := unix.InotifyAddWatch(fd, "/proc/version", unix.IN_OPEN); err != nil {
		return nil, err
	}
	_, err = os.ReadFile("/proc/version")
	return func(string) error { return errors.Join(readable(fd), unix.Close(fd)) }, err
}
