package vet

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/vem/hold"
)

// reserve grows this process's descriptor table by n descriptors.
func reserve(n int) error {
	open, err := openDescriptors()
	if err != nil {
		return fmt.Errorf("reserve descriptors: %w", err)
	}
	own, err := os.Open(os.DevNull)
	if err != nil {
		return fmt.Errorf("reserve descriptors: %w", err)
	}
	defer own.Close() //nolint:errcheck // read only
	top, err := unix.FcntlInt(own.Fd(), unix.F_DUPFD_CLOEXEC, open+n)
	if errors.Is(err, unix.EINVAL) {
		return tooMany(open, n)
	}
	if err != nil {
		return fmt.Errorf("reserve descriptors: %w", err)
	}
	return unix.Close(top)
}

// tooMany says that the app's sockets can't be held, and what limit would let them.
func tooMany(open, n int) error {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return fmt.Errorf("get RLIMIT_NOFILE: %w", err)
	}
	return fmt.Errorf("%w: the app has %d sockets open, and snapctld may open %d files, of which %d are open: "+
		"start it with LimitNOFILE=%d or more (systemd), or after ulimit -n %[5]d", hold.ErrUnsupported, n, limit.Cur, open, open+n+spare)
}

// spare is room for what the daemon opens meanwhile.
const spare = 1000

// openDescriptors counts this process's descriptors.
func openDescriptors() (int, error) {
	const dir = "/proc/self/fd"
	var st unix.Stat_t
	if err := unix.Stat(dir, &st); err != nil {
		return 0, err
	}
	if st.Size > 0 { // since Linux 6.2 (proc_fd_getattr in fs/proc/fd.c)
		return int(st.Size), nil
	}
	list, err := os.ReadDir(dir)
	return len(list), err
}
