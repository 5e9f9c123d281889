package sandbox

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"

	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/vem/netns"
)

// CgroupNSCommand is the hidden command of snapctld that makes a cgroup
// namespace, see [CgroupNS].
const CgroupNSCommand = "sandbox-cgroupns"

// bindCgroupNS keeps the cgroup namespace of the process at a path, for the
// restored process to be started in.
func (s *Sandbox) bindCgroupNS(pid int) error { return bindNS(s.cgroupNSPath(), pid, "cgroup") }

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

// StartInside starts a command in the app's network and cgroup namespaces, and
// in its ipc namespace if that is kept. CRIU's children inherit them: the cgroup
// namespace because CRIU is told to ignore cgroups, the others because CRIU was
// in them when it saved its tasks, see [Sandbox.StartBeside].
func (s *Sandbox) StartInside(ctx context.Context, net *netns.NS, cmd *exec.Cmd) error {
	if err := s.makeCgroupNS(ctx); err != nil {
		return err
	}
	return net.Do(func() error {
		// Once more than Do unlocks it: the thread, which stays in the cgroup
		// namespace, dies with Do's goroutine.
		runtime.LockOSThread() //nolint:forbidigo // see above
		if err := errors.Join(enter(s.cgroupNSPath(), unix.CLONE_NEWCGROUP), s.enterIPC()); err != nil {
			return err
		}
		return cmd.Start()
	})
}

// makeCgroupNS makes the app's cgroup namespace if there is none: after a
// reboot, or for an app that never started but was restored. A namespace has
// the cgroup of the process that makes it for its root, so it takes a process.
func (s *Sandbox) makeCgroupNS(ctx context.Context) error {
	mounted, err := isMountPoint(s.cgroupNSPath())
	if err != nil || mounted {
		return err
	}
	cmd := exec.CommandContext(ctx, "/proc/self/exe", CgroupNSCommand)
	in, err := cmd.StdinPipe()
	if err != nil {
		return fmt.Errorf("make cgroup namespace: %w", err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return fmt.Errorf("make cgroup namespace: %w", err)
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("make cgroup namespace: %w", err)
	}
	err = s.group.Add(cmd.Process.Pid)
	if err == nil {
		_, err = in.Write([]byte{1})
	}
	if err == nil {
		_, err = io.ReadFull(out, make([]byte, 1))
	}
	if err == nil {
		err = s.bindCgroupNS(cmd.Process.Pid)
	}
	if err := errors.Join(err, in.Close(), cmd.Wait()); err != nil {
		return fmt.Errorf("make cgroup namespace: %w", err)
	}
	return nil
}

// CgroupNS makes a cgroup namespace once a byte arrives on standard input, says
// so on standard output, and waits for the input to end. The caller is on the
// main thread, locked to it.
func CgroupNS() error {
	buf := make([]byte, 1)
	if _, err := io.ReadFull(os.Stdin, buf); err != nil {
		return err
	}
	if err := unix.Unshare(unix.CLONE_NEWCGROUP); err != nil { //nolint:forbidigo // a cgroup namespace, not a network one
		return fmt.Errorf("make cgroup namespace: %w", err)
	}
	if _, err := os.Stdout.Write(buf); err != nil {
		return err
	}
	_, err := io.Copy(io.Discard, os.Stdin)
	return err
}
