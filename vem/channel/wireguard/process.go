package wireguard

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/vem/fabric"
	"github.com/snapctl/snapctl/vem/netns"
)

// socketDir is where all user-space WireGuard of a machine has its sockets, and where wg(8) and
// wgctrl look for them.
const socketDir = "/var/run/wireguard"

func (c *control) socketPath() string { return filepath.Join(socketDir, c.name+".sock") }

// command is what the program is started with, see package userspace.
const command = "wireguard"

// spawn starts a process that outlives this one, with a TUN in the fabric as its device, and a
// socket at which it is configured. If this process dies right after, the next one finds it by that
// socket. It stays in this process's cgroup: under systemd the daemon's unit needs KillMode=process.
func (m *Module) spawn(ctx context.Context) error {
	log, err := openLog(m.cfg.Local.LogPath)
	if err != nil {
		return err
	}
	defer log.Close() //nolint:errcheck // the child has its own
	socket, err := listen(ctx, m.wg.socketPath())
	if err != nil {
		return err
	}
	defer socket.Close() //nolint:errcheck // the child has its own
	tun, err := openTUN(m.fabric.ns)
	if err != nil {
		return err
	}
	defer tun.Close() //nolint:errcheck // the child has its own
	// The process must not end with ctx.
	cmd := exec.CommandContext(context.WithoutCancel(ctx), m.cfg.Local.Exe, command, "--mtu", strconv.Itoa(m.cfg.MTU))
	cmd.Dir = "/"
	cmd.Stdout, cmd.Stderr = log, log
	cmd.ExtraFiles = []*os.File{tun, socket}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	// A child has the namespace of the thread that starts it: its UDP socket is the host's.
	if err := m.host.ns.Do(cmd.Start); err != nil {
		return fmt.Errorf("start process that does WireGuard: %w", err)
	}
	go func() { _ = cmd.Wait() }() // has it leave the list of processes, whenever it ends
	m.cfg.Log.WarnContext(ctx, "a process encrypts for channels, which is slow, since the kernel has no WireGuard",
		slog.String("network", m.cfg.Network), slog.Int("pid", cmd.Process.Pid))
	return nil
}

// maxLog is after how many bytes the log of the processes is begun anew when one is started.
const maxLog = 1 << 20

func openLog(path string) (*os.File, error) {
	if info, err := os.Stat(path); err == nil && info.Size() > maxLog {
		if err := os.Truncate(path, 0); err != nil {
			return nil, err
		}
	}
	return os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
}

// listen opens the socket of a process, with mode 0600. What an earlier one left is replaced.
func listen(ctx context.Context, path string) (*os.File, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil { //nolint:gosec // others have sockets there
		return nil, err
	}
	// Made aside and renamed in: nobody ever connects before the mode is set.
	aside := path + ".new"
	if err := os.Remove(aside); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	l, err := new(net.ListenConfig).Listen(ctx, "unix", aside)
	if err != nil {
		return nil, fmt.Errorf("listen at %s: %w", path, err)
	}
	u, ok := l.(*net.UnixListener)
	if !ok {
		return nil, errors.Join(fmt.Errorf("listen at %s: %w", path, errors.ErrUnsupported), l.Close())
	}
	u.SetUnlinkOnClose(false)
	defer u.Close() //nolint:errcheck // the file is a duplicate
	err = os.Chmod(aside, 0o600)
	if err == nil {
		err = os.Rename(aside, path)
	}
	if err != nil {
		return nil, errors.Join(err, os.Remove(aside))
	}
	return u.File()
}

// openTUN makes the device, which is there for as long as a process has its file. Packets have the
// header that the kernel's offloads need (Documentation/networking/tuntap.rst).
func openTUN(ns *netns.NS) (f *os.File, err error) {
	err = ns.Do(func() error {
		fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
		if err != nil {
			return err
		}
		f = os.NewFile(uintptr(fd), "/dev/net/tun")
		request, err := unix.NewIfreq(fabric.WireGuardDevice)
		if err == nil {
			request.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
			err = unix.IoctlIfreq(fd, unix.TUNSETIFF, request)
		}
		if err != nil {
			return errors.Join(err, f.Close())
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("make device %s: %w", fabric.WireGuardDevice, err)
	}
	return f, nil
}
