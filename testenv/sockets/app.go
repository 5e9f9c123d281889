package sockets

import (
	"context"
	"fmt"
	"io"
	"math"
	"os"
	"os/exec"
	"testing"

	"github.com/go-quicktest/qt"
	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/testenv"
	"github.com/snapctl/snapctl/testenv/leak"
)

// Main is what a package's TestMain returns to os.Exit: it makes the test binary play the
// app, a process that has the descriptors that a test gave it, until its input ends. Otherwise
// it runs the tests, and checks that they leave nothing behind.
func Main(m *testing.M) int {
	if len(os.Args) != 3 || os.Args[1] != "keep" {
		// An app has nothing of what whoever runs the tests has left open.
		if err := unix.CloseRange(3, math.MaxUint32, unix.CLOSE_RANGE_CLOEXEC); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		return leak.Main(m)
	}
	if os.Args[2] == "uring" {
		if err := mapUring(3); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
	}
	if _, err := os.Stdout.Write([]byte("ready\n")); err != nil {
		return 1
	}
	if _, err := io.Copy(io.Discard, os.Stdin); err != nil {
		return 1
	}
	return 0
}

// mapUring maps a ring of the io_uring at fd and closes the descriptor.
func mapUring(fd int) error {
	if _, err := unix.Mmap(fd, 0, os.Getpagesize(), unix.PROT_READ, unix.MAP_SHARED); err != nil {
		return err
	}
	return unix.Close(fd)
}

// App is a process in the world.
type App struct {
	cmd  *exec.Cmd
	quit io.Closer
	PID  int
}

// Run starts a process that has the files as descriptors 3 and on, and only it:
// ours are closed.
func (w *World) Run(files ...*os.File) *App {
	w.T.Helper()
	return w.RunAs("plain", files...)
}

// RunAs does the same with a process that also does something to its files.
func (w *World) RunAs(role string, files ...*os.File) *App {
	w.T.Helper()
	exe, err := os.Executable()
	qt.Assert(w.T, qt.IsNil(err))
	cmd := exec.CommandContext(context.WithoutCancel(w.T.Context()), exe, "keep", role)
	cmd.ExtraFiles = files
	stdin, err := cmd.StdinPipe()
	qt.Assert(w.T, qt.IsNil(err))
	stdout, err := cmd.StdoutPipe()
	qt.Assert(w.T, qt.IsNil(err))
	w.Do(func() { qt.Assert(w.T, qt.IsNil(cmd.Start())) })
	a := &App{cmd: cmd, quit: stdin, PID: cmd.Process.Pid}
	w.T.Cleanup(func() { a.Kill(w.T) })
	_, err = io.ReadFull(stdout, make([]byte, 6))
	qt.Assert(w.T, qt.IsNil(err))
	Close(w.T, files...)
	return a
}

// Kill ends the process as a hibernation does.
func (a *App) Kill(tb testing.TB) {
	tb.Helper()
	if a.cmd.ProcessState != nil {
		return
	}
	qt.Assert(tb, qt.IsNil(a.cmd.Process.Kill()))
	_, err := a.cmd.Process.Wait()
	qt.Assert(tb, qt.IsNil(err))
	a.cmd.ProcessState = &os.ProcessState{}
}

// RunConnected starts a process with a listener and n connections, whose clients are ours.
func (w *World) RunConnected(n int) (_ *App, clients []*os.File) {
	w.T.Helper()
	var rl unix.Rlimit
	qt.Assert(w.T, qt.IsNil(unix.Getrlimit(unix.RLIMIT_NOFILE, &rl)))
	testenv.Need(w.T, func(context.Context) error {
		if rl.Cur < uint64(3*n+200) {
			return fmt.Errorf("RLIMIT_NOFILE is %d, want %d", rl.Cur, 3*n+200)
		}
		return nil
	})
	l := w.Listen(App4, 100)
	to := w.Local(l)
	files := []*os.File{l}
	clients = make([]*os.File, n)
	for i := range n {
		clients[i] = w.Dial(App4, to)
		files = append(files, w.Accept(l))
	}
	return w.Run(files...), clients
}
