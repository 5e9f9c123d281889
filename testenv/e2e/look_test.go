package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/go-quicktest/qt"

	"github.com/snapctl/snapctl/runtime/api"
	"github.com/snapctl/snapctl/testenv/host"
)

// once proves that an app has a status, and one tree of processes if it runs
// and none if it is held, whatever its daemon believes.
func (w *World) once(app string, want api.Status) {
	w.t.Helper()
	a := w.Show(app)
	qt.Assert(w.t, qt.Equals(a.GetStatus(), want))
	n := 1
	if want == api.Status_STATUS_HELD {
		n = 0
	}
	w.Until(app+" has its processes", func() error {
		if got := w.processes(app); got != n {
			return errors.New("it has others")
		}
		return nil
	})
}

// processes counts the first processes of pid namespaces in an app's cgroup:
// the live copies of the app.
func (w *World) processes(app string) int {
	w.t.Helper()
	pids, err := w.Pids()
	qt.Assert(w.t, qt.IsNil(err))
	n := 0
	for _, pid := range pids {
		if cgroupOf(pid) == app && isInit(pid) {
			n++
		}
	}
	return n
}

// gone proves that an app is not there, and that its name and endpoint are free.
func (w *World) gone(app string) {
	w.t.Helper()
	apps, err := w.API.List(w.t.Context())
	qt.Assert(w.t, qt.IsNil(err))
	for _, a := range apps {
		qt.Assert(w.t, qt.Not(qt.Equals(a.GetName(), app)))
	}
	qt.Assert(w.t, qt.Equals(w.processes(app), 0))
	w.Run(redisRequest(app, "10.77.0.8"))
	c := w.redis("10.77.0.8")
	qt.Assert(w.t, qt.Equals(c.do("PING"), "+PONG"))
}

func (w *World) snapshots() []string {
	w.t.Helper()
	all, err := w.API.ListSnapshots(w.t.Context())
	qt.Assert(w.t, qt.IsNil(err))
	names := make([]string, 0, len(all))
	for _, s := range all {
		names = append(names, s.GetName())
	}
	return names
}

// nothingPartial proves that nothing half written or half removed is left, as
// soon as the last operation has cleaned up.
func (w *World) nothingPartial() {
	w.t.Helper()
	w.Until("nothing partial is left", w.partial)
	w.Until("memory files are those that are needed", w.memoryFiles)
}

// memoryFiles proves that every memory file that a snapshot, a held app or a running
// one needs is there, and no other.
func (w *World) memoryFiles() error {
	state, found := w.Outside(w.StateDir()), make(map[string]bool)
	stored, err := os.ReadDir(filepath.Join(state, "memory"))
	if err != nil {
		return err
	}
	for _, e := range stored {
		found[e.Name()] = true
	}
	needed := make(map[string]bool)
	for _, pattern := range []string{"snapshots/*/manifest.json", "apps/*/hibernation/manifest.json", "apps/*/app.json"} {
		names, err := filepath.Glob(filepath.Join(state, pattern))
		if err != nil {
			return err
		}
		for _, name := range names {
			b, err := os.ReadFile(name)
			if err != nil {
				return err
			}
			var has struct {
				Memory []struct {
					SHA256 string `json:"sha256"`
				} `json:"memory"`
			}
			if err := json.Unmarshal(b, &has); err != nil {
				return err
			}
			for _, f := range has.Memory {
				if needed[f.SHA256] = true; !found[f.SHA256] {
					return fmt.Errorf("%s names %s, which is not there", name, f.SHA256)
				}
			}
		}
	}
	if len(found) != len(needed) {
		return fmt.Errorf("%d memory files for %d that are needed", len(found), len(needed))
	}
	return nil
}

func (w *World) partial() error {
	for _, dir := range []string{w.Outside(w.StateDir()), w.Outside(host.RunDir)} {
		err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			switch {
			case errors.Is(err, fs.ErrNotExist):
				return nil
			case err != nil:
				return err
			case strings.HasPrefix(d.Name(), ".partial-") || strings.HasSuffix(d.Name(), ".json.new"):
				return fmt.Errorf("left behind: %s", path)
			case d.Name() == "root" || d.Name() == "storage" || d.Name() == "dev":
				return fs.SkipDir
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// cgroupOf is the last element of a process's cgroup, or "" if it has ended.
func cgroupOf(pid int) string {
	for line := range strings.Lines(procFile(pid, "cgroup")) {
		if path, ok := strings.CutPrefix(strings.TrimSpace(line), "0::"); ok {
			return filepath.Base(path)
		}
	}
	return ""
}

// isInit tells whether a live process is the first of a pid namespace.
func isInit(pid int) bool {
	zombie, init := false, false
	for line := range strings.Lines(procFile(pid, "status")) {
		f := strings.Fields(line)
		if len(f) > 1 && f[0] == "State:" {
			zombie = f[1] == "Z" || f[1] == "X"
		}
		if len(f) > 2 && f[0] == "NSpid:" {
			init = f[len(f)-1] == "1"
		}
	}
	return init && !zombie
}

func procFile(pid int, name string) string {
	b, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), name))
	if err != nil {
		return "" // it ended meanwhile
	}
	return string(b)
}
