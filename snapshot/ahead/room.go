package ahead

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/snapshot/image"
)

// room returns an error unless so many pages can be written beside all memory of the app: CRIU may have to
// save all of it, whatever was copied before. A dump must not fail for a copy that it can do without.
func (m *Memory) room(pages uint64) error {
	var st unix.Statfs_t
	if err := unix.Statfs(m.o.Dir, &st); err != nil {
		return os.NewSyscallError("statfs", err)
	}
	free, needed := st.Bavail*uint64(st.Bsize), (m.all+pages)*image.PageSize
	if free < needed {
		return fmt.Errorf("that may take %d MiB of room, and %d MiB are there", needed>>20, free>>20)
	}
	return nil
}

// fits is room without the reason.
func (m *Memory) fits(pages uint64) bool { return m.room(pages) == nil }
