package netns_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/go-quicktest/qt"
	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/vem/netns"
)

// The directory is the same as everybody's, in the namespace that one is in, but in a file system
// of its own that is gone afterwards: so what was looked at is gone too.
func TestSysctlsAreReadApart(t *testing.T) {
	ns := newNS(t)
	const name = "ipv4/ip_local_port_range"
	var kept string
	qt.Assert(t, qt.IsNil(ns.Do(func() error {
		qt.Check(t, qt.IsNil(os.WriteFile(filepath.Join("/proc/sys/net", name), []byte("20000 20100"), 0)))
		return netns.Sysctls(func(dir string) error {
			kept = dir
			b, err := os.ReadFile(filepath.Join(dir, name))
			qt.Check(t, qt.IsNil(err))
			qt.Check(t, qt.Equals(string(b), "20000\t20100\n"))
			qt.Check(t, qt.Not(qt.Equals(device(t, dir), device(t, "/proc"))))
			return nil
		})
	})))
	_, err := os.Stat(kept)
	qt.Check(t, qt.ErrorIs(err, os.ErrNotExist))
}

// device is the number of the file system in which a path lies.
func device(t *testing.T, path string) uint64 {
	t.Helper()
	var st unix.Stat_t
	qt.Assert(t, qt.IsNil(unix.Stat(path, &st)))
	return st.Dev
}
