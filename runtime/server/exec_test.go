package server

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/go-quicktest/qt"
	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/runtime/api"
	"github.com/snapctl/snapctl/runtime/app"
	"github.com/snapctl/snapctl/runtime/client"
)

// run runs a command in the app "web", with pipes.
func (w *world) run(t *testing.T, input string, start *api.ExecStart) (code int, stdout, stderr string) {
	t.Helper()
	start.Name = "web"
	var out, errs bytes.Buffer
	code, err := w.Exec(t.Context(), client.Exec{Start: start, Stdin: io.NopCloser(strings.NewReader(input)), Stdout: &out, Stderr: &errs})
	qt.Assert(t, qt.IsNil(err))
	return code, out.String(), errs.String()
}

func TestExec(t *testing.T) {
	w := begin(t)
	a := w.live(t)
	code, stdout, stderr := w.run(t, "hello\n", &api.ExecStart{
		Args: []string{"/bin/sh", "-c", `read x; echo "$x $WHO $(id -u):$(id -g) $(pwd)"; echo bad >&2; exit 3`},
		Env:  []string{"WHO=you"}, User: "33:44", Workdir: "/usr",
	})
	qt.Check(t, qt.Equals(code, 3))
	qt.Check(t, qt.Equals(stdout, "hello you 33:44 /usr\n"))
	qt.Check(t, qt.Equals(stderr, "bad\n"))

	// It is in the app's namespaces, and not one of its processes.
	rec, _ := a.Read()
	inside, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/ipc", rec.Process.PID))
	qt.Assert(t, qt.IsNil(err))
	code, stdout, _ = w.run(t, "", &api.ExecStart{Args: []string{"/bin/readlink", "/proc/self/ns/ipc"}})
	qt.Check(t, qt.Equals(code, 0))
	qt.Check(t, qt.Equals(strings.TrimSpace(stdout), inside))

	code, _, _ = w.run(t, "", &api.ExecStart{Args: []string{"/bin/sh", "-c", "kill -9 $$"}})
	qt.Check(t, qt.Equals(code, 128+9))
	pids, err := a.Cgroup().PIDs()
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.DeepEquals(pids, []int{rec.Process.PID}))
}

// TestExecWithATerminal proves that a command has a terminal of the size that its client has, and
// that the end of the client's input is the end of its own.
func TestExecWithATerminal(t *testing.T) {
	w := begin(t)
	w.live(t)
	var out bytes.Buffer
	sizes := make(chan client.Size)
	input, typist := io.Pipe()
	seen := make(chan struct{})
	go func() {
		<-seen
		sizes <- client.Size{Rows: 50, Columns: 132}
		// A shell that reads says its sizes only when it has a line.
		_, _ = typist.Write([]byte("go\n"))
		_ = typist.Close()
	}()
	code, err := w.Exec(t.Context(), client.Exec{
		Start:  &api.ExecStart{Name: "web", Args: []string{"/bin/sh", "-c", `stty size; read x; stty size; cat; echo over`}, Tty: true, Rows: 24, Columns: 80},
		Stdin:  input,
		Stdout: &told{first: func() { close(seen) }, to: &out}, Resize: sizes,
	})
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.Equals(code, 0))
	var lines []string
	for s := bufio.NewScanner(&out); s.Scan(); {
		lines = append(lines, strings.TrimSpace(s.Text()))
	}
	qt.Check(t, qt.DeepEquals(lines, []string{"24 80", "go", "50 132", "over"})) // "go" is the terminal's echo
}

// TestEndOfAnExec proves that a command ends with its client.
func TestEndOfAnExec(t *testing.T) {
	w := begin(t)
	a := w.live(t)
	rec, _ := a.Read()
	ctx, cancel := context.WithCancel(t.Context())
	command := -1 // a pidfd
	_, err := w.Exec(ctx, client.Exec{
		Start: &api.ExecStart{Name: "web", Args: []string{"/bin/sh", "-c", "echo begun; exec sleep 60"}},
		Stdout: &told{to: io.Discard, first: func() {
			defer cancel()
			pids, err := a.Cgroup().PIDs()
			qt.Check(t, qt.IsNil(err))
			for _, pid := range pids {
				if pid != rec.Process.PID {
					command, err = unix.PidfdOpen(pid, 0)
					qt.Check(t, qt.IsNil(err))
				}
			}
		}},
	})
	qt.Check(t, qt.ErrorIs(err, context.Canceled))
	qt.Assert(t, qt.Not(qt.Equals(command, -1)), qt.Commentf("it does not run in the app's cgroup"))
	defer unix.Close(command)
	// The client does not wait for the end of the command.
	n, err := unix.Poll([]unix.PollFd{{Fd: int32(command), Events: unix.POLLIN}}, 10_000)
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.Equals(n, 1), qt.Commentf("it still runs"))
}

func TestExecsThatAreRefused(t *testing.T) {
	w := begin(t)
	w.add(t, "cache", app.Held)
	w.add(t, "web", app.Running)
	args := []string{"true"}
	for _, test := range []struct {
		start *api.ExecStart
		is    error
		text  string
	}{
		{&api.ExecStart{Name: "cache", Args: args}, errdefs.ErrFailedPrecondition, "app cache is held: exec needs a running app"},
		{&api.ExecStart{Name: "web"}, errdefs.ErrInvalidArgument, ".*no command to run"},
		{&api.ExecStart{Name: "web", Args: args, Workdir: "srv"}, errdefs.ErrInvalidArgument, `.*working directory "srv" is not an absolute path`},
		{&api.ExecStart{Name: "web", Args: args, User: "33:x"}, errdefs.ErrInvalidArgument, `.*user "33:x": want NAME, UID or UID:GID`},
	} {
		_, err := w.Exec(t.Context(), client.Exec{Start: test.start})
		qt.Check(t, qt.ErrorIs(err, test.is), qt.Commentf("%v", test.start))
		qt.Check(t, qt.ErrorMatches(err, test.text))
	}
}

// told says when the first bytes are written to it, and hands all on.
type told struct {
	first func()
	to    io.Writer
}

func (w *told) Write(b []byte) (int, error) {
	n, err := w.to.Write(b)
	if w.first != nil {
		w.first()
		w.first = nil
	}
	return n, err
}
