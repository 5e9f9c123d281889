package preflight

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// state judges what the process as a whole is doing.
func (l *look) state(p *process) error {
	// CRIU takes a process whose first thread has ended for one that has ended as a
	// whole (proc_parse.c, parse_pid_status: state Z), and fails on its threads.
	if n, _ := strconv.Atoi(p.status["Threads"]); p.state == 'Z' && n > 1 {
		l.refuse(p, "has ended its first thread, and other threads go on", "the program has to keep its first thread: CRIU can't save such a process")
	}
	// A trap that waits would look to CRIU like one of its own (parasite-syscall.c).
	for _, key := range []string{"SigPnd", "ShdPnd"} {
		set, err := strconv.ParseUint(p.status[key], 16, 64)
		if err == nil && set&(1<<(unix.SIGTRAP-1)) != 0 {
			l.refuse(p, "has a SIGTRAP that waits", "try again: the program has to take it first")
			break
		}
	}
	return nil
}

// cgroups finds processes in a cgroup below the app's own, of either version: CRIU makes
// all of them in the app's.
func (l *look) cgroups(p *process) error {
	root := l.processes[l.opt.Root]
	// One that has ended is shown in the root of version 1 (kernel/cgroup/cgroup.c,
	// proc_cgroup_show).
	if l.opt.Cgroup == "" || root == nil || p.state == 'Z' {
		return nil
	}
	for line := range strings.Lines(p.cgroups) {
		id, path, ok := cgroupLine(line)
		if !ok {
			continue
		}
		want := l.opt.Cgroup
		if id != "0::" { // those of version 1 may have other names
			// One that is ending is shown in the root (kernel/cgroup/cgroup.c,
			// proc_cgroup_show: PF_EXITING).
			if want, ok = root.cgroup(id); !ok || path == "/" {
				continue
			}
		}
		if path != want {
			l.refuse(p, "is in the cgroup "+strconv.Quote(path)+", which is not the app's own "+strconv.Quote(want),
				"run what makes cgroups (systemd, container engines) beside the app and not inside; or move the process back into the app's own cgroup")
			return nil
		}
	}
	return nil
}

func cgroupLine(line string) (id, path string, ok bool) {
	fields := strings.SplitN(strings.TrimSpace(line), ":", 3)
	if len(fields) != 3 {
		return "", "", false
	}
	return fields[0] + ":" + fields[1] + ":", fields[2], true
}

// cgroup is the process's cgroup in a hierarchy.
func (p *process) cgroup(id string) (string, bool) {
	for line := range strings.Lines(p.cgroups) {
		if have, path, ok := cgroupLine(line); ok && have == id {
			return path, true
		}
	}
	return "", false
}

// Scheduling policies, linux/sched.h.
const (
	schedDeadline = 6
	schedExt      = 7
)

// schedule finds threads that CRIU saves with a policy that it can't set
// (cr-restore.c, prep_sched_info: "Inconsistent sched params").
func (l *look) schedule(p *process) error {
	for _, t := range p.threads {
		switch t.policy {
		case schedDeadline:
			l.refuseThread(p, t, "is scheduled by SCHED_DEADLINE", "give it another policy while it sleeps, for example: chrt --other --pid 0 "+strconv.Itoa(t.tid))
		case schedExt:
			l.refuseThread(p, t, "is scheduled by SCHED_EXT", "give it another policy while it sleeps, for example: chrt --other --pid 0 "+strconv.Itoa(t.tid))
		}
	}
	return nil
}

// namespaces are those of a task. CRIU looks at those of a process's first thread alone.
func namespaces(dir string) map[string]string {
	out := make(map[string]string)
	for _, ns := range []string{"net", "uts", "ipc", "mnt", "cgroup", "time", "user", "pid"} {
		if link, err := os.Readlink(dir + "/ns/" + ns); err == nil {
			out[ns] = link
		}
	}
	return out
}

