package memmap

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
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

	"github.com/snapctl/snapctl/snapshot/image"
	"github.com/snapctl/snapctl/snapshot/image/imagetest"
	"github.com/snapctl/snapctl/snapshot/image/openfile"
	"github.com/snapctl/snapctl/testenv"
	"github.com/snapctl/snapctl/testenv/leak"
)

// testApp is set in the environment of this test binary when it is to be the
// program that is dumped: to the directory of the overlay that is to become its
// root, then to a dot, when it is.
const testApp = "SNAPCTL_IMAGE_TEST_APP"

func TestMain(m *testing.M) {
	run := enterRoot
	switch os.Getenv(testApp) {
	case "":
		os.Exit(m.Run())
	case ".":
		run = echoServer
	}
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// enterRoot makes an overlay the root of a fresh mount namespace and runs the
// program /app there, with nothing left of the old one.
func enterRoot() error {
	root := os.Getenv(testApp)
	merged := filepath.Join(root, "merged")
	for _, m := range []struct {
		source, target, fstype string
		flags                  uintptr
		data                   string
	}{
		{"", "/", "", unix.MS_REC | unix.MS_PRIVATE, ""},
		{"overlay", merged, "overlay", 0, overlayOptions(root)},
		{"proc", filepath.Join(merged, "proc"), "proc", 0, ""},
	} {
		if err := unix.Mount(m.source, m.target, m.fstype, m.flags, m.data); err != nil {
			return fmt.Errorf("mount %s: %w", m.target, err)
		}
	}
	// The old root is then mounted over the new one: no directory for it.
	if err := errors.Join(unix.Chdir(merged), unix.PivotRoot(".", ".")); err != nil {
		return fmt.Errorf("pivot root: %w", err)
	}
	if err := errors.Join(unix.Unmount(".", unix.MNT_DETACH), unix.Chdir("/")); err != nil {
		return fmt.Errorf("leave old root: %w", err)
	}
	// Standard input and output are in the old root.
	null, err := unix.Open("/null", unix.O_RDWR|unix.O_CREAT, 0o600)
	if err != nil {
		return err
	}
	for fd := range 3 {
		if err := unix.Dup3(null, fd, 0); err != nil {
			return err
		}
	}
	// So is whatever the test itself was started with.
	if err := unix.CloseRange(4, math.MaxUint32, unix.CLOSE_RANGE_CLOEXEC); err != nil {
		return err
	}
	env := []string{testApp + "=.", "GODEBUG=" + os.Getenv("GODEBUG")}
	return errors.Join(unix.Close(null), unix.Exec("/app", []string{"/app"}, env))
}

// makeRoot makes the directories of an overlay over the root file system. Other
// file systems cannot be seen in it.
func makeRoot(t *testing.T) string {
	t.Helper()
	root := t.TempDir()
	for _, dir := range []string{"upper", "work", "merged"} {
		qt.Assert(t, qt.IsNil(os.Mkdir(filepath.Join(root, dir), 0o700)))
	}
	return root
}

func overlayOptions(root string) string {
	return fmt.Sprintf("lowerdir=/,upperdir=%s/upper,workdir=%s/work", root, root)
}

// echoServer answers on a listener in a fresh network namespace, and changes some
// of its memory with each connection. Over a unix
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
	memory, err := unix.Mmap(-1, 0, ballastPages*image.PageSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return err
	}
	fillBallast(memory, 0, ballastPages, 0)
	for i := range programData {
		programData[i] = byte(i / image.PageSize)
	}
	if err := unix.Sendmsg(3, []byte("x"), unix.UnixRights(connected, idle), nil, 0); err != nil {
		return err
	}
	for _, fd := range []int{connected, idle, 3} {
		if err := unix.Close(fd); err != nil {
			return err
		}
	}
	for c, n := first, uint64(1); ; n++ {
		fillBallast(memory, n*ballastStep, ballastStep/2, n)
		go func() { _, _ = io.Copy(c, c) }()
		if c, err = l.Accept(); err != nil {
			return err
		}
	}
}

