package restore

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/snapshot/image/openfile"
)

// Lock is a lock on a file of the host that CRIU takes for a process when it makes it
// again. CRIU would wait for it without an end (file-lock.c, restore_file_lock).
type Lock struct {
	openfile.Lock
	Path string   // where the app has the file
	File *os.File // an open file of its own
}

// LockedError says that somebody else has a lock that a process had when it was saved.
type LockedError struct {
	Path string // of the file, as the app has it
	PID  int    // who has the lock; 0 if the kernel does not tell
}

// Error implements error.
func (e *LockedError) Error() string {
	who := "somebody else"
	if e.PID > 0 {
		who = "process " + strconv.Itoa(e.PID)
		if name, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", e.PID)); err == nil {
			who += " (" + strings.TrimSpace(string(name)) + ")"
		}
	}
	return fmt.Sprintf("%s has the lock on %s that the app had: end what has it, or wait until it gives it up, and try again", who, e.Path)
}

// Taken tells whether somebody else has the lock, or one that excludes it, and who.
func (l Lock) Taken() (*LockedError, error) {
	fd := l.File.Fd()
	if l.Kind == openfile.LockFlock {
		how := unix.LOCK_SH
		if l.Write {
			how = unix.LOCK_EX
		}
		// Nothing but a try tells. It excludes others for a moment.
		err := unix.Flock(int(fd), how|unix.LOCK_NB)
		if errors.Is(err, unix.EWOULDBLOCK) {
			pid, err := flockOwner(l.File)
			return &LockedError{Path: l.Path, PID: pid}, err
		}
		if err == nil {
			err = unix.Flock(int(fd), unix.LOCK_UN)
		}
		return nil, wrapLock(l.Path, err)
	}
	ask := unix.Flock_t{Type: unix.F_RDLCK, Start: l.Start, Len: l.Length}
	if l.Write {
		ask.Type = unix.F_WRLCK
	}
	if err := unix.FcntlFlock(fd, unix.F_OFD_GETLK, &ask); err != nil {
		return nil, wrapLock(l.Path, err)
	}
	if ask.Type == unix.F_UNLCK {
		return nil, nil //nolint:nilnil // nobody has it
	}
	return &LockedError{Path: l.Path, PID: int(max(0, ask.Pid))}, nil
}

func wrapLock(path string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("look for locks on %s: %w", path, err)
}

// flockOwner finds the process that locked a file by flock(2), 0 if it is not known:
// "1: FLOCK  ADVISORY  WRITE 8260 08:01:13 0 EOF", proc_locks(5).
func flockOwner(f *os.File) (int, error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return 0, wrapLock(f.Name(), err)
	}
	want := fmt.Sprintf("%02x:%02x:%d", unix.Major(st.Dev), unix.Minor(st.Dev), st.Ino)
	b, err := os.ReadFile("/proc/locks")
	if err != nil {
		return 0, wrapLock(f.Name(), err)
	}
	for line := range strings.Lines(string(b)) {
		fields := strings.Fields(line)
		if len(fields) < 6 || fields[1] != "FLOCK" || fields[5] != want {
			continue
		}
		if pid, err := strconv.Atoi(fields[4]); err == nil && pid > 0 {
			return pid, nil
		}
	}
	return 0, nil
}
