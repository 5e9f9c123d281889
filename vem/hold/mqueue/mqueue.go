// Package mqueue looks at the POSIX message queues, mq_overview(7), of other processes.
//
// The queues live in the app's ipc namespace: the names in its file system, the messages in
// the files. CRIU saves neither. Nor can anybody read a message and leave it there, or give a
// queue a name in another namespace. So two things are held: each open descriptor, as for other
// objects, and the namespace. The namespace is the caller's business. CRIU has to be started in
// it at the dump and at the restore, and then leaves it alone.
package mqueue

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/vem/hold"
	"github.com/snapctl/snapctl/vem/hold/proc"
)

// magic is the type of their file system, ipc/mqueue.c.
const magic = 0x19800202

// Mount is where an app must have the file system of its queues mounted
// for them to be held: CRIU must be told that it is external, or fails with a
// queue in it (filesystems.c, dump_empty_fs).
const Mount = "/dev/mqueue"

// Device is the device number of the file system that a process has at [Mount]; 0 without.
func Device(pid int) uint64 {
	dir := fmt.Sprintf("/proc/%d/root%s", pid, Mount)
	var fs unix.Statfs_t
	var st unix.Stat_t
	if unix.Statfs(dir, &fs) != nil || fs.Type != magic || unix.Stat(dir, &st) != nil {
		return 0
	}
	return st.Dev
}

// Names lists the queues that a process sees by name; none without a file system at [Mount].
func Names(pid int) ([]string, error) {
	if Device(pid) == 0 {
		return nil, nil
	}
	entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/root%s", pid, Mount))
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil // the process is gone
	}
	if err != nil {
		return nil, fmt.Errorf("list message queues: %w", err)
	}
	names := make([]string, len(entries))
	for i, e := range entries {
		names[i] = e.Name()
	}
	return names, nil
}

// External names an open queue as CRIU does (files-reg.c, dump_one_reg_file). It refuses a
// queue that is to notify somebody, with an *[hold.UnsupportedError]: the kernel forgets that
// when the process ends (ipc/mqueue.c, mqueue_flush_file).
func External(pid, fd int) (string, error) {
	path := proc.FDPath(pid, fd)
	if Notifies(path) {
		return "", Notifying().Refusal(pid, fd)
	}
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return "", proc.Gone(pid, err)
	}
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/fdinfo/%d", pid, fd))
	if err != nil {
		return "", proc.Gone(pid, err)
	}
	for line := range strings.Lines(string(b)) {
		if value, ok := strings.CutPrefix(line, "mnt_id:"); ok {
			id, err := strconv.Atoi(strings.TrimSpace(value))
			return fmt.Sprintf("file[%x:%x]", id, st.Ino), err
		}
	}
	return "", fmt.Errorf("look at descriptor %d of process %d: no mnt_id", fd, pid)
}

// Notifying is the verdict on a queue that is to notify somebody.
func Notifying() hold.Verdict {
	return hold.Refuse(hold.Mqueue, "POSIX message queue with a notification", "try again, or have the app take back mq_notify: its registration ends with the process")
}

// Notifies tells whether mq_notify(3) is in force on the queue at path. The file says so: "QSIZE:129
// NOTIFY:2 SIGNO:0 NOTIFY_PID:8260", mq_overview(7). Opening it anew, since the
// app's descriptor may not read.
func Notifies(path string) bool {
	b, err := os.ReadFile(path)
	if err != nil {
		return false // closed meanwhile
	}
	_, pid, _ := strings.Cut(string(b), "NOTIFY_PID:")
	pid = strings.TrimSpace(pid)
	return pid != "" && pid != "0"
}

// Is tells whether a descriptor of a process leads to a queue.
func Is(pid, fd int) bool {
	var st unix.Statfs_t
	err := unix.Statfs(proc.FDPath(pid, fd), &st)
	return err == nil && st.Type == magic
}
