// Package netns opens, makes, enters and keeps network namespaces.
//
// A network namespace is a property of a kernel thread, not of a goroutine.
// This package is the only one of the module that changes it: [NS.Do] runs a
// function on a fresh thread inside a namespace and gives that thread back to
// the Go scheduler only if it could be returned to where it came from. A thread
// that could not is ended by the runtime (a goroutine that exits while locked
// takes its thread with it, see runtime.LockOSThread).
//
// The process's main thread is never used: the runtime cannot end it, and
// /proc/self/ns/net shows that thread's namespace to the rest of the world.
//
// Making and entering a namespace needs CAP_SYS_ADMIN.
package netns

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// ErrNotNetNS says that a file is not a network namespace.
var ErrNotNetNS = errors.New("not a network namespace")

// NS is an open network namespace. The namespace lives at least as long as the
// NS is open; afterwards as long as a process, a bind mount or another open file
// keeps it. Its methods may be called at the same time, Close included.
type NS struct {
	inode uint64

	mu   sync.Mutex
	file *os.File // nil when closed
}

// New makes a network namespace with a loopback device that is up, and nothing
// else. Nobody else sees it until [NS.Bind], and it goes away with the last open
// handle.
//
// The loopback device is up before anybody can find the namespace, since programs
// rely on it: CRIU, which is started in the namespace of an app, connects to
// 127.0.0.1 to learn what the kernel can do, and ends if it can't (criu/kerndat.c,
// kerndat_tcp_repair; what it learns it keeps in /run/criu.kdat until the next boot).
//
// Cost: 0.1 to 1 ms, mostly in the kernel.
func New() (*NS, error) {
	var ns *NS
	var err error
	onThread(func() disposal {
		if err = unix.Unshare(unix.CLONE_NEWNET); err != nil {
			err = fmt.Errorf("make network namespace: %w", err)
			return reuse
		}
		if err = loopbackUp(); err == nil {
			ns, err = Current()
		}
		return discard
	})
	return ns, err
}

// loopbackUp sets the loopback device of the calling thread's namespace up.
func loopbackUp() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("set device lo up: %w", err)
	}
	defer unix.Close(fd) //nolint:errcheck // only asked through
	lo, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	// netdevice(7)
	err = unix.IoctlIfreq(fd, unix.SIOCGIFFLAGS, lo)
	if err == nil {
		lo.SetUint16(lo.Uint16() | unix.IFF_UP)
		err = unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, lo)
	}
	if err != nil {
		return fmt.Errorf("set device lo up: %w", err)
	}
	return nil
}

// Open opens the network namespace at path: /proc/PID/ns/net or a file made by
// [NS.Bind]. It returns an error wrapping [ErrNotNetNS] if the file is of
// another kind, and one wrapping [fs.ErrNotExist] if there is none.
func Open(path string) (*NS, error) {
	// O_NONBLOCK: a path that turned into a FIFO must not block the caller.
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("open network namespace: %w", &fs.PathError{Op: "open", Path: path, Err: err})
	}
	ns, err := fromFile(os.NewFile(uintptr(fd), path))
	if err != nil {
		return nil, fmt.Errorf("open network namespace %s: %w", path, err)
	}
	return ns, nil
}

// Current opens the network namespace of the calling thread: the process's own
// one, or the entered one when called by a function that [NS.Do] runs.
func Current() (*NS, error) {
	return Open("/proc/thread-self/ns/net")
}

// OfSocket opens the network namespace that a socket belongs to. It needs
// CAP_NET_ADMIN over that one (SIOCGSKNS, net/socket.c).
func OfSocket(fd int) (*NS, error) {
	const siocgskns = 0x894c // linux/sockios.h, Linux 4.10
	ns, err := unix.IoctlRetInt(fd, siocgskns)
	if err != nil {
		return nil, fmt.Errorf("find network namespace of socket: %w", err)
	}
	return fromFile(os.NewFile(uintptr(ns), "net"))
}

// fromFile takes ownership of f, also when it fails.
func fromFile(f *os.File) (*NS, error) {
	ino, err := inode(int(f.Fd()))
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return &NS{inode: ino, file: f}, nil
}

// inode returns the inode of the network namespace open at fd, or ErrNotNetNS.
func inode(fd int) (uint64, error) {
	var vfs unix.Statfs_t
	if err := unix.Fstatfs(fd, &vfs); err != nil {
		return 0, err
	}
	if vfs.Type != unix.NSFS_MAGIC {
		return 0, ErrNotNetNS
	}
	// NS_GET_NSTYPE (Linux 4.11) tells the kinds of namespace apart, which
	// nsfs does not: ioctl_nsfs(2).
	kind, err := unix.IoctlRetInt(fd, unix.NS_GET_NSTYPE)
	if err != nil {
		return 0, err
	}
	if kind != unix.CLONE_NEWNET {
		return 0, ErrNotNetNS
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return 0, err
	}
	return st.Ino, nil
}

// Inode returns the namespace's inode number, which no other living network
// namespace has: the N of "net:[N]".
func (n *NS) Inode() uint64 { return n.inode }

// File returns the open namespace file. It belongs to n: do not close it, and do
// not use it after Close. It is nil once n is closed.
func (n *NS) File() *os.File {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.file
}

// Dup returns a second handle of the same namespace, which the caller closes.
func (n *NS) Dup() (*NS, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.file == nil {
		return nil, fmt.Errorf("duplicate network namespace: %w", fs.ErrClosed)
	}
	fd, err := unix.FcntlInt(n.file.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("duplicate network namespace: %w", err)
	}
	return &NS{inode: n.inode, file: os.NewFile(uintptr(fd), n.file.Name())}, nil
}

// Close drops the handle. Functions that [NS.Do] is running go on. A second
// call does nothing.
func (n *NS) Close() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.file == nil {
		return nil
	}
	err := n.file.Close()
	n.file = nil
	return err
}
