package sandbox

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/vem/netns"
)

func (s *Sandbox) ipcPath() string { return filepath.Join(s.RunDir, "ns", "ipc") }

// Queues is where the app's POSIX message queues are mounted, while its ipc
// namespace is kept.
func (s *Sandbox) Queues() string { return filepath.Join(s.RunDir, "mqueue") }

// KeepIPC keeps the ipc namespace of the process, and with it the app's POSIX
// message queues, until [Sandbox.DropIPC]. CRIU is then started in it, and
// leaves it alone.
func (s *Sandbox) KeepIPC(pid int) error {
	if err := s.DropIPC(); err != nil {
		return err
	}
	if err := bindNS(s.ipcPath(), pid, "ipc"); err != nil {
		return err
	}
	if err := os.MkdirAll(s.Queues(), 0o755); err != nil {
		return fmt.Errorf("mount message queues: %w", err)
	}
	err := inNS(s.ipcPath(), unix.CLONE_NEWIPC, func() error {
		// The thread's namespace decides which queues they are (ipc/mqueue.c,
		// mqueue_init_fs_context).
		const flags = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
		if err := unix.Mount("mqueue", s.Queues(), "mqueue", flags, ""); err != nil {
			return fmt.Errorf("mount message queues: %w", err)
		}
		return nil
	})
	if err != nil {
		return err
	}
	return private(s.Queues())
}

// NewIPC makes and keeps a new ipc namespace, for one that a reboot has ended.
func (s *Sandbox) NewIPC() error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()                                  //nolint:forbidigo // not unlocked: the thread dies with this goroutine
		if err := unix.Unshare(unix.CLONE_NEWIPC); err != nil { //nolint:forbidigo // not a network one
			done <- fmt.Errorf("make ipc namespace: %w", err)
			return
		}
		done <- s.KeepIPC(unix.Gettid())
	}()
	return <-done
}

// InIPC runs fn on a thread of its own in the kept ipc namespace.
func (s *Sandbox) InIPC(fn func() error) error { return inNS(s.ipcPath(), unix.CLONE_NEWIPC, fn) }

// KeepsIPC tells whether an ipc namespace is kept.
func (s *Sandbox) KeepsIPC() (bool, error) { return isMountPoint(s.ipcPath()) }

// DropIPC lets go of what KeepIPC keeps. Doing so again does nothing.
func (s *Sandbox) DropIPC() error {
	return errors.Join(unmount(s.Queues()), netns.Unbind(s.ipcPath()))
}

// SystemV lists the System V objects in the ipc namespace of a process: for each
// of "shm", "sem" and "msg" the lines of its table, proc_sysvipc(5).
func SystemV(pid int) (map[string][]string, error) {
	tables := make(map[string][]string)
	err := inNS(fmt.Sprintf("/proc/%d/ns/ipc", pid), unix.CLONE_NEWIPC, func() error {
		for _, kind := range []string{"shm", "sem", "msg"} {
			// Of the thread that opens it (ipc/util.c, sysvipc_proc_open).
			b, err := os.ReadFile("/proc/sysvipc/" + kind)
			if errors.Is(err, os.ErrNotExist) {
				continue // the kernel has none
			}
			if err != nil {
				return fmt.Errorf("list System V objects: %w", err)
			}
			if lines := strings.Split(strings.TrimSpace(string(b)), "\n"); len(lines) > 1 {
				tables[kind] = lines[1:] // the first is the head
			}
		}
		return nil
	})
	return tables, err
}

// StartBeside starts a command in the app's network namespace, and in its ipc
// namespace if that is kept. apart, which may be nil, is called before, on the thread that
// starts the command, and may move it into more namespaces: the thread ends then.
func (s *Sandbox) StartBeside(net *netns.NS, cmd *exec.Cmd, apart func() error) error {
	return net.Do(func() error {
		if apart != nil {
			runtime.LockOSThread() //nolint:forbidigo // once more than Do unlocks it
			if err := apart(); err != nil {
				return err
			}
		}
		if err := s.enterIPC(); err != nil {
			return err
		}
		return cmd.Start()
	})
}

// StartInside starts a command in the app's cgroup, with a cgroup namespace of its
// own that has that for its root, in the app's network namespace, and in its ipc
// namespace if that is kept. CRIU's children inherit all of it: cgroups because CRIU
// is told to ignore them, the others because CRIU was in them when it saved its
// tasks, see [Sandbox.StartBeside].
func (s *Sandbox) StartInside(net *netns.NS, cmd *exec.Cmd) error {
	return net.Do(func() error {
		runtime.LockOSThread() //nolint:forbidigo // once more than Do unlocks it: the thread dies with Do's goroutine
		if err := s.enterIPC(); err != nil {
			return err
		}
		if cmd.SysProcAttr == nil {
			cmd.SysProcAttr = &syscall.SysProcAttr{}
		}
		// In the new process, which is in the cgroup by then (cgroup_namespaces(7)).
		cmd.SysProcAttr.Unshareflags |= unix.CLONE_NEWCGROUP
		return s.group.Start(cmd)
	})
}

// enterIPC moves the calling thread into the kept ipc namespace, if there is
// one; the thread then dies with its goroutine.
func (s *Sandbox) enterIPC() error {
	kept, err := s.KeepsIPC()
	if err != nil || !kept {
		return err
	}
	runtime.LockOSThread() //nolint:forbidigo // once more than netns.Do unlocks it
	return enter(s.ipcPath(), unix.CLONE_NEWIPC)
}

// inNS runs fn on a thread of its own in a namespace.
func inNS(path string, kind int, fn func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() //nolint:forbidigo // not unlocked: the thread dies with this goroutine
		err := enter(path, kind)
		if err == nil {
			err = fn()
		}
		done <- err
	}()
	return <-done
}

// enter moves the calling thread into a namespace.
func enter(path string, kind int) error {
	ns, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("enter namespace: %w", err)
	}
	defer ns.Close()                                       //nolint:errcheck // a handle
	if err := unix.Setns(int(ns.Fd()), kind); err != nil { //nolint:forbidigo // not a network one
		return fmt.Errorf("enter namespace %s: %w", path, err)
	}
	return nil
}

// bindNS keeps a namespace of a process at a path, if none is kept there.
func bindNS(path string, pid int, kind string) error {
	mounted, err := isMountPoint(path)
	if err != nil || mounted {
		return err
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDONLY, 0o600)
	if err != nil {
		return fmt.Errorf("keep %s namespace: %w", kind, err)
	}
	if err := f.Close(); err != nil {
		return fmt.Errorf("keep %s namespace: %w", kind, err)
	}
	source := filepath.Join("/proc", fmt.Sprint(pid), "ns", kind)
	if err := unix.Mount(source, path, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("keep %s namespace: %w", kind, err)
	}
	return private(path)
}
