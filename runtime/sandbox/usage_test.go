package sandbox

import (
	"os"
	"testing"

	"github.com/go-quicktest/qt"
	"golang.org/x/sys/unix"
)

// TestUsedBytes touches memory.
func TestUsedBytes(t *testing.T) {
	const size = 64 << 20
	before := UsedBytes([]int{os.Getpid()})
	qt.Assert(t, qt.IsTrue(before > 0))
	m, err := unix.Mmap(-1, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON|unix.MAP_POPULATE)
	qt.Assert(t, qt.IsNil(err))
	after := UsedBytes([]int{os.Getpid()})
	qt.Assert(t, qt.IsTrue(after-before > size*9/10), qt.Commentf("%d before, %d after", before, after))
	qt.Assert(t, qt.IsNil(unix.Munmap(m)))
	qt.Assert(t, qt.Equals(UsedBytes(nil), 0))
}
