package criu

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"testing"

	"github.com/go-quicktest/qt"
	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/testenv"
)

// TestFill reads from a sock_diag socket what was put into its queue, as CRIU
// does.
func TestFill(t *testing.T) {
	testenv.Need(t, testenv.Root)
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_SOCK_DIAG)
	qt.Assert(t, qt.IsNil(err))
	defer unix.Close(fd)
	want := make([][]byte, 5000)
	for i := range want {
		want[i] = fmt.Appendf(nil, "socket %d", i)
	}
	qt.Assert(t, qt.IsNil(fill(os.Getpid(), fd, want)))
	var got [][]byte
	buf := make([]byte, 16<<10)
	for len(got) < len(want) {
		n, _, err := unix.Recvfrom(fd, buf, unix.MSG_DONTWAIT|unix.MSG_TRUNC)
		qt.Assert(t, qt.IsNil(err))
		qt.Assert(t, qt.IsTrue(n <= len(buf)))
		for b := buf[:n]; len(b) > 0; {
			size := int(binary.NativeEndian.Uint32(b))
			qt.Assert(t, qt.Equals(binary.NativeEndian.Uint32(b[8:]), criuSeq))
			got = append(got, bytes.Clone(b[unix.SizeofNlMsghdr:size]))
			b = b[min(len(b), (size+3)&^3):]
		}
	}
	qt.Assert(t, qt.DeepEquals(got, want))
	_, _, err = unix.Recvfrom(fd, buf, unix.MSG_DONTWAIT)
	qt.Assert(t, qt.ErrorIs(err, unix.EAGAIN))
}
