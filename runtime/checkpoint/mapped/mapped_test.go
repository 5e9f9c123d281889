package mapped

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

const testedLength = 1 << 20

// mappedFile is a memory file that this process maps at an address.
func mappedFile(t *testing.T, at uintptr) *finder {
	t.Helper()
	testenv.Need(t, testenv.Root)
	dir := t.TempDir()
	store, err := memory.Open(filepath.Join(dir, "memory"))
	qt.Assert(t, qt.IsNil(err))
	path := filepath.Join(dir, "pages-1.img")
	qt.Assert(t, qt.IsNil(os.WriteFile(path, make([]byte, testedLength), 0o600)))
	file, err := store.Adopt(t.Context(), path)
	qt.Assert(t, qt.IsNil(err))
	f, err := store.OpenFile(file.ID)
	qt.Assert(t, qt.IsNil(err))
	defer f.Close()
	_, _, errno := unix.Syscall6(unix.SYS_MMAP, at, testedLength, unix.PROT_READ, unix.MAP_PRIVATE|unix.MAP_FIXED_NOREPLACE, f.Fd(), 0)
	qt.Assert(t, qt.Equals(errno, 0))
	t.Cleanup(func() {
		_, _, errno := unix.Syscall(unix.SYS_MUNMAP, at, testedLength, 0)
		qt.Check(t, qt.Equals(errno, 0))
	})
	var st unix.Stat_t
	qt.Assert(t, qt.IsNil(unix.Fstat(int(f.Fd()), &st)))
	return &finder{store: store, files: map[string]memory.File{strconv.FormatUint(st.Ino, 10): file}, found: make(map[string]memory.File)}
}

// A program that is not position independent may have all of its memory at
// addresses of less than 8 digits.
func TestMappedAtLowAddresses(t *testing.T) {
	f := mappedFile(t, 0x8000000)
	clear(f.found)
	qt.Assert(t, qt.IsNil(f.all([]int{os.Getpid()})))
	qt.Assert(t, qt.HasLen(f.found, 1))
}

// A program that cuts its mappings into others all the time has them all the same.
func TestMappedWhileItChanges(t *testing.T) {
	const at = 0x700000000000
	f := mappedFile(t, at)
	quit, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for protection := uintptr(0); ; protection ^= unix.PROT_READ {
			select {
			case <-quit:
				return
			default:
				_, _, _ = unix.Syscall(unix.SYS_MPROTECT, at, testedLength/2, protection)
			}
		}
	}()
	defer func() { close(quit); <-done }()
	for range 1000 {
		clear(f.found)
		qt.Assert(t, qt.IsNil(f.all([]int{os.Getpid()})))
		qt.Assert(t, qt.HasLen(f.found, 1))
	}
}
