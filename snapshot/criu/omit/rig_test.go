package omit_test

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"hash/maphash"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/go-quicktest/qt"
	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/snapshot/criu/apart"
	"github.com/snapctl/snapctl/snapshot/criu/omit"
	"github.com/snapctl/snapctl/snapshot/image"
	"github.com/snapctl/snapctl/testenv"
)

// program is an app with areas of memory of which each page has its own content, which says whether its
// memory is right when it is asked. Its arguments are the pages of the areas, in the order of their
// addresses; "huge" asks for huge pages, "filter" for a seccomp filter, "fork" for a child that has every
// third page changed.
const program = `
import ctypes, mmap, os, struct, sys
os.closerange(3, 100)  # what the test itself was started with
os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])  # the kernel writes its number into memory, rseq(2)
areas = []
def page(addr, seed): return struct.pack("<QQ", addr, seed) * 256
def right(seed): return all(m[i:i+4096] == page(at + i, seed(i)) for at, m in areas for i in range(0, len(m), 4096))
for n in [int(a) for a in sys.argv[1:] if a.isdigit()]:
    m = mmap.mmap(-1, n * 4096, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    m.madvise(mmap.MADV_HUGEPAGE if "huge" in sys.argv else mmap.MADV_NOHUGEPAGE)
    at = ctypes.addressof(ctypes.c_char.from_buffer(m))
    for i in range(0, len(m), 4096): m[i:i+4096] = page(at + i, 1)
    areas.append((at, m))
areas.sort()
if "filter" in sys.argv:
    class Program(ctypes.Structure): _fields_ = [("n", ctypes.c_ushort), ("code", ctypes.c_char_p)]
    code = struct.pack("<HBBI", 0x06, 0, 0, 0x7fff0000)  # BPF_RET, SECCOMP_RET_ALLOW
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.prctl(38, 1, 0, 0, 0) == 0  # PR_SET_NO_NEW_PRIVS
    assert libc.prctl(22, 2, ctypes.byref(Program(1, code)), 0, 0) == 0  # PR_SET_SECCOMP
seed, child = (lambda i: 1), 0
if "fork" in sys.argv:
    ask, asked = os.pipe()
    tell, told = os.pipe()
    child = os.fork()
    if child:
        os.read(tell, 1)
    else:
        seed = lambda i: 2 if i // 4096 % 3 == 0 else 1
        for at, m in areas:
            for i in range(0, len(m), 3 * 4096): m[i:i+4096] = page(at + i, 2)
        os.write(told, b"x")
        while os.read(ask, 1): os.write(told, b"y" if right(seed) else b"n")
        os._exit(0)
print(child, *["%d %d" % (at, len(m) // 4096) for at, m in areas], flush=True)
for line in sys.stdin:
    ok = right(seed)
    if child:
        os.write(asked, b"x")
        ok = ok and os.read(tell, 1) == b"y"
    print("right" if ok else "wrong", flush=True)
if child: os.kill(child, 9)
`

// app is a running program.
type app struct {
	t     *testing.T
	cmd   *exec.Cmd
	in    io.WriteCloser
	out   *bufio.Reader
	pid   int
	child int // 0: it has none
	areas []image.Extent
	run   string // what a shell does to begin as CRIU
}

// start starts a program in a mount namespace of its own, in which CRIU is then, too.
func start(t *testing.T, args ...string) *app {
	t.Helper()
	testenv.Need(t, testenv.Root, testenv.CRIU, testenv.Program("python3"))
	a := &app{t: t, run: `exec "$@"`, cmd: exec.Command("python3", append([]string{"-c", program}, args...)...)}
	var err error
	a.in, err = a.cmd.StdinPipe()
	qt.Assert(t, qt.IsNil(err))
	out, err := a.cmd.StdoutPipe()
	qt.Assert(t, qt.IsNil(err))
	a.out = bufio.NewReader(out)
	a.cmd.Stderr = os.Stderr
	a.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	qt.Assert(t, qt.IsNil(apart.OnThread(func() error {
		if err := apart.Move(); err != nil {
			return err
		}
		return a.cmd.Start()
	})))
	t.Cleanup(a.end)
	a.pid = a.cmd.Process.Pid
	line, err := a.out.ReadString('\n')
	qt.Assert(t, qt.IsNil(err))
	in := strings.NewReader(line)
	_, err = fmt.Fscan(in, &a.child)
	for e := (image.Extent{}); err == nil; {
		if _, err = fmt.Fscan(in, &e.Start, &e.Pages); err == nil {
			a.areas = append(a.areas, e)
		}
	}
	qt.Assert(t, qt.ErrorIs(err, io.EOF))
	return a
}

// end ends the program, unless it has ended.
func (a *app) end() {
	_ = a.in.Close()
	if a.cmd.ProcessState == nil {
		qt.Check(a.t, qt.IsNil(a.cmd.Wait()))
	}
}

// check has the program look at its memory.
func (a *app) check() {
	a.t.Helper()
	_, err := fmt.Fprintln(a.in, "check")
	qt.Assert(a.t, qt.IsNil(err))
	line, err := a.out.ReadString('\n')
	qt.Assert(a.t, qt.IsNil(err))
	qt.Assert(a.t, qt.Equals(line, "right\n"))
}

