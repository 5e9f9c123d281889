package e2e

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/go-quicktest/qt"
	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/runtime/api"
	"github.com/snapctl/snapctl/testenv"
)

// compiled is a C program of the machine's own kind, at a path that apps see.
func (w *World) compiled(name string, command ...string) string {
	w.t.Helper()
	testenv.Need(w.t, testenv.Program(command[0]))
	path := w.Path("bin", name)
	out, err := exec.CommandContext(w.t.Context(), command[0], append(command[1:], "-O1", "-Wall", "-Werror", "-pthread", "-o", path)...).CombinedOutput()
	qt.Assert(w.t, qt.IsNil(err), qt.Commentf("%s", out))
	return path
}

// sources are the files of a C program in testenv/cmd.
func (w *World) sources(program string) []string {
	w.t.Helper()
	files, err := filepath.Glob(filepath.Join("..", "cmd", program, "*.c"))
	qt.Assert(w.t, qt.IsNil(err))
	qt.Assert(w.t, qt.Not(qt.HasLen(files, 0)))
	return files
}

// controlled runs a program that is told what to do at port 7000, and that
// nothing but a command wakes.
func (w *World) controlled(req *api.RunRequest) *survivor {
	w.t.Helper()
	req.Wake = &api.WakePolicy{Mode: api.WakeMode_WAKE_MODE_NEVER}
	if req.Endpoint == "" {
		req.Endpoint = survivorEndpoint
	}
	w.Run(req)
	return w.control(req.GetEndpoint())
}

// asks sends a command and returns an answer that may take a while.
func (s *survivor) asks(command string) string {
	s.t.Helper()
	qt.Assert(s.t, qt.IsNil(s.conn.SetDeadline(time.Now().Add(2*time.Minute))))
	_, err := fmt.Fprintln(s.conn, command)
	qt.Assert(s.t, qt.IsNil(err))
	answer, err := s.in.ReadString('\n')
	qt.Assert(s.t, qt.IsNil(err))
	return strings.TrimSpace(answer)
}

// A pageMap is a private mapping of a file of saved pages.
type pageMap struct {
	pid         int
	file        string // as the daemon's host sees it
	from, bytes int64
}

// pageMaps are the private mappings that the processes of the host have of
// files of saved pages.
func (w *World) pageMaps() []pageMap {
	w.t.Helper()
	pids, err := w.Pids()
	qt.Assert(w.t, qt.IsNil(err))
	var maps []pageMap
	for _, pid := range pids {
		f, err := os.Open(fmt.Sprintf("/proc/%d/maps", pid))
		if err != nil {
			continue // it has ended
		}
		lines := bufio.NewScanner(f)
		for lines.Scan() {
			var from, to, offset, inode int64
			var flags, device, file string
			n, _ := fmt.Sscanf(lines.Text(), "%x-%x %s %x %s %d %s", &from, &to, &flags, &offset, &device, &inode, &file)
			if n == 7 && strings.HasSuffix(flags, "p") && filepath.Base(filepath.Dir(file)) == "memory" {
				maps = append(maps, pageMap{pid: pid, file: file, from: from, bytes: to - from})
			}
		}
		_ = f.Close()
	}
	return maps
}

// mapped proves that memory of processes of this host is mapped from files of
// saved pages, at least so many bytes of it, and none if want is 0.
func (w *World) mapped(want int64) {
	w.t.Helper()
	var sum int64
	for _, m := range w.pageMaps() {
		sum += m.bytes
	}
	if want == 0 {
		qt.Check(w.t, qt.Equals(sum, 0))
		return
	}
	qt.Check(w.t, qt.IsTrue(sum >= want), qt.Commentf("%d bytes are mapped, want at least %d", sum, want))
}

// evictPages drops the pages of the files that memory is mapped from out of the
// page cache, as far as nobody uses them at the moment.
func (w *World) evictPages() {
	w.t.Helper()
	files := make(map[string]bool)
	for _, m := range w.pageMaps() {
		files[fmt.Sprintf("/proc/%d/map_files/%x-%x", m.pid, m.from, m.from+m.bytes)] = true
	}
	for file := range files {
		f, err := os.Open(file)
		qt.Assert(w.t, qt.IsNil(err))
		qt.Check(w.t, qt.IsNil(unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED)))
		qt.Check(w.t, qt.IsNil(f.Close()))
	}
}