// threads finds what a thread has for itself alone: CRIU makes it with what the process has.
func (l *look) threads(p *process) error {
	if p.state == 'Z' {
		return nil // its first thread has nothing any more to compare with
	}
	dir := "/proc/" + strconv.Itoa(p.pid)
	var process map[string]string
	if len(p.threads) > 1 {
		process = namespaces(dir)
	}
	for _, t := range p.threads {
		if t.tid == p.pid {
			continue
		}
		task := dir + "/task/" + strconv.Itoa(t.tid)
		for ns, own := range namespaces(task) {
			if process[ns] != "" && own != process[ns] {
				l.refuseThread(p, t, "has a "+ns+" namespace of its own", "end the thread, or have it return to the process's namespace: CRIU brings all threads back in that")
			}
		}
		if shared, err := same(p.pid, t.tid, kcmpFiles, true); err != nil {
			return err
		} else if !shared {
			l.refuseThread(p, t, "has a table of open files of its own", "end the thread: CRIU saves the process's open files alone")
		}
		if shared, err := same(p.pid, t.tid, kcmpFS, true); err != nil {
			return err
		} else if !shared {
			l.ownDirectories(p, t, dir, task)
		}
	}
	return nil
}

// ownDirectories judges a thread that has its own working directory, root and umask,
// which may be the same as the process's for now.
func (l *look) ownDirectories(p *process, t *thread, dir, task string) {
	for _, name := range []string{"cwd", "root"} {
		own, err1 := os.Readlink(task + "/" + name)
		process, err2 := os.Readlink(dir + "/" + name)
		if err1 == nil && err2 == nil && own != process {
			word := map[string]string{"cwd": "working directory", "root": "root directory"}[name]
			l.refuseThread(p, t, fmt.Sprintf("has a %s of its own, %s", word, own), "end the thread: CRIU brings all threads back with what the process has")
			return
		}
	}
	b, err := os.ReadFile(task + "/status")
	if err != nil {
		return // it has ended
	}
	if own := parseStatus(string(b))["Umask"]; own != p.status["Umask"] {
		l.refuseThread(p, t, "has a umask of its own, "+own, "end the thread: CRIU brings all threads back with what the process has")
		return
	}
	l.note(who(p.pid, t.tid, t.name)+" does not share its working directory, root and umask with the process: after the wake it does", "")
}

const (
	vforkTime  = time.Second // for a child of vfork to execute its program
	vforkPause = 5 * time.Millisecond
)

// shared finds a child that shares memory, or the working directory, with its parent:
// CRIU can't save either (cr-dump.c, dump_task_kobj_ids). A child of vfork(2) does so
// until it executes a program, mostly for a moment, and that is waited for.
func (l *look) shared(p *process) error {
	parent := l.processes[p.parent]
	if parent == nil {
		return nil
	}
	for deadline := time.Now().Add(vforkTime); ; {
		vm, err := same(parent.pid, p.pid, kcmpVM, false)
		if err != nil {
			return err
		}
		if !vm {
			break
		}
		if time.Now().Before(deadline) {
			<-time.After(vforkPause) // no event tells of the end of a vfork
			continue
		}
		if now, err := readProcess(parent.pid); err == nil && now.state == 'D' {
			l.refuse(p, fmt.Sprintf("was made by vfork and has not executed a program yet: process %d (%s) stands still until it does", parent.pid, parent.name),
				"try again when it has: CRIU can't save a process in the middle of a vfork")
			return nil
		}
		l.refuse(p, fmt.Sprintf("shares its memory with its parent, process %d (%s)", parent.pid, parent.name), "use threads, or children with memory of their own: CRIU can't save processes that share it (CLONE_VM)")
		return nil
	}
	fs, err := same(parent.pid, p.pid, kcmpFS, false)
	if err != nil {
		return err
	}
	if fs {
		l.refuse(p, fmt.Sprintf("shares its working directory and umask with its parent, process %d (%s)", parent.pid, parent.name), "make the child without CLONE_FS: CRIU can't save processes that share them")
	}
	return nil
}
