package hold

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// POSIX message queues live in the app's ipc namespace: the names in its file
// system, the messages in the files. CRIU saves neither. Nor can anybody read a
// message and leave it there, or give a queue a name in another namespace. So two
// things are held: each open descriptor, as for other objects, and the namespace. The
// namespace is the caller's business. CRIU has to be started in it at the dump and at the
// restore, and then leaves it alone.

// mqueueMagic is the type of their file system, ipc/mqueue.c.
const mqueueMagic = 0x19800202

// QueueMount is where an app must have the file system of its queues mounted
// for them to be held: CRIU must be told that it is external, or fails with a
// queue in it (filesystems.c, dump_empty_fs).
const QueueMount = "/dev/mqueue"

// Queues are the POSIX message queues of an app.
type Queues struct {
	Any bool // it has some, open or not
	// External is what CRIU must be told of open ones, as in [Set.External]:
	// they lie on the kernel's own mount.
	External []string
}

// FindQueues looks for the POSIX message queues of a running app. What the app
// changes later is for the caller to notice, by [Collect] of the frozen app.
func FindQueues(ctx context.Context, pids []int) (Queues, error) {
	var q Queues
	var o objects
	defer o.close()
	for _, pid := range pids {
		names, err := queueNames(pid)
		if err != nil {
			return q, err
		}
		q.Any = q.Any || len(names) > 0
		err = duplicate(ctx, pid, func(fd, copied int, at attributes) (bool, error) {
			if !o.isQueue(pid, at) {
				return false, nil
			}
			return o.add(Mqueue, pid, fd, copied)
		})
		if err != nil && !errors.Is(err, ErrGone) {
			return q, err
		}
	}
	for _, have := range o.list {
		q.Any = true
		q.External = append(q.External, have.external)
	}
	return q, nil
}

// isQueue tells whether a file lies on the file system that a process, or one
// that was asked for before, has for its queues.
func (o *objects) isQueue(pid int, at attributes) bool {
	if at.mode&unix.S_IFMT != unix.S_IFREG {
		return false
	}
	if o.asked != pid && o.queues == 0 {
		o.asked = pid
		o.queues = queueDevice(pid)
	}
	return o.queues != 0 && at.dev == o.queues
}

// queueDevice is the file system at a process's QueueMount, 0 without.
func queueDevice(pid int) uint64 {
	dir := fmt.Sprintf("/proc/%d/root%s", pid, QueueMount)
	var fs unix.Statfs_t
	var st unix.Stat_t
	if unix.Statfs(dir, &fs) != nil || fs.Type != mqueueMagic || unix.Stat(dir, &st) != nil {
		return 0
	}
	return st.Dev
}

// queueNames lists the queues that have a name.
func queueNames(pid int) ([]string, error) {
	if queueDevice(pid) == 0 {
		return nil, nil
	}
	entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/root%s", pid, QueueMount))
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

// queueExternal names an open queue as CRIU does (files-reg.c,
// dump_one_reg_file). It refuses one that is to notify somebody: the kernel
// forgets that when the process ends (ipc/mqueue.c, mqueue_flush_file).
func queueExternal(pid, fd int) (string, error) {
	path := fmt.Sprintf("%s/%d", fdDir(pid), fd)
	if notifies(path) {
		return "", notifyingQueue().refusal(pid, fd)
	}
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return "", gone(pid, err)
	}
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/fdinfo/%d", pid, fd))
	if err != nil {
		return "", gone(pid, err)
	}
	for line := range strings.Lines(string(b)) {
		if value, ok := strings.CutPrefix(line, "mnt_id:"); ok {
			id, err := strconv.Atoi(strings.TrimSpace(value))
			return fmt.Sprintf("file[%x:%x]", id, st.Ino), err
		}
	}
	return "", fmt.Errorf("look at descriptor %d of process %d: no mnt_id", fd, pid)
}

func notifyingQueue() Verdict {
	return refuse(Mqueue, "POSIX message queue with a notification", "try again, or have the app take back mq_notify: its registration ends with the process")
}

// notifies tells whether mq_notify(3) is in force. The file says so: "QSIZE:129
// NOTIFY:2 SIGNO:0 NOTIFY_PID:8260", mq_overview(7). Opening it anew, since the
// app's descriptor may not read.
func notifies(path string) bool {
	b, err := os.ReadFile(path)
	if err != nil {
		return false // closed meanwhile
	}
	_, pid, _ := strings.Cut(string(b), "NOTIFY_PID:")
	pid = strings.TrimSpace(pid)
	return pid != "" && pid != "0"
}

func isMqueue(pid, fd int) bool {
	var st unix.Statfs_t
	err := unix.Statfs(fdDir(pid)+"/"+strconv.Itoa(fd), &st)
	return err == nil && st.Type == mqueueMagic
}

// mqueue judges a descriptor that lies on the file system of message queues.
func (p *preflight) mqueue(pid, fd int, link string) (Verdict, bool) {
	switch {
	case p.copy:
		return refuse(Mqueue, "POSIX message queue "+link, copyRemedy), true
	case queueDevice(pid) == 0:
		return refuse(Mqueue, "POSIX message queue "+link, "mount the file system mqueue at "+QueueMount+" in the app"), true
	case notifies(fmt.Sprintf("%s/%d", fdDir(pid), fd)):
		return notifyingQueue(), true
	default:
		return Verdict{}, false
	}
}

const copyRemedy = "the app must close and unlink it: it can be held for a wake, but nobody can copy its messages"

// queues finds POSIX message queues that no process has open.
func (p *preflight) queues(pid int) error {
	if !p.copy {
		return nil
	}
	names, err := queueNames(pid)
	if err != nil {
		return err
	}
	for _, name := range names {
		v := refuse(Mqueue, "POSIX message queue /"+name, copyRemedy)
		if !p.found(v.What) {
			p.add(Error, pid, noFD, v)
		}
	}
	return nil
}
