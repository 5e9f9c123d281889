// Package sysv keeps what CRIU does not save of an app's System V shared memory and message
// queues: that a segment is to be removed when nobody has it attached any more (IPC_RMID),
// that it is locked in memory (SHM_LOCK), and how many bytes a queue takes (msg_qbytes).
// It is read while the app is frozen, saved with it, and set again when its processes are
// there and none runs.
//
// What nobody can set is lost: the times and process ids of the last operations, and the
// adjustments of SEM_UNDO.
//
// It needs CAP_SYS_ADMIN and CAP_IPC_LOCK. Cost: 0.1 ms, and 2 us a queue.
package sysv

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Marks are those of the objects of one ipc namespace.
type Marks struct {
	Segments []Segment `json:"segments,omitempty"` // those that have a mark
	Queues   []Queue   `json:"queues,omitempty"`   // those that have not the namespace's usual limit
}

// Segment is a segment of shared memory.
type Segment struct {
	ID      int  `json:"id"`
	Removed bool `json:"removed,omitempty"` // it ends with its last attachment
	Locked  bool `json:"locked,omitempty"`
}

// Queue is a message queue.
type Queue struct {
	ID       int    `json:"id"`
	MaxBytes uint64 `json:"max_bytes"`
}

// Bits of the mode of a segment, uapi/linux/shm.h and linux/shm.h.
const (
	shmDest   = 0o1000
	shmLocked = 0o2000
)

// Read reads the marks of the ipc namespace of a process, whose processes should be
// frozen. It returns nil if there are none.
func Read(pid int) (*Marks, error) {
	var m Marks
	err := inIPC(pid, func() error {
		segments, err := table("shm")
		if err != nil {
			return err
		}
		for _, s := range segments {
			if s.mode&(shmDest|shmLocked) != 0 {
				m.Segments = append(m.Segments, Segment{ID: s.id, Removed: s.mode&shmDest != 0, Locked: s.mode&shmLocked != 0})
			}
		}
		queues, err := table("msg")
		if err != nil || len(queues) == 0 {
			return err
		}
		// Of the thread's namespace (ipc/ipc_sysctl.c, set_lookup).
		b, err := os.ReadFile("/proc/sys/kernel/msgmnb")
		if err != nil {
			return err
		}
		usual, err := strconv.ParseUint(strings.TrimSpace(string(b)), 10, 64)
		if err != nil {
			return err
		}
		for _, q := range queues {
			var d queueState
			if err := msgctl(q.id, unix.IPC_STAT, &d); err != nil {
				return fmt.Errorf("look at queue %d: %w", q.id, err)
			}
			if d.maxBytes != usual {
				m.Queues = append(m.Queues, Queue{q.id, d.maxBytes})
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read System V objects of process %d: %w", pid, err)
	}
	if len(m.Segments)+len(m.Queues) == 0 {
		return nil, nil //nolint:nilnil // none has a mark
	}
	return &m, nil
}

// Apply sets the marks in the ipc namespace of a restored process; the processes that have
// the segments attached must be there. Notes are marks that can't be set on this host.
func Apply(pid int, m *Marks) (notes []string, err error) {
	if m == nil {
		return nil, nil
	}
	err = inIPC(pid, func() error {
		for _, s := range m.Segments {
			if s.Locked {
				if _, err := unix.SysvShmCtl(s.ID, shmLock, nil); err != nil {
					notes = append(notes, fmt.Sprintf("System V shared memory %d is not locked in memory any more: %v", s.ID, err))
				}
			}
			if s.Removed {
				if _, err := unix.SysvShmCtl(s.ID, unix.IPC_RMID, nil); err != nil {
					notes = append(notes, fmt.Sprintf("System V shared memory %d does not end with its last attachment any more: %v", s.ID, err))
				}
			}
		}
		for _, q := range m.Queues {
			var d queueState
			err := msgctl(q.ID, unix.IPC_STAT, &d)
			if err == nil {
				d.maxBytes = q.MaxBytes
				err = msgctl(q.ID, unix.IPC_SET, &d)
			}
			if err != nil {
				notes = append(notes, fmt.Sprintf("System V message queue %d does not get its limit of %d bytes back: %v", q.ID, q.MaxBytes, err))
			}
		}
		return nil
	})
	if err != nil {
		return notes, fmt.Errorf("set marks of System V objects: %w", err)
	}
	return notes, nil
}

const shmLock = 11 // SHM_LOCK, uapi/linux/shm.h

// row is a line of a table of /proc/sysvipc.
type row struct{ id, mode int }

// table reads the objects of a kind in the thread's namespace, proc_sysvipc(5): "key shmid
// perms size ...". The permissions have the other bits of the mode as well (ipc/shm.c,
// sysvipc_shm_proc_show).
func table(kind string) ([]row, error) {
	// Of the thread that opens it (ipc/util.c, sysvipc_proc_open).
	b, err := os.ReadFile("/proc/sysvipc/" + kind)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil // the kernel has none
	}
	if err != nil {
		return nil, err
	}
	var rows []row
	for line := range strings.Lines(string(b)) {
		fields := strings.Fields(line)
		if len(fields) < 3 || fields[0] == "key" {
			continue
		}
		id, err := strconv.Atoi(fields[1])
		if err != nil {
			return nil, fmt.Errorf("parse /proc/sysvipc/%s: %w", kind, err)
		}
		mode, err := strconv.ParseInt(fields[2], 8, 32)
		if err != nil {
			return nil, fmt.Errorf("parse /proc/sysvipc/%s: %w", kind, err)
		}
		rows = append(rows, row{id, int(mode)})
	}
	return rows, nil
}

// queueState is struct msqid64_ds (asm-generic/msgbuf.h).
type queueState struct {
	perm     unix.SysvIpcPerm
	_        [3]int64 // times
	_        [2]uint64
	maxBytes uint64
	_        [2]int32
	_        [2]uint64
}

func msgctl(id, command int, d *queueState) error {
	_, _, errno := unix.Syscall(unix.SYS_MSGCTL, uintptr(id), uintptr(command), uintptr(unsafe.Pointer(d)))
	if errno != 0 {
		return errno
	}
	return nil
}

// inIPC runs fn on a thread of its own in the ipc namespace of a process.
func inIPC(pid int, fn func() error) error {
	ns, err := os.Open(fmt.Sprintf("/proc/%d/ns/ipc", pid))
	if err != nil {
		return err
	}
	defer ns.Close() //nolint:errcheck // a handle
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()                                              //nolint:forbidigo // not unlocked: the thread dies with this goroutine
		if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWIPC); err != nil { //nolint:forbidigo // not a network one
			done <- fmt.Errorf("enter ipc namespace: %w", err)
			return
		}
		done <- fn()
	}()
	return <-done
}