// dumper is a CRIU that is about to begin.
type dumper struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	out bytes.Buffer
	dir string
}

// prepare starts a CRIU that waits.
func (a *app) prepare(args ...string) *dumper {
	a.t.Helper()
	d := &dumper{dir: a.t.TempDir()}
	wait := []string{"-c", "read x && " + a.run, "sh", testenv.CRIUPath(), "dump", "-t", fmt.Sprint(a.pid), "-D", d.dir, "-o", "log", "-v2"}
	d.cmd = exec.Command("sh", append(wait, args...)...)
	d.cmd.Stdout, d.cmd.Stderr = &d.out, &d.out
	var err error
	d.in, err = d.cmd.StdinPipe()
	qt.Assert(a.t, qt.IsNil(err))
	qt.Assert(a.t, qt.IsNil(apart.Do(a.pid, d.cmd.Start)))
	a.t.Cleanup(func() {
		_ = d.in.Close()
		if d.cmd.ProcessState == nil {
			_ = d.cmd.Wait()
		}
	})
	return d
}

// begin has CRIU begin.
func (d *dumper) begin() error {
	_, err := fmt.Fprintln(d.in)
	return err
}

// run has CRIU save, and waits for its end.
func (d *dumper) run() error {
	if err := d.begin(); err != nil {
		return err
	}
	if err := d.cmd.Wait(); err != nil {
		log, _ := os.ReadFile(filepath.Join(d.dir, "log"))
		return fmt.Errorf("%w\n%s%s", err, &d.out, log)
	}
	return nil
}

// save saves an app, but for some pages. It returns what CRIU has saved of each process.
// If the app then goes on, args say so.
func (a *app) save(pages map[int][]image.Extent, args ...string) map[int]memory {
	a.t.Helper()
	d := a.prepare(args...)
	o, err := omit.Start(d.cmd.Process.Pid, pages)
	qt.Assert(a.t, qt.IsNil(err))
	defer func() { qt.Check(a.t, qt.IsNil(o.Close())) }()
	qt.Assert(a.t, qt.IsNil(d.run()))
	qt.Assert(a.t, qt.IsNil(o.Check()))
	if len(args) > 0 {
		a.uncover(pages)
	}
	var all uint64
	for _, runs := range pages {
		for _, r := range runs {
			all += r.Pages
		}
	}
	qt.Assert(a.t, qt.Equals(o.Pages(), all))
	return a.read(d.dir)
}

// uncover has what was mounted for a CRIU go with it, though its mount namespace is the app's.
func (a *app) uncover(pages map[int][]image.Extent) {
	a.t.Helper()
	qt.Assert(a.t, qt.IsNil(apart.Do(a.pid, func() (err error) {
		for pid, runs := range pages {
			if len(runs) > 0 {
				err = errors.Join(err, unix.Unmount(fmt.Sprintf("/proc/%d/pagemap", pid), 0))
			}
		}
		return err
	})))
}

// saveAll saves an app without our being there.
func (a *app) saveAll() map[int]memory {
	a.t.Helper()
	d := a.prepare("--leave-running")
	qt.Assert(a.t, qt.IsNil(d.run()))
	return a.read(d.dir)
}

// memory has a hash of what each page holds, by its address.
type memory map[uint64]uint64

var seed = maphash.MakeSeed()

// read reads what CRIU has saved.
func (a *app) read(dir string) map[int]memory {
	a.t.Helper()
	dump, err := image.OpenTree(a.t.Context(), os.DirFS(dir))
	qt.Assert(a.t, qt.IsNil(err))
	all := make(map[int]memory)
	for _, entry := range dump.Tree {
		task, err := dump.MemoryTask(entry)
		qt.Assert(a.t, qt.IsNil(err))
		f, err := os.Open(filepath.Join(dir, fmt.Sprintf("pages-%d.img", task.Pages.PagesID)))
		qt.Assert(a.t, qt.IsNil(err))
		defer f.Close()
		pages := bufio.NewReaderSize(f, 1<<20)
		m, page := make(memory), make([]byte, image.PageSize)
		for _, e := range task.Pages.Extents {
			for i := range e.Pages {
				_, err := io.ReadFull(pages, page)
				qt.Assert(a.t, qt.IsNil(err))
				m[e.Start+i*image.PageSize] = maphash.Bytes(seed, page)
			}
		}
		_, err = pages.ReadByte()
		qt.Assert(a.t, qt.ErrorIs(err, io.EOF))
		all[int(entry.GetPid())] = m
	}
	return all
}

// without takes pages out of what was saved.
func without(all map[int]memory, pages map[int][]image.Extent) {
	for pid, runs := range pages {
		for _, r := range runs {
			for i := range r.Pages {
				delete(all[pid], r.Start+i*image.PageSize)
			}
		}
	}
}

// same checks that what was saved is what is wanted.
func same(t *testing.T, got, want map[int]memory) {
	t.Helper()
	qt.Assert(t, qt.Equals(len(got), len(want)))
	for pid, pages := range want {
		for at, content := range pages {
			if have, ok := got[pid][at]; !ok || have != content {
				t.Errorf("page %#x of process %d: saved %t, and is another one", at, pid, ok)
				return
			}
		}
		qt.Check(t, qt.Equals(len(got[pid]), len(pages)))
	}
}
