package image

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/go-quicktest/qt"
	"golang.org/x/sys/unix"
)

// testApp is set in the environment of this test binary when it is to be the
// program that is dumped.
const testApp = "SNAPCTL_IMAGE_TEST_APP"

func TestMain(m *testing.M) {
	if os.Getenv(testApp) == "" {
		os.Exit(m.Run())
	}
	if err := echoServer(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// echoServer answers on a listener in a fresh network namespace. Over a unix
// socket at descriptor 3 it first hands out a connection to itself, and a
// socket that is not connected yet.
func echoServer() error {
	if err := loopbackUp(); err != nil {
		return err
	}
	l, err := net.Listen("tcp4", "127.0.0.1:7000")
	if err != nil {
		return err
	}
	connected, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0)
	if err != nil {
		return err
	}
	if err := unix.Connect(connected, echoAddr()); err != nil {
		return err
	}
	idle, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0)
	if err != nil {
		return err
	}
	first, err := l.Accept()
	if err != nil {
		return err
	}
	if err := unix.Sendmsg(3, []byte("x"), unix.UnixRights(connected, idle), nil, 0); err != nil {
		return err
	}
	for _, fd := range []int{connected, idle, 3} {
		if err := unix.Close(fd); err != nil {
			return err
		}
	}
	for c := first; ; {
		go func() { _, _ = io.Copy(c, c) }()
		if c, err = l.Accept(); err != nil {
			return err
		}
	}
}

func echoAddr() unix.Sockaddr {
	return &unix.SockaddrInet4{Port: 7000, Addr: [4]byte{127, 0, 0, 1}}
}

func loopbackUp() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	ifr, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	ifr.SetUint16(unix.IFF_UP)
	return unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, ifr)
}

// needCRIU returns the path of CRIU: $SNAPCTL_CRIU, or the one in the path.
func needCRIU(t *testing.T) string {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("Needs root")
	}
	path := os.Getenv("SNAPCTL_CRIU")
	if path == "" {
		path = "criu"
	}
	path, err := exec.LookPath(path)
	if err != nil {
		t.Skip("Needs CRIU 4.2 in the path or in $SNAPCTL_CRIU:", err)
	}
	out, err := exec.CommandContext(t.Context(), path, "--version").Output()
	qt.Assert(t, qt.IsNil(err))
	var major, minor int
	_, err = fmt.Sscanf(string(out), "Version: %d.%d", &major, &minor)
	qt.Assert(t, qt.IsNil(err))
	if major < 4 || major == 4 && minor < 2 {
		t.Skipf("Needs CRIU 4.2, %s is %d.%d; set $SNAPCTL_CRIU", path, major, minor)
	}
	return path
}

// startEchoServer starts the program in namespaces of its own.
func startEchoServer(t *testing.T) (cmd *exec.Cmd, connected, idle *os.File) {
	t.Helper()
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	qt.Assert(t, qt.IsNil(err))
	mine, theirs := os.NewFile(uintptr(pair[0]), "mine"), os.NewFile(uintptr(pair[1]), "theirs")
	defer mine.Close()
	exe, err := os.Executable()
	qt.Assert(t, qt.IsNil(err))
	cmd = exec.CommandContext(t.Context(), exe)
	// CRIU cannot dump MPTCP sockets, which Go 1.24 listens with by default.
	cmd.Env = []string{testApp + "=1", "GODEBUG=multipathtcp=0"}
	cmd.Dir = "/"
	cmd.ExtraFiles = []*os.File{theirs}
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET | unix.CLONE_NEWPID, Setsid: true}
	qt.Assert(t, qt.IsNil(cmd.Start()))
	qt.Assert(t, qt.IsNil(theirs.Close()))

	oob := make([]byte, unix.CmsgSpace(8))
	_, n, _, _, err := unix.Recvmsg(pair[0], make([]byte, 1), oob, unix.MSG_CMSG_CLOEXEC)
	qt.Assert(t, qt.IsNil(err))
	cmsgs, err := unix.ParseSocketControlMessage(oob[:n])
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.HasLen(cmsgs, 1))
	fds, err := unix.ParseUnixRights(&cmsgs[0])
	qt.Assert(t, qt.IsNil(err))
	// Wait until the program has closed its end: it would be in the dump.
	_, err = io.ReadAll(mine)
	qt.Assert(t, qt.IsNil(err))
	connected, idle = os.NewFile(uintptr(fds[0]), "connected"), os.NewFile(uintptr(fds[1]), "idle")
	t.Cleanup(func() { _, _ = connected.Close(), idle.Close() })
	return cmd, connected, idle
}

