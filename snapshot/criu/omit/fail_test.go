package omit_test

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/go-quicktest/qt"
	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/snapshot/criu/apart"
	"github.com/snapctl/snapctl/snapshot/criu/omit"
	"github.com/snapctl/snapctl/snapshot/image"
	"github.com/snapctl/snapctl/testenv/leak"
)

// This test binary is also a program that has CRIU leave out pages, and stops answering in the middle.
func TestMain(m *testing.M) {
	if len(os.Args) == 6 && os.Args[1] == "answerer" {
		if err := answerer(os.Args[2:]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// answerer has the numbers of CRIU and of a process, and an area.
func answerer(args []string) error {
	var criu, pid int
	var area image.Extent
	if _, err := fmt.Sscan(strings.Join(args, " "), &criu, &pid, &area.Start, &area.Pages); err != nil {
		return err
	}
	o, err := omit.Start(criu, map[int][]image.Extent{pid: {area}})
	if err != nil {
		return err
	}
	if _, err := fmt.Fprintln(os.Stdout, "answering"); err != nil {
		return err
	}
	o.Hold()
	_, err = io.Copy(io.Discard, os.Stdin)
	return err
}

// If whoever answers CRIU is killed in the middle, CRIU fails, and the app goes on. Nothing is left.
func TestAnswererIsKilled(t *testing.T) {
	leak.Check(t)
	a := start(t, "filter", "300", "2000")
	pages := map[int][]image.Extent{a.pid: a.areas[:1]}
	d := a.prepare("--leave-running")
	killed := exec.Command(os.Args[0], "answerer", fmt.Sprint(d.cmd.Process.Pid), fmt.Sprint(a.pid), fmt.Sprint(a.areas[0].Start), fmt.Sprint(a.areas[0].Pages))
	killed.Stderr = os.Stderr
	in, err := killed.StdinPipe()
	qt.Assert(t, qt.IsNil(err))
	out, err := killed.StdoutPipe()
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.IsNil(killed.Start()))
	t.Cleanup(func() {
		_ = in.Close()
		_ = killed.Wait()
	})
	line, err := bufio.NewReader(out).ReadString('\n')
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.Equals(line, "answering\n"))
	qt.Assert(t, qt.IsNil(d.begin()))
	asking(t, d.cmd.Process.Pid)
	qt.Assert(t, qt.IsNil(killed.Process.Kill()))
	qt.Check(t, qt.IsNotNil(d.cmd.Wait()))
	log, err := os.ReadFile(d.dir + "/log")
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.StringContains(string(log), "PAGEMAP_SCAN"))
	a.uncover(pages)
	a.check()
	// Another CRIU saves it.
	same(t, a.saveAll(), a.saveAll())
}

// asking waits until a process waits for the answer to a scan.
func asking(t *testing.T, pid int) {
	t.Helper()
	want := fmt.Sprintf("%d ", unix.SYS_IOCTL)
	for until := time.Now().Add(30 * time.Second); time.Now().Before(until); {
		call, err := os.ReadFile(fmt.Sprintf("/proc/%d/syscall", pid))
		qt.Assert(t, qt.IsNil(err))
		if strings.HasPrefix(string(call), want) && strings.Contains(string(call), " 0xc0606610 ") {
			return
		}
	}
	t.Fatal("CRIU does not ask")
}

// The answers are for CRIU, and what is apart with it, alone.
func TestSomebodyElseAsks(t *testing.T) {
	leak.Check(t)
	a := start(t, "100")
	pages := map[int][]image.Extent{a.pid: a.areas}
	d := a.prepare("--leave-running")
	o, err := omit.Start(d.cmd.Process.Pid, pages)
	qt.Assert(t, qt.IsNil(err))
	defer func() { qt.Check(t, qt.IsNil(o.Close())) }()
	path := fmt.Sprintf("/proc/%d/pagemap", a.pid)
	qt.Assert(t, qt.IsNil(apart.Do(d.cmd.Process.Pid, func() error { return ask(path) })))
	qt.Check(t, qt.ErrorMatches(o.Check(), "CRIU did not come across .*"))
	qt.Check(t, qt.ErrorIs(ask(fmt.Sprintf("/proc/%d/root%s", d.cmd.Process.Pid, path)), unix.EPERM))
	qt.Check(t, qt.ErrorMatches(o.Check(), "answer CRIU: process .*, and not CRIU: operation not permitted"))
}

// ask asks for pages as CRIU does. Something else is refused as the kernel does it.
func ask(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := unix.IoctlGetInt(int(f.Fd()), unix.TCGETS); err != unix.ENOTTY {
		return fmt.Errorf("another ioctl: %w", err)
	}
	return omit.Scan(int(f.Fd()))
}

// What can't be is an error beforehand, and CRIU then sees all pages.
func TestStartFails(t *testing.T) {
	leak.Check(t)
	a := start(t, "100")
	d := a.prepare("--leave-running")
	criu := d.cmd.Process.Pid
	runs := a.areas
	beside := exec.Command("cat")
	in, err := beside.StdinPipe()
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.IsNil(beside.Start()))
	defer func() {
		_ = in.Close()
		_ = beside.Wait()
	}()
	for name, tt := range map[string]struct {
		criu  int
		pages map[int][]image.Extent
		err   string
	}{
		"no such process":      {criu, map[int][]image.Extent{a.pid: runs, 1 << 30: runs}, ".*: open /proc/1073741824/pagemap: no such file or directory"},
		"no such CRIU":         {1 << 30, map[int][]image.Extent{a.pid: runs}, ".*: find mount namespace: .*"},
		"CRIU is not apart":    {beside.Process.Pid, map[int][]image.Extent{a.pid: runs}, ".*: CRIU is in the mount namespace of the host"},
		"runs that can not be": {criu, map[int][]image.Extent{a.pid: {{Start: 1, Pages: 1}}}, ".*: process .*: 1 pages at 0x1 can't be left out .*"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := omit.Start(tt.criu, tt.pages)
			qt.Assert(t, qt.ErrorMatches(err, "leave pages out of what CRIU saves"+tt.err))
		})
	}
	all := a.saveAll()
	qt.Assert(t, qt.IsNil(d.run()))
	same(t, a.read(d.dir), all)
}
