package criu

import (
	"bufio"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// A process that writes without an end, as CRIU does in a dump, fails at its next write.
func TestGiveUp(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	// It says when it writes, and then writes until it can't.
	const program = `echo writing; while echo x; do :; done >"$1" 2>/dev/null; echo failed; read -r _`
	cmd := ignoring(t.Context(), "/bin/sh", "-c", program, "sh", file)
	out, in := output(t, cmd)
	out.next(t, "writing")
	if err := giveUp(cmd.Process.Pid); err != nil {
		t.Fatal(err)
	}
	out.next(t, "failed") // and it goes on
	if err := in.Close(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // it read nothing
}

// A process that would end of it is left alone.
func TestGiveUpSparesWhoWouldEnd(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	const program = `echo running; read -r _; echo x >"$1" && echo written`
	cmd := exec.CommandContext(t.Context(), "/bin/sh", "-c", program, "sh", file)
	out, in := output(t, cmd)
	out.next(t, "running")
	if err := giveUp(cmd.Process.Pid); err != nil {
		t.Fatal(err)
	}
	if _, err := in.WriteString("\n"); err != nil {
		t.Fatal(err)
	}
	out.next(t, "written")
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
}

// Whoever has settled first decides.
func TestSettled(t *testing.T) {
	cmd := ignoring(t.Context(), "/bin/sh", "-c", "echo running; read -r _; echo x >/dev/stderr")
	out, in := output(t, cmd)
	out.next(t, "running")
	s := &session{cmd: cmd}

	ctx, cancel := context.WithCancel(t.Context())
	settled := s.giveUpWhen(ctx)
	if !settled() {
		t.Error("settled() = false before ctx ended")
	}
	cancel()
	if !settled() {
		t.Error("settled() = false after it was true")
	}
	if limit := limits(t, cmd.Process.Pid); !strings.Contains(limit, "unlimited") {
		t.Errorf("after it was settled the limit is %q", limit)
	}

	ctx, cancel = context.WithCancel(t.Context())
	settled = s.giveUpWhen(ctx)
	cancel()
	if settled() {
		t.Error("settled() = true after ctx ended")
	}
	if limit := limits(t, cmd.Process.Pid); strings.Contains(limit, "unlimited") {
		t.Errorf("after ctx ended the limit is %q", limit)
	}
	if err := in.Close(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
}

// limits is the line of /proc/PID/limits about the size of files.
func limits(t *testing.T, pid int) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "limits"))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		if strings.HasPrefix(line, "Max file size") {
			return line
		}
	}
	t.Fatal("no limit of the size of files")
	return ""
}

type lines struct{ *bufio.Scanner }

// next waits for a line that a process prints.
func (l lines) next(t *testing.T, want string) {
	t.Helper()
	if !l.Scan() || l.Text() != want {
		t.Fatalf("the process printed %q, %v; want %q", l.Text(), l.Err(), want)
	}
}

// output starts a command, and returns what it prints and its standard input.
func output(t *testing.T, cmd *exec.Cmd) (lines, *os.File) {
	t.Helper()
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	r, in, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = in.Close(), r.Close() })
	cmd.Stdin = r
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return lines{bufio.NewScanner(out)}, in
}
