package daemon

import (
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/go-quicktest/qt"
	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/snapshot/memory"
	"github.com/snapctl/snapctl/testenv"
)

// A program that is not position independent may have all of its memory at
// addresses of less than 8 digits.
func TestMappedAtLowAddresses(t *testing.T) {
	testenv.Need(t, testenv.Root)
	const low, length = 0x8000000, 1 << 20
	dir := t.TempDir()
	store, err := memory.Open(filepath.Join(dir, "memory"))
	qt.Assert(t, qt.IsNil(err))
	path := filepath.Join(dir, "pages-1.img")
	qt.Assert(t, qt.IsNil(os.WriteFile(path, make([]byte, length), 0o600)))
	file, err := store.Adopt(t.Context(), path)
	qt.Assert(t, qt.IsNil(err))
	f, err := store.OpenFile(file.ID)
	qt.Assert(t, qt.IsNil(err))
	defer f.Close() //nolint:errcheck // only mapped
	_, _, errno := unix.Syscall6(unix.SYS_MMAP, low, length, unix.PROT_READ, unix.MAP_PRIVATE|unix.MAP_FIXED_NOREPLACE, f.Fd(), 0)
	qt.Assert(t, qt.Equals(errno, 0))
	defer func() {
		_, _, errno := unix.Syscall(unix.SYS_MUNMAP, low, length, 0)
		qt.Check(t, qt.Equals(errno, 0))
	}()
	var st unix.Stat_t
	qt.Assert(t, qt.IsNil(unix.Fstat(int(f.Fd()), &st)))
	found := make(map[string]memory.File)
	d := &Daemon{memory: store}
	err = d.mappedBy(os.Getpid(), map[string]memory.File{strconv.FormatUint(st.Ino, 10): file}, found)
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.HasLen(found, 1))
}
