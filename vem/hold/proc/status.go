package proc

import (
	"fmt"
	"os"
	"strconv"
	"strings"
)

// Status is what /proc/PID/status tells of a process.
type Status struct {
	Tracer string   // the process that traces it, in our own pid namespace; "0" without
	pids   []string // its ids, from our own pid namespace down to its own
}

// ReadStatus reads a process's status.
func ReadStatus(pid int) (Status, error) {
	var st Status
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return st, Gone(pid, err)
	}
	for line := range strings.Lines(string(b)) {
		switch name, value, _ := strings.Cut(line, ":"); name {
		case "TracerPid":
			st.Tracer = strings.TrimSpace(value)
		case "NSpid":
			st.pids = strings.Fields(value)
		}
	}
	if len(st.pids) == 0 {
		return st, fmt.Errorf("look at process %d: no NSpid in its status", pid)
	}
	return st, nil
}

// first tells whether the process is the first one of its pid namespace.
func (s *Status) first() bool { return s.pids[len(s.pids)-1] == "1" }

// InnerPID is a process's id in its own pid namespace.
func InnerPID(pid int) (int, error) {
	st, err := ReadStatus(pid)
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(st.pids[len(st.pids)-1])
}
