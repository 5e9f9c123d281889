package checkpoint

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/snapshot"
	"github.com/snapctl/snapctl/vem/hold"
)

func externalQueue(q hold.Queue) snapshot.External {
	return snapshot.External{
		Kind: snapshot.ExternalQueue, Key: fmt.Sprintf("mqueue[%x]", q.Inode), PID: q.Owner.PID, FD: q.Owner.FD,
		Queue: &snapshot.Queue{
			Name: q.Name, Unlinked: q.Unlinked, Inode: q.Inode, Mode: q.Mode, UID: q.UID, GID: q.GID,
			Messages: q.Messages, Size: q.Size, Flags: q.Flags,
		},
	}
}

// restoreQueues makes the app's ipc namespace and its message queues anew, empty,
// if they are lost, as in a reboot of the host. CRIU must not be started in the
// daemon's own namespace instead.
func (s *Subject) restoreQueues(m *snapshot.Manifest) error {
	if !slices.ContainsFunc(m.External, func(e snapshot.External) bool { return e.Kind == snapshot.ExternalIPC }) {
		return nil
	}
	kept, err := s.Box.KeepsIPC()
	if err != nil || kept {
		return err
	}
	if err := s.Box.NewIPC(); err != nil {
		return err
	}
	for _, e := range m.External {
		if e.Kind != snapshot.ExternalQueue || e.Queue.Unlinked {
			continue
		}
		f, err := s.openQueue(e.Queue)
		if err == nil {
			err = f.Close()
		}
		if err != nil {
			return errors.Join(err, s.Box.DropIPC())
		}
	}
	return nil
}

// openQueue opens a queue in the app's ipc namespace, and makes it if it is not
// there.
func (s *Subject) openQueue(q *snapshot.Queue) (f *os.File, err error) {
	err = s.Box.InIPC(func() error {
		f, err = mqOpen(q, queueName(q))
		return err
	})
	return f, err
}

// unlinkQueues takes away the names that unlinked queues were opened by.
func (s *Subject) unlinkQueues(list []snapshot.External) error {
	return s.Box.InIPC(func() error {
		var errs []error
		for _, e := range list {
			name, err := unix.BytePtrFromString(queueName(e.Queue))
			if err != nil {
				errs = append(errs, err)
				continue
			}
			_, _, errno := unix.Syscall(unix.SYS_MQ_UNLINK, uintptr(unsafe.Pointer(name)), 0, 0)
			if errno != 0 && errno != unix.ENOENT { // it may be opened twice
				errs = append(errs, fmt.Errorf("unlink message queue: %w", errno))
			}
		}
		return errors.Join(errs...)
	})
}

// queueName is what the system call takes, which is without a slash. An unlinked
// queue has one while it is opened, and only then.
func queueName(q *snapshot.Queue) string {
	if q.Unlinked {
		return fmt.Sprintf("snapctl-unlinked-%x", q.Inode)
	}
	return q.Name[1:]
}

// mqOpen is mq_open(3) in the calling thread's namespace.
func mqOpen(q *snapshot.Queue, name string) (_ *os.File, err error) {
	text, err := unix.BytePtrFromString(name)
	if err != nil {
		return nil, fmt.Errorf("open message queue: %w", err)
	}
	attr := [8]int64{0, int64(q.Messages), int64(q.Size)} // struct mq_attr
	const access = unix.O_ACCMODE | unix.O_NONBLOCK
	flags := q.Flags&access | unix.O_CREAT | unix.O_CLOEXEC
	fd, _, errno := unix.Syscall6(unix.SYS_MQ_OPEN, uintptr(unsafe.Pointer(text)), uintptr(flags), uintptr(q.Mode), uintptr(unsafe.Pointer(&attr)), 0, 0)
	if errno != 0 {
		return nil, fmt.Errorf("make message queue %s: %w", q.Name, errno)
	}
	f := os.NewFile(fd, q.Name)
	// The umask took some of its mode.
	if err := errors.Join(unix.Fchmod(int(fd), q.Mode), unix.Fchown(int(fd), q.UID, q.GID)); err != nil {
		return nil, errors.Join(fmt.Errorf("make message queue %s: %w", q.Name, err), f.Close())
	}
	return f, nil
}
