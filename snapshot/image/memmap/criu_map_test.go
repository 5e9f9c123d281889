package memmap

import (
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"unsafe"

	"github.com/go-quicktest/qt"
	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/snapshot/image"
	"github.com/snapctl/snapctl/snapshot/image/openfile"
	"github.com/snapctl/snapctl/testenv"
	"github.com/snapctl/snapctl/testenv/leak"
)

// A mappedServer is an echoServer that is dumped and restored over and over.
type mappedServer struct {
	t               *testing.T
	root            string
	netns           *os.File
	ino             uint64 // of the network namespace
	connected, idle *os.File
	pid             int
}

var criuCommon = []string{"--tcp-close", "--network-lock", "skip", "--manage-cgroups=ignore", "-v4"}

// dump saves the server, ends it, and returns its images and its live sockets.
func (s *mappedServer) dump(external ...string) (images string, held map[uint64]*os.File) {
	s.t.Helper()
	held = holdSockets(s.t, s.pid)
	images = s.t.TempDir()
	log := filepath.Join(s.t.TempDir(), "log")
	cmd := exec.CommandContext(s.t.Context(), testenv.CRIUPath(), append([]string{
		"dump", "-t", strconv.Itoa(s.pid), "-D", images, "-o", log, "--skip-in-flight",
		"--external", fmt.Sprintf("net[%d]:net", s.ino),
	}, criuCommon...)...)
	for _, e := range external {
		cmd.Args = append(cmd.Args, "--external", e)
	}
	runCRIU(s.t, cmd, log)
	return images, held
}

// restore brings the server back, with files that CRIU inherits. It ends with the
// test, unless it is dumped before.
func (s *mappedServer) restore(view *image.View, held map[uint64]*os.File, files map[string]*os.File) {
	t := s.t
	t.Helper()
	keys := make(map[uint64]string)
	pidfile, log := filepath.Join(t.TempDir(), "pid"), filepath.Join(t.TempDir(), "log")
	cmd := exec.CommandContext(t.Context(), "unshare", append([]string{
		"-m", "sh", "-c", `mount -t overlay -o "$0" overlay "$1" && shift && exec "$@"`,
		overlayOptions(s.root), filepath.Join(s.root, "merged"),
		testenv.CRIUPath(), "restore", "-D", view.Dir(), "-o", log, "-d", "--pidfile", pidfile,
		"--root", filepath.Join(s.root, "merged"), "--inherit-fd", "fd[3]:net",
	}, criuCommon...)...)
	cmd.ExtraFiles = []*os.File{s.netns}
	inherit := func(key string, file *os.File) {
		cmd.Args = append(cmd.Args, "--inherit-fd", fmt.Sprintf("fd[%d]:%s", 3+len(cmd.ExtraFiles), key))
		cmd.ExtraFiles = append(cmd.ExtraFiles, file)
	}
	for ino, file := range held {
		keys[ino] = fmt.Sprintf("%d-held", ino)
		inherit(keys[ino], file)
	}
	for key, file := range files {
		inherit(key, file)
	}
	_, err := openfile.ReplaceSockets(t.Context(), view, keys)
	qt.Assert(t, qt.IsNil(err))
	runCRIU(t, cmd, log)
	pidfd := openPidfile(t, pidfile)
	t.Cleanup(func() {
		if err := unix.PidfdSendSignal(pidfd, unix.SIGKILL, nil, 0); err != nil {
			qt.Check(t, qt.ErrorIs(err, unix.ESRCH))
		}
		_, err := unix.Poll([]unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}, -1)
		qt.Check(t, qt.IsNil(err))
		qt.Check(t, qt.IsNil(unix.Close(pidfd)))
	})
	text, err := os.ReadFile(pidfile)
	qt.Assert(t, qt.IsNil(err))
	s.pid, err = strconv.Atoi(string(text))
	qt.Assert(t, qt.IsNil(err))
	for _, file := range held {
		qt.Assert(t, qt.IsNil(file.Close()))
	}
}

// echoes proves that the server answers on a connection.
func (s *mappedServer) echoes(conn *os.File, text string) {
	s.t.Helper()
	_, err := conn.WriteString(text)
	qt.Assert(s.t, qt.IsNil(err))
	buf := make([]byte, len(text))
	_, err = io.ReadFull(conn, buf)
	qt.Assert(s.t, qt.IsNil(err))
	qt.Assert(s.t, qt.Equals(string(buf), text))
}

// behindData is the inode of the file that the middle of the server's programData is mapped from. The
// server is this program, which is linked to be at one address.
func (s *mappedServer) behindData() uint64 {
	s.t.Helper()
	at := uint64(uintptr(unsafe.Pointer(&programData[len(programData)/2])))
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", s.pid))
	qt.Assert(s.t, qt.IsNil(err))
	for line := range strings.Lines(string(text)) {
		var from, to, inode uint64
		if _, err := fmt.Sscanf(line, "%x-%x %s %x %s %d", &from, &to, new(string), new(uint64), new(string), &inode); err == nil && from <= at && at < to {
			return inode
		}
	}
	s.t.Fatalf("nothing is at %#x", at)
	return 0
}

