// Hostkeeper is the process that a scratch host consists of, see package
// testenv/host.
//
//	hostkeeper keep DIR NAME         makes the host's namespaces and keeps them
//	hostkeeper enter DIR PID -- PROGRAM [ARGUMENT]...
//	                                 becomes PROGRAM inside the host
//
// keep says "ready" when the host is there, and takes it all away when its
// standard input ends: the test that held the other end was killed then.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/testenv/internal/cgroup"
	"github.com/snapctl/snapctl/testenv/internal/scratch"
)

var errUsage = errors.New("want keep DIR NAME, or enter DIR PID -- PROGRAM [ARGUMENT]")

func main() {
	// Namespaces belong to threads: the one that changes them executes.
	runtime.LockOSThread() //nolint:forbidigo // this process becomes another one
	var err error
	switch args := os.Args[1:]; {
	case len(args) == 3 && args[0] == "keep":
		err = keep(args[1], args[2])
	case len(args) == 1 && args[0] == "kept":
		err = kept(context.Background())
	case len(args) >= 5 && args[0] == "enter" && args[3] == "--":
		err = enter(args[1], args[2], args[4:])
	default:
		err = errUsage
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "hostkeeper: error:", err)
		os.Exit(1)
	}
}

// keep makes the namespaces and executes itself in them, for all threads to be
// there.
func keep(dir, name string) error {
	place, err := scratch.Open(dir)
	if err != nil {
		return err
	}
	tree, err := place.Cgroups()
	if err != nil {
		return err
	}
	// The roots of the new cgroup namespace are where we are now,
	// cgroup_namespaces(7).
	if err = tree.JoinRoot(); err != nil {
		return err
	}
	//nolint:forbidigo // the thread executes
	err = unix.Unshare(unix.CLONE_NEWNS | unix.CLONE_NEWNET | unix.CLONE_NEWCGROUP | unix.CLONE_NEWUTS)
	if err != nil {
		return fmt.Errorf("make namespaces: %w", err)
	}
	if err := errors.Join(tree.Join(), tree.Delegate()); err != nil {
		return err
	}
	if err := unix.Sethostname([]byte(name)); err != nil {
		return fmt.Errorf("set host name: %w", err)
	}
	if err := mounts(tree); err != nil {
		return err
	}
	if err := loopbackUp(); err != nil {
		return err
	}
	return unix.Exec("/proc/self/exe", []string{os.Args[0], "kept"}, os.Environ())
}

// mounts gives the host its own /run and its part of the cgroups.
func mounts(tree *cgroup.Tree) error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	if err := unix.Mount("tmpfs", "/run", "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=755"); err != nil {
		return fmt.Errorf("mount /run: %w", err)
	}
	for _, h := range tree.Hierarchies {
		if err := replace(h.Mount, tree.Dir(h)); err != nil {
			return fmt.Errorf("mount cgroup %s: %w", h.Mount, err)
		}
	}
	return nil
}

// replace puts dir, which lies below the mount at point, in that mount's place,
// so that mount tables show nothing of the machine's. Linux 5.2, open_tree(2).
func replace(point, dir string) error {
	fd, err := unix.OpenTree(unix.AT_FDCWD, dir, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := unix.Unmount(point, unix.MNT_DETACH); err != nil {
		return err
	}
	return unix.MoveMount(fd, "", unix.AT_FDCWD, point, unix.MOVE_MOUNT_F_EMPTY_PATH)
}

// loopbackUp sets lo up, which also gives it its addresses: netdevice(7).
func loopbackUp() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("set lo up: %w", err)
	}
	defer unix.Close(fd)
	req, err := unix.NewIfreq("lo")
	if err != nil {
		return fmt.Errorf("set lo up: %w", err)
	}
	req.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, req); err != nil {
		return fmt.Errorf("set lo up: %w", err)
	}
	return nil
}

// kept keeps the namespaces until standard input ends, and then ends all that
// lives in them. The host's directory stays, to be looked at, until the next
// run sweeps it away.
func kept(ctx context.Context) error {
	if _, err := fmt.Println("ready"); err != nil { //nolint:forbidigo // tells the parent
		return err
	}
	if _, err := io.Copy(io.Discard, os.Stdin); err != nil {
		return err
	}
	tree, err := cgroup.Open("") // all that we see is the host's
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	return scratch.Kill(ctx, tree, func() ([]int, error) { return nil, nil })
}

// enter becomes a program in the host.
func enter(dir, keeper string, command []string) error {
	if _, err := strconv.Atoi(keeper); err != nil {
		return errUsage
	}
	place, err := scratch.Open(dir)
	if err != nil {
		return err
	}
	tree, err := place.Cgroups()
	if err != nil {
		return err
	}
	if err = tree.Join(); err != nil {
		return err
	}
	cwd, err := os.Getwd()
	if err != nil {
		return err
	}
	var fds []int
	for _, kind := range []string{"net", "uts", "cgroup", "mnt"} { // mnt last: it takes /proc away
		fd, operr := unix.Open(filepath.Join("/proc", keeper, "ns", kind), unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if operr != nil {
			return fmt.Errorf("open %s namespace: %w", kind, operr)
		}
		fds = append(fds, fd)
	}
	// A thread that shares its root and working directory with others can't
	// change its mount namespace, setns(2).
	if err = unix.Unshare(unix.CLONE_FS); err != nil { //nolint:forbidigo // the thread executes
		return fmt.Errorf("leave shared directories: %w", err)
	}
	for _, fd := range fds {
		if err = unix.Setns(fd, 0); err != nil { //nolint:forbidigo // the thread executes
			return fmt.Errorf("enter host: %w", err)
		}
	}
	if err = os.Chdir(cwd); err != nil {
		return fmt.Errorf("enter host: %w", err)
	}
	path, err := exec.LookPath(command[0])
	if err != nil {
		return err
	}
	return fmt.Errorf("execute %s: %w", path, unix.Exec(path, command, os.Environ()))
}
