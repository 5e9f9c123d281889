package criu

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/go-quicktest/qt"
	"golang.org/x/sys/unix"
)

// fake is a program that takes CRIU's place: a shell script whose descriptor 3
// is the RPC socket.
func fake(t *testing.T, script string) Client {
	t.Helper()
	path := filepath.Join(t.TempDir(), "criu")
	qt.Assert(t, qt.IsNil(os.WriteFile(path, []byte("#!/bin/sh\n"+script), 0o755)))
	return Client{Path: path}
}

func restore(ctx context.Context, t *testing.T, c Client) error {
	t.Helper()
	r, err := c.StartRestore(ctx, StartOptions{})
	qt.Assert(t, qt.IsNil(err))
	_, err = r.Run(ctx, RestoreOptions{Images: t.TempDir(), WorkDir: t.TempDir(), Root: "/"})
	qt.Check(t, qt.IsNil(r.Close())) // Run has
	return err
}

// A restore that comes to nothing before CRIU is told of it ends it.
func TestRestoreNotRun(t *testing.T) {
	r, err := fake(t, "exec sleep 1000").StartRestore(t.Context(), StartOptions{})
	qt.Assert(t, qt.IsNil(err))
	s := r.s
	qt.Assert(t, qt.IsNil(r.Close()))
	qt.Assert(t, qt.IsNotNil(s.cmd.ProcessState))
	qt.Assert(t, qt.IsNil(r.Close()))
}

// What Connect does has ended when Run returns, even if CRIU has failed before.
func TestRunWaitsForConnect(t *testing.T) {
	r, err := fake(t, "exit 3").StartRestore(t.Context(), StartOptions{})
	qt.Assert(t, qt.IsNil(err))
	criu := r.s.ended
	ended := false
	_, err = r.Run(t.Context(), RestoreOptions{
		Images: t.TempDir(), WorkDir: t.TempDir(), Root: "/",
		Connect: func(context.Context) error {
			<-criu
			ended = true
			return os.ErrExist
		},
	})
	qt.Assert(t, qt.ErrorIs(err, os.ErrExist))
	qt.Assert(t, qt.ErrorMatches(err, "(?s)CRIU could not make the processes again: .*exit status 3.*"))
	qt.Assert(t, qt.IsTrue(ended))
}

func TestInheritedFileIsOneOfThoseGiven(t *testing.T) {
	r, err := fake(t, "cat <&3 >/dev/null").StartRestore(t.Context(), StartOptions{Files: []*os.File{os.Stdin}})
	qt.Assert(t, qt.IsNil(err))
	_, err = r.Run(t.Context(), RestoreOptions{
		Images: t.TempDir(), WorkDir: t.TempDir(), Root: "/", Inherit: []Inherit{{Key: "other", File: os.Stderr}},
	})
	qt.Assert(t, qt.ErrorMatches(err, "inherit other: criu was started without it"))
}

func TestCRIUThatFails(t *testing.T) {
	tests := map[string]struct{ script, err string }{
		"ends at once":     {"exit 3", "(?s)CRIU could not make the processes again: .*exit status 3"},
		"is killed":        {"kill -9 $$", "(?s)CRIU could not make the processes again: .*signal: killed"},
		"talks nonsense":   {"echo nonsense >&3; cat <&3 >/dev/null", "CRIU could not make the processes again: decode criu answer: .*"},
		"leaves a process": {"(sleep 1000 & echo $! >$0.pid); exit 3", "(?s)CRIU could not make the processes again: .*exit status 3"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			c := fake(t, tt.script)
			err := restore(t.Context(), t, c)
			qt.Assert(t, qt.ErrorMatches(err, tt.err))
			if b, rerr := os.ReadFile(c.Path + ".pid"); rerr == nil {
				var pid int
				_, serr := fmt.Sscan(string(b), &pid)
				qt.Assert(t, qt.IsNil(serr))
				qt.Assert(t, qt.IsNil(ends(pid)))
			}
		})
	}
}

// ends waits for the end of a process that somebody else reaps.
func ends(pid int) error {
	pidfd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return err
	}
	defer unix.Close(pidfd)
	deadline := time.Now().Add(30 * time.Second)
	for {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}, int(time.Until(deadline).Milliseconds()))
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return err
		case n == 0:
			return errors.Join(fmt.Errorf("process %d goes on", pid), unix.Kill(pid, unix.SIGKILL))
		default:
			return nil
		}
	}
}

func TestRestoreEndsWithItsContext(t *testing.T) {
	c := fake(t, "exec sleep 1000")
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	err := restore(ctx, t, c)
	qt.Assert(t, qt.ErrorIs(err, context.DeadlineExceeded))
}

func TestMissingCRIU(t *testing.T) {
	_, err := Client{Path: "/no/criu"}.Version(t.Context())
	qt.Assert(t, qt.ErrorIs(err, os.ErrNotExist))
}

func TestErrorLines(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	text := "(00.1) Warn  (a.c:1): never\n(00.2) Error (b.c:2): rlimit: Can't setup RLIMIT_NOFILE\n"
	for i := range 9 {
		text += fmt.Sprintf("(00.3) Error (c.c:%d): no %d\n", i, i)
	}
	qt.Assert(t, qt.IsNil(os.WriteFile(path, []byte(text), 0o600)))
	qt.Assert(t, qt.DeepEquals(errorLines(path), []string{
		"(c.c:0): no 0", "(c.c:1): no 1", "(c.c:2): no 2", "(c.c:6): no 6", "(c.c:7): no 7", "(c.c:8): no 8",
	}))
	err := failure("dump", nil, path, errors.New("because"))
	qt.Assert(t, qt.ErrorMatches(err, "CRIU could not save the processes: because"))
	var failed *Error
	qt.Assert(t, qt.ErrorAs(err, &failed))
	qt.Check(t, qt.Equals(failed.Details()[0], "(c.c:0): no 0"))
	qt.Assert(t, qt.HasLen(errorLines(filepath.Join(t.TempDir(), "missing")), 0))
}
