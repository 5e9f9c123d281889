package testenv

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// patience bounds the wait for threads that are told to stop.
const patience = 30 * time.Second

// StopProcess has all threads of a process stand still by SIGSTOP, and returns when they do. goOn has them go
// on.
func StopProcess(t TB, pid int) (goOn func()) {
	t.Helper()
	if err := unix.Kill(pid, unix.SIGSTOP); err != nil {
		t.Fatalf("stop process %d: %v", pid, err)
	}
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(patience); running(t, pid); <-tick.C {
		if time.Now().After(deadline) {
			t.Fatalf("process %d does not stop within %s", pid, patience)
		}
	}
	return func() {
		t.Helper()
		if err := unix.Kill(pid, unix.SIGCONT); err != nil {
			t.Errorf("have process %d go on: %v", pid, err)
		}
	}
}

// running tells whether a thread of a process is not stopped.
func running(t TB, pid int) bool {
	t.Helper()
	threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", pid))
	if err != nil || len(threads) == 0 {
		t.Fatalf("look at the threads of process %d, which may have ended: %v", pid, err)
	}
	for _, path := range threads {
		if b, err := os.ReadFile(path); err == nil && !strings.Contains(string(b), ") T ") {
			return true
		}
	}
	return false
}
