package preflight

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// process is what /proc tells of one.
type process struct {
	pid, parent int
	// inside, session and group are ids of the innermost pid namespace.
	inside, session, group int
	name                   string
	state                  byte // as in stat(5): R, S, D, Z ...
	status                 map[string]string
	cgroups                string // the lines of /proc/PID/cgroup
	threads                []*thread
}

// thread is what /proc tells of one.
type thread struct {
	tid    int
	name   string
	policy int // sched(7)
	// terminal is the device number of the controlling terminal; 0 for none.
	terminal int
}

func readProcess(pid int) (*process, error) {
	dir := "/proc/" + strconv.Itoa(pid)
	status, err := os.ReadFile(dir + "/status")
	if err != nil {
		return nil, err
	}
	cgroups, err := os.ReadFile(dir + "/cgroup")
	if err != nil {
		return nil, err
	}
	p := &process{pid: pid, status: parseStatus(string(status)), cgroups: string(cgroups)}
	p.name, p.state = p.status["Name"], (p.status["State"] + "?")[0]
	p.parent, err = strconv.Atoi(p.status["PPid"])
	if err != nil {
		return nil, fmt.Errorf("parse %s/status: %w", dir, err)
	}
	for key, to := range map[string]*int{"NSpid": &p.inside, "NSsid": &p.session, "NSpgid": &p.group} {
		if *to, err = innermost(p.status[key]); err != nil {
			return nil, fmt.Errorf("parse %s/status: %s: %w", dir, key, err)
		}
	}
	tasks, err := os.ReadDir(dir + "/task")
	if err != nil {
		return nil, err
	}
	for _, entry := range tasks {
		t, err := readThread(dir+"/task/"+entry.Name(), entry.Name())
		if gone(err) {
			continue
		}
		if err != nil {
			return nil, err
		}
		p.threads = append(p.threads, t)
	}
	return p, nil
}

// readThread reads /proc/PID/task/TID/stat, proc_pid_stat(5).
func readThread(dir, name string) (*thread, error) {
	b, err := os.ReadFile(dir + "/stat")
	if err != nil {
		return nil, err
	}
	tid, err := strconv.Atoi(name)
	if err != nil {
		return nil, err
	}
	// The name, in parentheses, may hold anything.
	begin, end := bytes.IndexByte(b, '('), bytes.LastIndexByte(b, ')')
	if begin < 0 || end < begin {
		return nil, fmt.Errorf("parse %s/stat: no name", dir)
	}
	const terminalField, policyField = 7 - 3, 41 - 3 // of those after the name, of which the first is the third
	fields := strings.Fields(string(b[end+1:]))
	if len(fields) <= policyField {
		return nil, fmt.Errorf("parse %s/stat: %d fields", dir, len(fields))
	}
	policy, err := strconv.Atoi(fields[policyField])
	if err != nil {
		return nil, fmt.Errorf("parse %s/stat: %w", dir, err)
	}
	terminal, err := strconv.Atoi(fields[terminalField])
	if err != nil {
		return nil, fmt.Errorf("parse %s/stat: %w", dir, err)
	}
	return &thread{tid: tid, name: string(b[begin+1 : end]), policy: policy, terminal: terminal}, nil
}

// parseStatus reads the "Name:  value" lines of /proc/PID/status.
func parseStatus(text string) map[string]string {
	out := make(map[string]string)
	for line := range strings.Lines(text) {
		if name, value, ok := strings.Cut(line, ":"); ok {
			out[name] = strings.TrimSpace(value)
		}
	}
	return out
}

var errNoID = errors.New("no id")

// innermost is the last of the ids that a process has in one pid namespace after the
// other.
func innermost(ids string) (int, error) {
	fields := strings.Fields(ids)
	if len(fields) == 0 {
		return 0, errNoID
	}
	return strconv.Atoi(fields[len(fields)-1])
}

// What kcmp(2) compares, linux/kcmp.h.
const (
	kcmpVM    = 1
	kcmpFiles = 2
	kcmpFS    = 3
)

// same tells whether two tasks share a resource. Where the kernel can't tell, it is
// taken to be as usual.
func same(a, b, what int, usual bool) (bool, error) {
	r, _, errno := unix.Syscall6(unix.SYS_KCMP, uintptr(a), uintptr(b), uintptr(what), 0, 0, 0)
	switch errno { //nolint:exhaustive // the others are errors
	case 0:
		return r == 0, nil
	case unix.ENOSYS, unix.EOPNOTSUPP:
		return usual, nil
	default:
		return usual, errno
	}
}
