package settings

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Apply sets the settings of restored processes, which must not run yet: pids are theirs,
// as the caller's pid namespace numbers them, and may have others among them. Notes are
// settings that this host does not allow. It is an error if nothing can be said of a
// process; the processes may be used all the same.
func Apply(pids []int, tasks []Task) (notes []string, err error) {
	if len(tasks) == 0 {
		return nil, nil
	}
	outside := make(map[[2]int]task)
	for _, pid := range pids {
		threads, err := threadsOf(pid)
		if err != nil {
			return nil, err
		}
		for _, t := range threads {
			outside[[2]int{t.process, t.thread}] = t
		}
	}
	for i := range tasks {
		t := &tasks[i]
		at, ok := outside[[2]int{t.Process, t.Thread}]
		if !ok {
			notes = append(notes, t.who()+" is not there: its scheduling settings are not set")
			continue
		}
		notes = append(notes, t.apply(at.pid, at.outside)...)
	}
	return notes, nil
}

// apply sets all of a thread's settings and tells what could not be set.
func (t *Task) apply(pid, tid int) (notes []string) {
	set := func(what string, err error) {
		if err != nil {
			notes = append(notes, fmt.Sprintf("%s does not get its %s back: %v", t.who(), what, err))
		}
	}
	if t.CPUs != nil {
		var cpus unix.CPUSet
		for _, cpu := range t.CPUs {
			cpus.Set(cpu)
		}
		err := unix.SchedSetaffinity(tid, &cpus)
		if errors.Is(err, unix.EINVAL) {
			err = errors.New("this host lets it have none of them")
		}
		set("CPU affinity, processors "+list(t.CPUs), err)
	}
	if t.IOPriority != nil {
		_, _, errno := unix.Syscall(unix.SYS_IOPRIO_SET, ioprioWhoProcess, uintptr(tid), uintptr(*t.IOPriority))
		set(fmt.Sprintf("I/O priority %d", *t.IOPriority), failure(errno))
	}
	if t.TimerSlackNS != nil {
		set(fmt.Sprintf("timer slack of %d ns", *t.TimerSlackNS), write(tid, "timerslack_ns", strconv.FormatUint(*t.TimerSlackNS, 10)))
	}
	if t.SliceNS != nil {
		attr, err := unix.SchedGetAttr(tid, 0)
		if err == nil {
			attr.Runtime = *t.SliceNS
			err = unix.SchedSetAttr(tid, attr, 0)
		}
		set(fmt.Sprintf("time slice of %d ns", *t.SliceNS), err)
	}
	if t.CoreFilter != "" {
		set("core dump filter 0x"+t.CoreFilter, write(pid, "coredump_filter", "0x"+t.CoreFilter))
	}
	if t.AutogroupNice != nil {
		set(fmt.Sprintf("autogroup's nice value %d", *t.AutogroupNice), write(pid, "autogroup", strconv.Itoa(*t.AutogroupNice)))
	}
	return notes
}

func failure(errno unix.Errno) error {
	if errno == 0 {
		return nil
	}
	return errno
}

func write(pid int, file, value string) error {
	f, err := os.OpenFile(fmt.Sprintf("/proc/%d/%s", pid, file), os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(value)
	return errors.Join(err, f.Close())
}

// list shortens numbers: "0-3,8".
func list(numbers []int) string {
	var parts []string
	sorted := slices.Sorted(slices.Values(numbers))
	for i := 0; i < len(sorted); {
		j := i
		for j+1 < len(sorted) && sorted[j+1] == sorted[j]+1 {
			j++
		}
		if part := strconv.Itoa(sorted[i]); i == j {
			parts = append(parts, part)
		} else {
			parts = append(parts, part+"-"+strconv.Itoa(sorted[j]))
		}
		i = j + 1
	}
	return strings.Join(parts, ",")
}

// task is one thread of a live process.
type task struct {
	pid, outside    int // of process and thread in the caller's pid namespace
	process, thread int // in their own
	name            string
}

// threadsOf lists the threads of a process; none if it has ended.
func threadsOf(pid int) ([]task, error) {
	dir := fmt.Sprintf("/proc/%d/task", pid)
	entries, err := os.ReadDir(dir)
	if gone(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list threads of process %d: %w", pid, err)
	}
	out := make([]task, 0, len(entries))
	for _, e := range entries {
		b, err := os.ReadFile(dir + "/" + e.Name() + "/status")
		if gone(err) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("read thread of process %d: %w", pid, err)
		}
		t := task{pid: pid}
		if t.outside, err = strconv.Atoi(e.Name()); err != nil {
			return nil, fmt.Errorf("list threads of process %d: %w", pid, err)
		}
		for line := range strings.Lines(string(b)) {
			name, value, _ := strings.Cut(line, ":")
			value = strings.TrimSpace(value)
			switch name {
			case "Name":
				t.name = value
			case "NStgid":
				t.process = last(value)
			case "NSpid":
				t.thread = last(value)
			}
		}
		out = append(out, t)
	}
	return out, nil
}

// last is the last of some numbers: the id in the innermost pid namespace.
func last(numbers string) int {
	fields := strings.Fields(numbers)
	if len(fields) == 0 {
		return 0
	}
	n, err := strconv.Atoi(fields[len(fields)-1])
	if err != nil {
		return 0
	}
	return n
}