// holdSockets duplicates every socket of a process, by inode.
func holdSockets(t *testing.T, pid int) map[uint64]*os.File {
	t.Helper()
	pidfd, err := unix.PidfdOpen(pid, 0)
	qt.Assert(t, qt.IsNil(err))
	defer unix.Close(pidfd)
	held := make(map[uint64]*os.File)
	dir := fmt.Sprintf("/proc/%d/fd", pid)
	for name := range listing(t, dir) {
		target, err := os.Readlink(filepath.Join(dir, name))
		if err != nil {
			continue // the descriptor of an epoll or of a listing
		}
		inode, ok := strings.CutPrefix(target, "socket:[")
		if !ok {
			continue
		}
		ino, err := strconv.ParseUint(strings.TrimSuffix(inode, "]"), 10, 64)
		qt.Assert(t, qt.IsNil(err))
		fd, err := strconv.Atoi(name)
		qt.Assert(t, qt.IsNil(err))
		mine, err := unix.PidfdGetfd(pidfd, fd, 0)
		qt.Assert(t, qt.IsNil(err))
		held[ino] = os.NewFile(uintptr(mine), target)
		t.Cleanup(func() { _ = held[ino].Close() })
	}
	return held
}

// runCRIU runs a command of CRIU and shows the end of its log if it fails.
func runCRIU(t *testing.T, cmd *exec.Cmd, log string) {
	t.Helper()
	out, err := cmd.CombinedOutput()
	if err == nil {
		return
	}
	full, _ := os.ReadFile(log)
	lines := bytes.Split(full, []byte("\n"))
	t.Fatalf("criu: %v\n%s%s", err, out, bytes.Join(lines[max(0, len(lines)-30):], []byte("\n")))
}

// TestRestoreFromView dumps a real server, keeps its sockets, and restores it
// from a view onto them.
func TestRestoreFromView(t *testing.T) {
	criu := needCRIU(t)
	cmd, connected, idle := startEchoServer(t)
	pid := cmd.Process.Pid
	netns, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", pid))
	qt.Assert(t, qt.IsNil(err))
	defer netns.Close()
	var st unix.Stat_t
	qt.Assert(t, qt.IsNil(unix.Fstat(int(netns.Fd()), &st)))

	held := holdSockets(t, pid)
	qt.Assert(t, qt.HasLen(held, 2))
	images := t.TempDir()
	common := []string{"--tcp-close", "--network-lock", "skip", "--manage-cgroups=ignore", "-v4", "-o", "criu.log"}
	runCRIU(t, exec.CommandContext(t.Context(), criu, append([]string{
		"dump", "-t", strconv.Itoa(pid), "-D", images, "--skip-in-flight",
		"--external", fmt.Sprintf("net[%d]:net", st.Ino),
	}, common...)...), filepath.Join(images, "criu.log"))
	qt.Assert(t, qt.IsNotNil(cmd.Wait())) // killed

	// No process is there, and yet the kernel takes both.
	_, err = connected.WriteString("early")
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.IsNil(unix.Connect(int(idle.Fd()), echoAddr())))

	view, err := NewView(t.Context(), images, filepath.Join(t.TempDir(), "view"))
	qt.Assert(t, qt.IsNil(err))
	keys := make(map[uint64]string)
	restore := exec.CommandContext(t.Context(), criu, append([]string{
		"restore", "-D", view.Dir(), "-d", "--pidfile", filepath.Join(images, "pid"),
		"--inherit-fd", "fd[3]:net",
	}, common...)...)
	restore.ExtraFiles = []*os.File{netns}
	for ino, file := range held {
		keys[ino] = fmt.Sprintf("%d-held", ino)
		restore.Args = append(restore.Args, "--inherit-fd", fmt.Sprintf("fd[%d]:%s", 3+len(restore.ExtraFiles), keys[ino]))
		restore.ExtraFiles = append(restore.ExtraFiles, file)
	}
	replaced, err := view.ReplaceSockets(t.Context(), keys)
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.HasLen(replaced, 2))
	runCRIU(t, restore, filepath.Join(view.Dir(), "criu.log"))

	text, err := os.ReadFile(filepath.Join(images, "pid"))
	qt.Assert(t, qt.IsNil(err))
	pid, err = strconv.Atoi(string(text))
	qt.Assert(t, qt.IsNil(err))
	pidfd, err := unix.PidfdOpen(pid, 0)
	qt.Assert(t, qt.IsNil(err))
	defer unix.Close(pidfd)
	defer func() {
		qt.Check(t, qt.IsNil(unix.PidfdSendSignal(pidfd, unix.SIGKILL, nil, 0)))
		_, err := unix.Poll([]unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}, -1)
		qt.Check(t, qt.IsNil(err))
	}()
	for _, file := range held {
		qt.Assert(t, qt.IsNil(file.Close()))
	}

	buf := make([]byte, 5)
	_, err = io.ReadFull(connected, buf)
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.Equals(string(buf), "early"))
	_, err = idle.WriteString("fresh")
	qt.Assert(t, qt.IsNil(err))
	_, err = io.ReadFull(idle, buf)
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.Equals(string(buf), "fresh"))
}