// ballast checks the memory that a server must have after some connections.
func ballast(t *testing.T, all map[uint32]pageContent, connections uint64) {
	t.Helper()
	qt.Assert(t, qt.HasLen(all, 1))
	want := make([]byte, ballastPages*image.PageSize)
	fillBallast(want, 0, ballastPages, 0)
	for n := uint64(1); n <= connections; n++ {
		fillBallast(want, n*ballastStep, ballastStep/2, n)
	}
	found, wrong := 0, 0
	for _, pages := range all {
		for _, content := range pages {
			if binary.LittleEndian.Uint64([]byte(content)) != ballastMark {
				continue
			}
			found++
			page := binary.LittleEndian.Uint64([]byte(content[8:])) >> 32
			if page >= ballastPages || content != string(want[page*image.PageSize:][:image.PageSize]) {
				wrong++
			}
		}
	}
	qt.Assert(t, qt.Equals(found, ballastPages))
	qt.Assert(t, qt.Equals(wrong, 0))
}

// TestMapRealMemory has CRIU itself map what Map says, dump what became of it,
// and restore what Copy makes of that.
func TestMapRealMemory(t *testing.T) {
	testenv.Need(t, testenv.Root, testenv.CRIU)
	leak.Check(t)
	s := &mappedServer{t: t, root: makeRoot(t)}
	cmd, connected, idle := startEchoServer(t, s.root)
	s.connected, s.idle, s.pid = connected, idle, cmd.Process.Pid
	var err error
	s.netns, err = os.Open(fmt.Sprintf("/proc/%d/ns/net", s.pid))
	qt.Assert(t, qt.IsNil(err))
	defer func() { qt.Check(t, qt.IsNil(s.netns.Close())) }()
	var st unix.Stat_t
	qt.Assert(t, qt.IsNil(unix.Fstat(int(s.netns.Fd()), &st)))
	s.ino = st.Ino
	s.echoes(connected, "first")

	// As it was dumped, and as CRIU is to map it.
	images, held := s.dump()
	qt.Assert(t, qt.IsNotNil(cmd.Wait())) // killed
	want := readMemory(t, images, nil)
	ballast(t, want, 1)
	use, err := Measure(t.Context(), images, nil)
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.HasLen(use.Pages, 1))
	data := readFile(t, images, use.Pages[0])
	view := newView(t, images)
	keys, err := Map(t.Context(), view, Files{Pages: map[string]string{use.Pages[0]: "0//memory"}})
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.DeepEquals(keys, []string{"0//memory"}))
	sameMemory(t, readMemory(t, view.Dir(), map[string][]byte{"/0//memory": data}), want)
	file, err := os.Open(filepath.Join(images, use.Pages[0]))
	qt.Assert(t, qt.IsNil(err))
	defer func() { qt.Check(t, qt.IsNil(file.Close())) }()
	s.restore(view, held, map[string]*os.File{"0//memory": file})
	var at unix.Statx_t
	qt.Assert(t, qt.IsNil(unix.Statx(int(file.Fd()), "", unix.AT_EMPTY_PATH, unix.STATX_INO|unix.STATX_MNT_ID, &at)))
	qt.Check(t, qt.Equals(s.behindData(), at.Ino))
	s.echoes(connected, "second")
	qt.Assert(t, qt.IsNil(unix.Connect(int(idle.Fd()), echoAddr())))
	s.echoes(idle, "a second connection changes memory")

	// As it is dumped with what has changed, under the name that CRIU has for the rest.
	name := fmt.Sprintf("file[%x:%x]", at.Mnt_id, at.Ino)
	images, held = s.dump(name)
	later := readMemory(t, images, map[string][]byte{name: data})
	ballast(t, later, 2)
	use, err = Measure(t.Context(), images, map[string]int64{name: int64(len(data))})
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.DeepEquals(use.Bases, []string{name}))
	qt.Check(t, qt.IsTrue(use.BaseBytes > ballastPages*image.PageSize/2), qt.Commentf("%d", use.BaseBytes))
	qt.Check(t, qt.IsTrue(use.OwnBytes < use.BaseBytes), qt.Commentf("%d", use.OwnBytes))
	view = newView(t, images)
	qt.Assert(t, qt.IsNil(Copy(t.Context(), view, map[string]*os.File{name: file})))
	sameMemory(t, readMemory(t, view.Dir(), nil), later)
	s.restore(view, held, nil)
	qt.Check(t, qt.Equals(s.behindData(), 0))
	s.echoes(connected, "third")
	s.echoes(idle, "fourth")
}