// programData is data of an echoServer of which its file has other content.
var programData = [64 * image.PageSize]byte{1}

// The ballast of an echoServer is memory of which each page holds its number and
// that of the connection that had it written, over and over.
const (
	ballastPages = 4096
	ballastStep  = 128
	ballastMark  = 0x6261_6c6c_6173_7400
)

// fillBallast leaves no copy of a page in other memory.
func fillBallast(memory []byte, from, pages, connection uint64) {
	for at := from * image.PageSize; at < (from+pages)*image.PageSize; at += 16 {
		binary.LittleEndian.PutUint64(memory[at:], ballastMark)
		binary.LittleEndian.PutUint64(memory[at+8:], at/image.PageSize<<32|connection)
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
	defer func() { _ = unix.Close(fd) }()
	ifr, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	ifr.SetUint16(unix.IFF_UP)
	return unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, ifr)
}

// startEchoServer starts the program in namespaces of its own, with an overlay
// in root as its root directory.
func startEchoServer(t *testing.T, root string) (cmd *exec.Cmd, connected, idle *os.File) {
	t.Helper()
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	qt.Assert(t, qt.IsNil(err))
	mine, theirs := os.NewFile(uintptr(pair[0]), "mine"), os.NewFile(uintptr(pair[1]), "theirs")
	defer func() { _ = mine.Close() }()
	exe, err := os.Executable()
	qt.Assert(t, qt.IsNil(err))
	binary, err := os.ReadFile(exe)
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.IsNil(os.WriteFile(filepath.Join(root, "upper", "app"), binary, 0o700)))
	cmd = exec.CommandContext(t.Context(), exe)
	// CRIU cannot dump MPTCP sockets, which Go 1.24 listens with by default.
	cmd.Env = []string{testApp + "=" + root, "GODEBUG=multipathtcp=0"}
	cmd.Dir = "/"
	cmd.Stderr = os.Stderr // until it has its own root
	cmd.ExtraFiles = []*os.File{theirs}
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWNET | unix.CLONE_NEWPID | unix.CLONE_NEWNS, Setsid: true,
	}
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
	defer func() { _ = unix.Close(pidfd) }()
	held := make(map[uint64]*os.File)
	dir := fmt.Sprintf("/proc/%d/fd", pid)
	for name := range imagetest.Listing(t, dir) {
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

// otherFS returns a fresh directory on another file system than t.TempDir.
func otherFS(tb testing.TB) string {
	tb.Helper()
	const shm = "/dev/shm"
	here := tb.TempDir()
	testenv.Need(tb, func(context.Context) error {
		var a, b unix.Stat_t
		if err := errors.Join(unix.Stat(here, &a), unix.Stat(shm, &b)); err != nil {
			return err
		}
		if a.Dev == b.Dev {
			return fmt.Errorf("%s and %s are on one file system", here, shm)
		}
		return nil
	})
	dir, err := os.MkdirTemp(shm, "image-test-") //nolint:usetesting // not where TempDir is
	qt.Assert(tb, qt.IsNil(err))
	tb.Cleanup(func() { qt.Check(tb, qt.IsNil(os.RemoveAll(dir))) })
	return dir
}

// TestRestoreFromView dumps a real server, keeps its sockets, and restores it
// from a view onto them. The dump cannot be seen from the server's own root.
func TestRestoreFromView(t *testing.T) {
	testenv.Need(t, testenv.Root, testenv.CRIU)
	criu, images := testenv.CRIUPath(), otherFS(t)
	t.Run("same file system", func(t *testing.T) {
		restoreFromView(t, criu, filepath.Join(images, "same"), filepath.Join(images, "view"))
	})
	t.Run("other file system", func(t *testing.T) {
		restoreFromView(t, criu, filepath.Join(images, "other"), filepath.Join(t.TempDir(), "view"))
	})
}

func restoreFromView(t *testing.T, criu, images, dir string) {
	t.Helper()
	leak.Check(t)
	qt.Assert(t, qt.IsNil(os.Mkdir(images, 0o700)))
	root := makeRoot(t)
	cmd, connected, idle := startEchoServer(t, root)
	pid := cmd.Process.Pid
	netns, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", pid))
	qt.Assert(t, qt.IsNil(err))
	defer func() { _ = netns.Close() }()
	var st unix.Stat_t
	qt.Assert(t, qt.IsNil(unix.Fstat(int(netns.Fd()), &st)))

	held := holdSockets(t, pid)
	qt.Assert(t, qt.HasLen(held, 2))
	common := []string{"--tcp-close", "--network-lock", "skip", "--manage-cgroups=ignore", "-v4"}
	log := filepath.Join(t.TempDir(), "log")
	runCRIU(t, exec.CommandContext(t.Context(), criu, append([]string{
		"dump", "-t", strconv.Itoa(pid), "-D", images, "-o", log, "--skip-in-flight",
		"--external", fmt.Sprintf("net[%d]:net", st.Ino),
	}, common...)...), log)
	qt.Assert(t, qt.IsNotNil(cmd.Wait())) // killed

	// No process is there, and yet the kernel takes both.
	_, err = connected.WriteString("early")
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.IsNil(unix.Connect(int(idle.Fd()), echoAddr())))

	before := imagetest.Digests(t, images)
	view, err := image.NewView(t.Context(), images, dir)
	qt.Assert(t, qt.IsNil(err))
	keys := make(map[uint64]string)
	pidfile := filepath.Join(t.TempDir(), "pid")
	// CRIU wants a root that is a mount point.
	restore := exec.CommandContext(t.Context(), "unshare", append([]string{
		"-m", "sh", "-c", `mount -t overlay -o "$0" overlay "$1" && shift && exec "$@"`,
		overlayOptions(root), filepath.Join(root, "merged"),
		criu, "restore", "-D", view.Dir(), "-o", log, "-d", "--pidfile", pidfile, "--root", filepath.Join(root, "merged"),
		"--inherit-fd", "fd[3]:net",
	}, common...)...)
	restore.ExtraFiles = []*os.File{netns}
	for ino, file := range held {
		keys[ino] = fmt.Sprintf("%d-held", ino)
		restore.Args = append(restore.Args, "--inherit-fd", fmt.Sprintf("fd[%d]:%s", 3+len(restore.ExtraFiles), keys[ino]))
		restore.ExtraFiles = append(restore.ExtraFiles, file)
	}
	replaced, err := openfile.ReplaceSockets(t.Context(), view, keys)
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.HasLen(replaced, 2))
	runCRIU(t, restore, log)
	pidfd := openPidfile(t, pidfile)
	defer killAndWait(t, pidfd)
	qt.Check(t, qt.DeepEquals(imagetest.Digests(t, images), before))
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

// openPidfile returns a descriptor of the process that CRIU restored.
func openPidfile(t *testing.T, name string) int {
	t.Helper()
	text, err := os.ReadFile(name)
	qt.Assert(t, qt.IsNil(err))
	pid, err := strconv.Atoi(string(text))
	qt.Assert(t, qt.IsNil(err))
	pidfd, err := unix.PidfdOpen(pid, 0)
	qt.Assert(t, qt.IsNil(err))
	return pidfd
}

func killAndWait(t *testing.T, pidfd int) {
	t.Helper()
	qt.Check(t, qt.IsNil(unix.PidfdSendSignal(pidfd, unix.SIGKILL, nil, 0)))
	_, err := unix.Poll([]unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}, -1)
	qt.Check(t, qt.IsNil(err))
	qt.Check(t, qt.IsNil(unix.Close(pidfd)))
}
