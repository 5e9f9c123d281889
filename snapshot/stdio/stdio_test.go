package stdio

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/go-quicktest/qt"
	"golang.org/x/sys/unix"
)

// A process has a FIFO for its input, and a log for output and error.
func TestFind(t *testing.T) {
	dir := t.TempDir()
	qt.Assert(t, qt.IsNil(unix.Mkfifo(filepath.Join(dir, "in"), 0o600)))
	in, err := os.OpenFile(filepath.Join(dir, "in"), os.O_RDWR, 0)
	qt.Assert(t, qt.IsNil(err))
	defer in.Close()
	log, err := os.OpenFile(filepath.Join(dir, "log"), os.O_CREATE|os.O_APPEND|os.O_RDWR, 0o600)
	qt.Assert(t, qt.IsNil(err))
	defer log.Close()
	cmd := exec.Command("cat")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = in, log, log
	qt.Assert(t, qt.IsNil(cmd.Start()))
	defer func() {
		qt.Check(t, qt.IsNil(cmd.Process.Kill()))
		_ = cmd.Wait() // killed
	}()

	list, err := Find(cmd.Process.Pid, [3]*os.File{in, log, log})
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.HasLen(list, 2))
	qt.Check(t, qt.Equals(list[0].Kind, FIFO))
	qt.Check(t, qt.Equals(list[0].FD, 0))
	qt.Check(t, qt.Equals(list[0].Flags&unix.O_ACCMODE, unix.O_RDWR))
	qt.Check(t, qt.Equals(list[1].Kind, File))
	qt.Check(t, qt.Equals(list[1].FD, 1))
	qt.Check(t, qt.Equals(list[1].Flags&unix.O_APPEND, unix.O_APPEND))
	for i, f := range []*os.File{in, log} {
		var st unix.Stat_t
		qt.Assert(t, qt.IsNil(unix.Fstat(int(f.Fd()), &st)))
		var mount, inode int
		_, err := fmt.Sscanf(list[i].Key, "file[%x:%x]", &mount, &inode)
		qt.Assert(t, qt.IsNil(err))
		qt.Check(t, qt.Equals(uint64(inode), st.Ino))
		qt.Check(t, qt.Equals(InheritKey(list[i].Key), list[i].Key[1:]))
	}
}

// What the program has closed is still named: another process may have it.
func TestFindClosed(t *testing.T) {
	log, err := os.Create(filepath.Join(t.TempDir(), "log"))
	qt.Assert(t, qt.IsNil(err))
	defer log.Close()
	list, err := Find(os.Getpid(), [3]*os.File{1: log})
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.HasLen(list, 1))
	qt.Check(t, qt.Equals(list[0].FD, 1))
	qt.Check(t, qt.Equals(list[0].Flags, 0))
}

func TestFindTerminal(t *testing.T) {
	master, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	qt.Assert(t, qt.IsNil(err))
	defer unix.Close(master)
	qt.Assert(t, qt.IsNil(unix.IoctlSetPointerInt(master, unix.TIOCSPTLCK, 0)))
	number, err := unix.IoctlGetInt(master, unix.TIOCGPTN)
	qt.Assert(t, qt.IsNil(err))
	fd, err := unix.Open(fmt.Sprintf("/dev/pts/%d", number), unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	qt.Assert(t, qt.IsNil(err))
	slave := os.NewFile(uintptr(fd), "slave")
	defer slave.Close()
	list, err := Find(os.Getpid(), [3]*os.File{slave, slave, slave})
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.HasLen(list, 1))
	qt.Check(t, qt.Equals(list[0].Kind, Terminal))
	qt.Check(t, qt.Equals(InheritKey(list[0].Key), list[0].Key))
	var rdev, dev int
	_, err = fmt.Sscanf(list[0].Key, "tty[%x:%x]", &rdev, &dev)
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.Equals(rdev, 136<<8|number))
}

func TestFindOther(t *testing.T) {
	dir, err := os.Open(t.TempDir())
	qt.Assert(t, qt.IsNil(err))
	defer dir.Close()
	_, err = Find(os.Getpid(), [3]*os.File{2: dir})
	qt.Check(t, qt.ErrorMatches(err, "name standard stream 2: .*neither a file nor a FIFO nor a terminal"))
}
