package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"

	"golang.org/x/sys/unix"
)

// another runs a command of util-linux's flock, or of python, in a process that
// shares no lock with this one, and tells whether it could lock.
func another(name string, args ...string) (locked bool, err error) {
	out, err := exec.Command(name, args...).CombinedOutput() //nolint:noctx // at once
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.ExitCode() == 9 {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("%w: %s", err, out)
	}
	return true, nil
}

// locked is a check that a file is locked against others until it is unlocked.
func locked(unlock func() error, name string, args ...string) check {
	return func(string) error {
		got, err := another(name, args...)
		if err := errors.Join(err, same("another process's lock", got, false), unlock()); err != nil {
			return err
		}
		got, err = another(name, args...)
		return errors.Join(err, same("another process's lock afterwards", got, true))
	}
}

func flock() (check, error) {
	f, err := os.Create("/tmp/flock")
	if err != nil {
		return nil, err
	}
	fd := int(f.Fd())
	unlock := func() error { return errors.Join(unix.Flock(fd, unix.LOCK_UN), f.Close()) }
	return locked(unlock, "flock", "-n", "-E", "9", "/tmp/flock", "true"), unix.Flock(fd, unix.LOCK_EX)
}

const pythonLock = `
import fcntl, sys
f = open(sys.argv[1], "r+")
try: fcntl.lockf(f, fcntl.LOCK_EX | fcntl.LOCK_NB, 10, 5)
except OSError: sys.exit(9)
`

func posixLock() (check, error) { return rangeLock("/tmp/posix-lock", unix.F_SETLK) }
func ofdLock() (check, error)   { return rangeLock("/tmp/ofd-lock", unix.F_OFD_SETLK) }

// rangeLock locks bytes 0 to 9 of a file.
func rangeLock(path string, command int) (check, error) {
	f, err := os.Create(path)
	if err != nil {
		return nil, err
	}
	lock := func(kind int16) error {
		return unix.FcntlFlock(f.Fd(), command, &unix.Flock_t{Type: kind, Len: 10})
	}
	return locked(func() error { return lock(unix.F_UNLCK) }, "python3", "-c", pythonLock, path), lock(unix.F_WRLCK)
}

// deletedFile is open and mapped, and has no name; another has lost one of two,
// and a directory is gone too.
func deletedFile() (check, error) {
	f, err := os.Create("/tmp/deleted")
	if err != nil {
		return nil, err
	}
	second, err := os.Create("/tmp/second")
	if err != nil {
		return nil, err
	}
	_, werr := f.WriteString("kept though deleted")
	_, serr := second.WriteString("still linked")
	err = errors.Join(werr, serr, os.Remove("/tmp/deleted"), os.Link("/tmp/second", "/tmp/other"), os.Remove("/tmp/second"))
	if err != nil {
		return nil, err
	}
	mem, err := unix.Mmap(int(f.Fd()), 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	return func(string) error {
		copy(mem, "KEPT")
		got := make([]byte, len("KEPT though deleted"))
		if _, err := f.ReadAt(got, 0); err != nil {
			return err
		}
		pos, err := f.Seek(0, io.SeekCurrent)
		if err := errors.Join(err, same("content", string(got), "KEPT though deleted"), same("position", int(pos), len(got))); err != nil {
			return err
		}
		if _, err := second.WriteString(", as before"); err != nil {
			return err
		}
		b, err := os.ReadFile("/tmp/other")
		if err := errors.Join(err, same("the linked file", string(b), "still linked, as before")); err != nil {
			return err
		}
		for _, gone := range []string{"/tmp/deleted", "/tmp/second"} {
			if _, err := os.Stat(gone); !errors.Is(err, os.ErrNotExist) {
				return fmt.Errorf("%s is back: %w", gone, err)
			}
		}
		return nil
	}, err
}

// files are the app's own, in each place where it may write.
func files() (check, error) {
	open := map[string]*os.File{}
	for _, path := range []string{"/tmp/file", "/var/tmp/file", "/run/file", "/dev/shm/file", "/etc/survivor", "/root-file"} {
		f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR|os.O_APPEND, 0o640)
		if err != nil {
			return nil, err
		}
		if _, err := f.WriteString("before "); err != nil {
			return nil, err
		}
		open[path] = f
	}
	// Files of the lower root: one only read, one changed by the app.
	lower, err := os.Open("/etc/passwd")
	if err != nil {
		return nil, err
	}
	part := make([]byte, 5)
	if _, err := io.ReadFull(lower, part); err != nil {
		return nil, err
	}
	changed, err := os.OpenFile("/etc/hosts", os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return nil, err
	}
	if _, err := changed.WriteString("\n10.77.0.99 survivor-test\n"); err != nil {
		return nil, err
	}
	dir, err := os.Open("/etc")
	return func(string) error {
		for path, f := range open {
			if _, err := f.WriteString("after"); err != nil {
				return fmt.Errorf("%s: %w", path, err)
			}
			b, err := os.ReadFile(path)
			if err := errors.Join(err, same(path, string(b), "before after")); err != nil {
				return err
			}
		}
		pos, err := lower.Seek(0, io.SeekCurrent)
		if err := errors.Join(err, same("position", pos, 5)); err != nil {
			return err
		}
		names, err := dir.ReadDir(-1)
		if err != nil || len(names) == 0 {
			return fmt.Errorf("read directory: %d entries, %w", len(names), err)
		}
		_, err = changed.WriteString("# more\n")
		return err
	}, err
}

// memfd has data, a position and seals.
func memfd() (check, error) {
	fd, err := unix.MemfdCreate("survivor", unix.MFD_ALLOW_SEALING)
	if err != nil {
		return nil, err
	}
	if err := write(fd, "sealed"); err != nil {
		return nil, err
	}
	const seals = unix.F_SEAL_GROW | unix.F_SEAL_SHRINK
	_, err = unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, seals)
	if err != nil {
		return nil, err
	}
	mem, err := unix.Mmap(fd, 0, 6, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	return func(string) error {
		copy(mem, "SE")
		now, err := unix.FcntlInt(uintptr(fd), unix.F_GET_SEALS, 0)
		if err != nil {
			return err
		}
		pos, err := unix.Seek(fd, 0, unix.SEEK_CUR)
		if err != nil {
			return err
		}
		got := make([]byte, 10)
		n, err := unix.Pread(fd, got, 0)
		return errors.Join(err, same("seals", now, seals), same("position", pos, 6), same("content", string(got[:n]), "SEaled"))
	}, err
}

// cwd is a directory of the app's own, with a umask, limits and environment.
func cwd() (check, error) {
	if err := errors.Join(os.MkdirAll("/tmp/here", 0o700), os.Chdir("/tmp/here")); err != nil {
		return nil, err
	}
	unix.Umask(0o27)
	limit := &unix.Rlimit{Cur: 777, Max: 888}
	err := unix.Setrlimit(unix.RLIMIT_NOFILE, limit)
	return func(string) error {
		dir, err := os.Readlink("/proc/self/cwd")
		if err != nil {
			return err
		}
		var now unix.Rlimit
		if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &now); err != nil {
			return err
		}
		return errors.Join(same("directory", dir, "/tmp/here"), same("umask", unix.Umask(0o27), 0o27), same("limit", now, *limit))
	}, err
}
