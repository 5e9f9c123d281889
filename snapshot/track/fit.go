package track

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// Reasons for not tracking a process.
var (
	// ErrAsynchronous is a process whose memory may be written to without a thread of it, by an
	// io_uring or a ring of io_setup(2).
	ErrAsynchronous = errors.New("its memory is written to asynchronously")
	// ErrLittle is a process with too little memory that can be tracked.
	ErrLittle = errors.New("it has little memory that can be tracked")
	// ErrEnded is a process that has ended, or runs another program than at Start.
	ErrEnded = errors.New("it has ended, or runs another program")
	// ErrOwn is a process that uses userfaultfd(2) itself.
	ErrOwn = errors.New("it uses userfaultfd itself")
	// ErrStrict is a process in strict seccomp mode.
	ErrStrict = errors.New("it is in strict seccomp mode")
)

// checkDescriptors looks for descriptors of what writes to memory unseen.
func checkDescriptors(pid int) error {
	dir := filepath.Join("/proc", strconv.Itoa(pid), "fd")
	f, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("list descriptors: %w", err)
	}
	defer f.Close() //nolint:errcheck // only read from
	names, err := f.Readdirnames(-1)
	if err != nil {
		return fmt.Errorf("list descriptors: %w", err)
	}
	for _, name := range names {
		link, err := os.Readlink(filepath.Join(dir, name))
		switch {
		case err != nil: // closed meanwhile
		case link == "anon_inode:[io_uring]":
			return fmt.Errorf("%w: descriptor %s is an io_uring", ErrAsynchronous, name)
		case link == "anon_inode:[userfaultfd]":
			return fmt.Errorf("%w: descriptor %s", ErrOwn, name)
		}
	}
	return nil
}

// checkRing looks for a ring of asynchronous I/O. It costs less than readMemory.
func checkRing(pid int) error {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", pid))
	if err != nil {
		return fmt.Errorf("read mappings: %w", err)
	}
	if strings.Contains(string(b), " /[aio]") {
		return fmt.Errorf("%w: it has a ring of io_setup(2)", ErrAsynchronous)
	}
	return nil
}

// checkThreads looks at what all threads of a process are, before one is stopped.
func checkThreads(pid int) error {
	dir := filepath.Join("/proc", strconv.Itoa(pid), "task")
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("list threads: %w", err)
	}
	for _, e := range entries {
		b, err := os.ReadFile(filepath.Join(dir, e.Name(), "status"))
		if err != nil { // it has ended
			continue
		}
		for line := range strings.Lines(string(b)) {
			key, value, _ := strings.Cut(strings.TrimSpace(line), ":\t")
			switch {
			case key == "TracerPid" && value != "0":
				return fmt.Errorf("thread %s is traced by process %s", e.Name(), value)
			case key == "Seccomp" && value == "1": // SECCOMP_MODE_STRICT
				return fmt.Errorf("%w: thread %s", ErrStrict, e.Name())
			}
		}
	}
	return nil
}
