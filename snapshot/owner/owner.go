// Package owner has files send signals again once their processes are restored.
//
// Who has asked for it (F_SETOWN, F_SETSIG and O_ASYNC in fcntl(2)) is sent SIGIO when there
// is something to read, and SIGURG by a socket: emacs of its terminal, servers of the old
// kind. CRIU restores the owner of what it makes again, but terminals, FIFOs and inotify
// instances would not send to it, see [openfile.ClearAsync]; and a held socket or inotify
// instance has an owner that is no more: another process had its number.
//
//	images --[openfile.ReadOwners]--> owners --Set, before the processes run--> Told --Tell, when they do--
package owner

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/snapshot/image/openfile"
)

// Told are the owners that have to be told that something may have come while they were
// saved.
type Told []target

// target is who is sent a signal.
type target struct {
	kind   openfile.OwnerKind
	id     int // as this process's pid namespace numbers it; of a group the number of its leader
	thread int // of image.OwnerThread
}

// Set makes processes owners of their files again. They are there, and none runs yet; pids
// are theirs, as this process numbers them, and may have others among them. An owner that is
// not among them, as one that has ended, is left out.
//
// It needs CAP_SYS_PTRACE.
func Set(pids []int, owners []openfile.Owner) (Told, error) {
	if len(owners) == 0 {
		return nil, nil
	}
	ids, err := read(pids)
	if err != nil {
		return nil, err
	}
	var told Told
	for _, o := range owners {
		to, ok := ids[id{o.Kind, o.ID}]
		holder, there := ids[id{openfile.OwnerProcess, o.At.PID}]
		if !ok || !there {
			continue
		}
		waits, err := set(holder.id, to, o)
		if err != nil {
			return nil, fmt.Errorf("have descriptor %d of process %d send signals: %w", o.At.FD, o.At.PID, err)
		}
		if waits && to.wants(o.Signal) {
			told = append(told, to)
		}
	}
	return told, nil
}

// Tell sends SIGIO. It is what the kernel itself sends in the place of another signal, that
// F_SETSIG has named, if too many of these wait, and means: look at all files. Who has
// ended meanwhile misses nothing.
func (t Told) Tell() {
	for _, to := range t {
		switch to.kind {
		case openfile.OwnerThread:
			_ = unix.Tgkill(to.id, to.thread, unix.SIGIO)
		case openfile.OwnerGroup:
			_ = unix.Kill(-to.id, unix.SIGIO)
		case openfile.OwnerProcess:
			_ = unix.Kill(to.id, unix.SIGIO)
		}
	}
}

// wants tells whether SIGIO may be sent to who has named this signal. Of another one the
// owner might not know what SIGIO means, and would end by it.
func (t target) wants(signal int) bool {
	if signal == 0 || signal == int(unix.SIGIO) {
		return true
	}
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", t.id))
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(status)) {
		if value, ok := strings.CutPrefix(line, "SigCgt:"); ok {
			caught, err := strconv.ParseUint(strings.TrimSpace(value), 16, 64)
			return err == nil && caught&(1<<(unix.SIGIO-1)) != 0
		}
	}
	return false
}

// set sets the owner of the file behind a descriptor, and tells whether there is something
// that the owner wants to be told of.
func set(pid int, to target, o openfile.Owner) (waits bool, err error) {
	pidfd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return false, err
	}
	defer unix.Close(pidfd) //nolint:errcheck // nothing was written
	copied, err := unix.PidfdGetfd(pidfd, o.At.FD, 0)
	if err != nil {
		return false, err
	}
	defer unix.Close(copied) //nolint:errcheck // the process has its own
	if _, err := unix.FcntlInt(uintptr(copied), unix.F_SETSIG, o.Signal); err != nil {
		return false, fmt.Errorf("set signal: %w", err)
	}
	if err := setOwner(copied, to); err != nil {
		return false, fmt.Errorf("set owner: %w", err)
	}
	if !o.Async {
		return false, nil
	}
	if err := register(copied, o.At.FD); err != nil {
		return false, fmt.Errorf("set O_ASYNC: %w", err)
	}
	return readable(copied)
}

// register sets O_ASYNC anew. The kernel keeps the number of the descriptor by which it is
// set, and puts it into si_fd of each signal: so it is set by one of the same number, in a
// table of descriptors that only a thread of its own has.
func register(fd, number int) error {
	failed := make(chan error, 1)
	go func() {
		runtime.LockOSThread() //nolint:forbidigo // not unlocked: the thread dies with its table
		failed <- func() error {
			if err := unix.Unshare(unix.CLONE_FILES); err != nil {
				return err
			}
			at := fd
			if fd != number {
				if err := unix.Dup3(fd, number, unix.O_CLOEXEC); err != nil {
					return err
				}
				at = number
			}
			flags, err := unix.FcntlInt(uintptr(at), unix.F_GETFL, 0)
			if err != nil {
				return err
			}
			for _, async := range []int{0, unix.O_ASYNC} { // only a change is a registration
				if _, err := unix.FcntlInt(uintptr(at), unix.F_SETFL, flags&^unix.O_ASYNC|async); err != nil {
					return err
				}
			}
			return nil
		}()
	}()
	return <-failed
}

// readable tells whether a socket or an inotify instance can be read: they were held, and
// something may have come since. What CRIU has made can't have got anything.
func readable(fd int) (bool, error) {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return false, err
	}
	if kind := st.Mode & unix.S_IFMT; kind != unix.S_IFSOCK && kind != 0 {
		return false, nil
	}
	fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}} //nolint:gosec // a descriptor
	for {
		n, err := unix.Poll(fds, 0)
		if !errors.Is(err, unix.EINTR) {
			return n > 0, err
		}
	}
}
