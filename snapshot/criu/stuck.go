package criu

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// stuckAfter is how often somebody looks whether CRIU, in what takes it milliseconds
// otherwise, waits for ever. It is ended if two looks find the same.
const stuckAfter = 5 * time.Second

// endIfStuck ends CRIU if it waits in vain for tasks that it has killed. When it
// fails between its post-restore notification and the tasks' running, it kills the
// root task and waits for it; but if that has threads and is process 1 of a pid
// namespace, the namespace waits in turn for those threads, which CRIU traces, to
// be waited for by CRIU (kernel/pid_namespace.c, zap_pid_ns_processes).
//
// The end of the root task alone proves nothing: a program may end at once, while CRIU
// still lets go of other tasks. So CRIU must also have done nothing from one look to
// the next. If it was slow all the same, nothing is lost by its end: all tasks of the
// namespace are being killed with the root task.
//
// It looks again and again until CRIU has ended.
func (s *session) endIfStuck(root int, every time.Duration) {
	go func() { // ends with CRIU, which close waits for
		look := stuckness{criu: s.cmd.Process.Pid, root: root}
		for {
			t := time.NewTimer(every)
			select {
			case <-s.ended:
				t.Stop()
				return
			case <-t.C:
				if look.again() {
					s.kill()
					return
				}
			}
		}
	}()
}

// stuckness is what was found so far.
type stuckness struct {
	criu, root int
	idle       string // what CRIU had done by the last look; empty if it was at work
}

// again looks once more, and tells whether CRIU is stuck.
func (s *stuckness) again() bool {
	before := s.idle
	s.idle = ""
	if ending(s.root) {
		s.idle = idleness(s.criu)
	}
	return s.idle != "" && s.idle == before
}

// ending tells whether a process has ended, or has come to its end, and is still
// there. If its last thread to end is the first one it is no zombie, but sleeps in
// zap_pid_ns_processes.
func ending(pid int) bool {
	const exiting = 0x4 // PF_EXITING (include/linux/sched.h)
	stat := statOf(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	if len(stat) < 7 {
		return false
	}
	flags, err := strconv.ParseUint(stat[6], 10, 64)
	return stat[0] == "Z" || err == nil && flags&exiting != 0
}

// statOf reads the fields of a stat file from the third one on, the state: what is
// before, the name in parentheses, may hold anything.
func statOf(path string) []string {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil
	}
	return strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
}

// idleness is what the processes of a group have done so far, in some text that
// changes with all that they do; empty if one of them is not asleep, or that is not
// known. It is a group, for CRIU may be behind a wrapper.
func idleness(group int) string {
	stats, err := filepath.Glob("/proc/[0-9]*/task/[0-9]*/stat")
	if err != nil {
		return ""
	}
	var text strings.Builder
	for _, path := range stats {
		stat := statOf(path)
		if len(stat) < 3 || stat[2] != strconv.Itoa(group) || stat[0] == "Z" {
			continue // another group; or it has ended
		}
		if stat[0] != "S" {
			return ""
		}
		status, err := os.ReadFile(filepath.Join(filepath.Dir(path), "status"))
		if err != nil {
			return ""
		}
		fmt.Fprint(&text, path)
		for line := range strings.Lines(string(status)) {
			if strings.Contains(line, "ctxt_switches") {
				text.WriteString(" " + strings.TrimSpace(line))
			}
		}
		text.WriteByte('\n')
	}
	return text.String()
}
