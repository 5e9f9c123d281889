package terminal_test

import (
	"bytes"
	"io"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"syscall"
	"testing"

	"github.com/go-quicktest/qt"
	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/snapshot/terminal"
	"github.com/snapctl/snapctl/testenv"
)

// A tree has the terminals that were asked for, with gaps between them, and who opens one
// that was typed into reads those very bytes, and then the end of the file.
func TestTree(t *testing.T) {
	testenv.Need(t, testenv.Root)
	want := []terminal.New{
		{Number: 1, Flags: unix.O_RDWR, UID: -1, GID: -1, Size: unix.Winsize{Row: 33, Col: 99}},
		{Number: 40, Flags: unix.O_RDWR | unix.O_NONBLOCK, Packet: true, UID: 7, GID: 8},
	}
	tree, err := terminal.MakeTree(map[string]string{"gid": "5", "mode": "620", "ptmxmode": "666"}, unix.MS_NOSUID|unix.MS_NOEXEC, want)
	qt.Assert(t, qt.IsNil(err))
	defer tree.Close()

	text := make([]byte, 0, 10240) // more than a terminal keeps for its reader
	for n := range 10240 {
		text = append(text, byte(n))
	}
	qt.Assert(t, qt.IsNil(tree.Type(1, text)))
	qt.Check(t, qt.ErrorMatches(tree.Type(40, make([]byte, 1<<20)), "write to /dev/pts/40: .* do not fit"))
	qt.Check(t, qt.ErrorMatches(tree.Type(2, text), ".*there is none"))

	// A process in a mount namespace of its own: after Attach it has the terminals there.
	cmd := exec.CommandContext(t.Context(), "cat")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNS}
	stdin, err := cmd.StdinPipe()
	qt.Assert(t, qt.IsNil(err))
	var before unix.Stat_t
	qt.Assert(t, qt.IsNil(unix.Stat("/dev/pts", &before)))
	qt.Assert(t, qt.IsNil(cmd.Start()))
	defer func() {
		qt.Check(t, qt.IsNil(stdin.Close()))
		qt.Check(t, qt.IsNil(cmd.Wait()))
	}()
	root := "/proc/" + strconv.Itoa(cmd.Process.Pid) + "/root"
	qt.Assert(t, qt.IsNil(tree.Attach(cmd.Process.Pid, "/dev/pts")))
	names, err := os.ReadDir(root + "/dev/pts")
	qt.Assert(t, qt.IsNil(err))
	var numbers []string
	for _, n := range names {
		numbers = append(numbers, n.Name())
	}
	slices.Sort(numbers)
	qt.Check(t, qt.DeepEquals(numbers, []string{"1", "40", "ptmx"}))
	var after, slave unix.Stat_t
	qt.Assert(t, qt.IsNil(unix.Stat("/dev/pts", &after)))
	qt.Check(t, qt.Equals(after.Dev, before.Dev), qt.Commentf("the test's own terminals are others"))
	qt.Assert(t, qt.IsNil(unix.Stat(root+"/dev/pts/40", &slave)))
	qt.Check(t, qt.DeepEquals([]uint32{slave.Uid, slave.Gid, slave.Mode & 0o777}, []uint32{7, 8, 0o620}))

	f, err := os.OpenFile(root+"/dev/pts/1", os.O_RDONLY|unix.O_NOCTTY, 0)
	qt.Assert(t, qt.IsNil(err))
	defer f.Close()
	got, err := io.ReadAll(f)
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.IsTrue(bytes.Equal(got, text)), qt.Commentf("%d of %d bytes were read", len(got), len(text)))

	masters := tree.Masters()
	qt.Assert(t, qt.HasLen(masters, 2))
	var kept []int
	for _, number := range []int{1, 40} {
		fd, err := unix.FcntlInt(masters[number].Fd(), unix.F_DUPFD_CLOEXEC, 0)
		qt.Assert(t, qt.IsNil(err))
		defer unix.Close(fd)
		kept = append(kept, fd)
	}
	qt.Assert(t, qt.IsNil(tree.Settle()))
	for i, w := range want {
		flags, err := unix.FcntlInt(uintptr(kept[i]), unix.F_GETFL, 0)
		qt.Assert(t, qt.IsNil(err))
		qt.Check(t, qt.Equals(flags&(unix.O_ACCMODE|unix.O_NONBLOCK), w.Flags))
		packet, err := unix.IoctlGetInt(kept[i], unix.TIOCGPKT)
		qt.Assert(t, qt.IsNil(err))
		qt.Check(t, qt.Equals(packet != 0, w.Packet))
		size, err := unix.IoctlGetWinsize(kept[i], unix.TIOCGWINSZ)
		qt.Assert(t, qt.IsNil(err))
		qt.Check(t, qt.Equals(*size, w.Size))
	}
}
