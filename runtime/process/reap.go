package process

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// OpenRoot opens the one of some processes that is number 1 in its pid namespace, or
// returns nil if there is none. The caller closes the process.
func OpenRoot(pids []int) (*Process, error) {
	for _, pid := range pids {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		if err != nil {
			continue // it ended meanwhile
		}
		for line := range strings.Lines(string(b)) {
			// NSpid lists the numbers from our namespace inwards.
			if f := strings.Fields(line); len(f) > 2 && f[0] == "NSpid:" && f[len(f)-1] == "1" {
				return Open(pid)
			}
		}
	}
	return nil, nil
}

// Reap reaps the ended processes of a cgroup that CRIU made as children
// of this process, of a restore that did not come to its end. The kernel shows
// a zombie's cgroup until it is reaped (cgroup-v2.rst, "Processes").
func Reap(group string) error {
	lists, err := filepath.Glob("/proc/self/task/*/children")
	if err != nil {
		return err
	}
	for _, list := range lists {
		b, err := os.ReadFile(list)
		if err != nil {
			continue // that thread has ended
		}
		for text := range strings.FieldsSeq(string(b)) {
			pid, err := strconv.Atoi(text)
			if err != nil {
				return fmt.Errorf("reap processes: %w", err)
			}
			f, err := statFields(pid)
			if err != nil || f[0] != "Z" || !inCgroup(pid, group) {
				continue
			}
			if err := unix.Waitid(unix.P_PID, pid, nil, unix.WEXITED, nil); err != nil && !errors.Is(err, unix.ECHILD) {
				return fmt.Errorf("reap process %d: %w", pid, err)
			}
		}
	}
	return nil
}

func inCgroup(pid int, group string) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	return err == nil && strings.Contains("\n"+string(b), "\n0::"+group+"\n")
}
