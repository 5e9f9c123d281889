package session

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/go-quicktest/qt"
	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/runtime/client"
)

// openPTY makes a pseudo terminal, pty(7), of the given size.
func openPTY(t *testing.T, size client.Size) *os.File {
	t.Helper()
	keep := func(f *os.File, err error) *os.File {
		qt.Assert(t, qt.IsNil(err))
		t.Cleanup(func() { qt.Check(t, qt.IsNil(f.Close())) })
		return f
	}
	master := keep(os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0))
	fd := int(master.Fd())
	qt.Assert(t, qt.IsNil(unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0)))
	n, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	qt.Assert(t, qt.IsNil(err))
	resize(t, master, size)
	return keep(os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0))
}

func resize(t *testing.T, f *os.File, size client.Size) {
	t.Helper()
	w := &unix.Winsize{Row: uint16(size.Rows), Col: uint16(size.Columns)}
	qt.Assert(t, qt.IsNil(unix.IoctlSetWinsize(int(f.Fd()), unix.TIOCSWINSZ, w)))
}

func TestConsole(t *testing.T) {
	small, large := client.Size{Rows: 24, Columns: 80}, client.Size{Rows: 50, Columns: 132}
	tty := openPTY(t, small)
	var c Console
	qt.Assert(t, qt.IsTrue(c.Is(tty)))
	size, err := c.Size(tty)
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.Equals(size, small))

	canonical := func() bool {
		term, err := unix.IoctlGetTermios(int(tty.Fd()), unix.TCGETS)
		qt.Assert(t, qt.IsNil(err))
		return term.Lflag&unix.ICANON != 0
	}
	qt.Assert(t, qt.IsTrue(canonical()))
	restore, err := c.Raw(tty)
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.IsFalse(canonical()))
	qt.Assert(t, qt.IsNil(restore()))
	qt.Assert(t, qt.IsTrue(canonical()))

	ctx, cancel := context.WithCancel(t.Context())
	sizes := c.Resized(ctx, tty)
	resize(t, tty, large)
	qt.Assert(t, qt.IsNil(unix.Kill(os.Getpid(), unix.SIGWINCH))) // as the kernel does for the terminal's foreground group
	qt.Assert(t, qt.Equals(<-sizes, large))
	cancel()
	for range sizes { // ends
	}
}

func TestConsoleOfOtherStreams(t *testing.T) {
	var c Console
	null, err := os.Open(os.DevNull)
	qt.Assert(t, qt.IsNil(err))
	t.Cleanup(func() { qt.Check(t, qt.IsNil(null.Close())) })
	for _, stream := range []any{null, strings.NewReader("")} {
		qt.Check(t, qt.IsFalse(c.Is(stream)))
		_, err := c.Raw(stream)
		qt.Check(t, qt.IsNotNil(err))
		_, err = c.Size(stream)
		qt.Check(t, qt.IsNotNil(err))
	}
}
