package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/go-quicktest/qt"

	"github.com/snapctl/snapctl/runtime/api"
	"github.com/snapctl/snapctl/testenv"
)

// generations hibernates and wakes an app at random moments, n times; the
// program proves each time that it goes on and that its memory is right.
func (w *World) generations(n int, req *api.RunRequest) {
	w.t.Helper()
	random := seeded(w.t)
	s := w.controlled(req)
	steps := 0
	goesOn := func() {
		w.t.Helper()
		w.Until("it goes on", func() error {
			var now int
			answer := s.asks("check")
			if _, err := fmt.Sscanf(answer, "ok %d", &now); err != nil {
				w.t.Fatal(answer)
			}
			if now <= steps {
				return fmt.Errorf("%d steps", now)
			}
			steps = now
			return nil
		})
	}
	goesOn()
	for range n {
		w.pause(random, 150*time.Millisecond)
		w.Hibernate(req.GetName())
		w.Wake(req.GetName())
		w.mapped(64 << 10)
		goesOn()
	}
	w.t.Logf("%d steps", steps)
}

// TestMemoryOfRuntimes hibernates programs of several languages ten times,
// while they allocate, collect, compile and give memory back.
func TestMemoryOfRuntimes(t *testing.T) {
	w := New(t)
	testdata := func(file string) string {
		data, err := os.ReadFile(filepath.Join("testdata", file))
		qt.Assert(t, qt.IsNil(err))
		path := w.Path("bin", file)
		qt.Assert(t, qt.IsNil(os.WriteFile(path, data, 0o644)))
		return path
	}
	collected, err := w.Install(t.Context(), "collected")
	qt.Assert(t, qt.IsNil(err))
	env := []string{"PATH=" + os.Getenv("PATH")}
	for name, test := range map[string]struct {
		need []string
		args []string
		env  []string
	}{
		"go":              {args: []string{collected}},
		"go madvdontneed": {args: []string{collected}, env: []string{"GODEBUG=madvdontneed=1", "GOGC=30"}},
		"go madvfree":     {args: []string{collected}, env: []string{"GODEBUG=madvdontneed=0", "GOMEMLIMIT=60MiB"}},
		"python":          {need: []string{"python3"}, args: []string{"python3", testdata("memory.py")}},
		"python malloc":   {need: []string{"python3"}, args: []string{"python3", testdata("memory.py")}, env: []string{"PYTHONMALLOC=malloc"}},
		"node":            {need: []string{"node"}, args: []string{"node", "--expose-gc", testdata("memory.js")}},
		// It gives all memory back that it can, as others do when they are idle.
		"node, small": {need: []string{"node"}, args: []string{"node", "--optimize-for-size", "--expose-gc", testdata("memory.js")}},
	} {
		t.Run(name, func(t *testing.T) {
			for _, program := range test.need {
				testenv.Need(t, testenv.Program(program))
			}
			n := 10
			if len(test.env) > 0 {
				n = 5 // the same program in another mode
			}
			w.in(t).generations(n, &api.RunRequest{Name: "app", Args: test.args, Env: append(env, test.env...)})
		})
	}
	t.Run("java", func(t *testing.T) {
		testenv.Need(t, testenv.Program("javac"), testenv.Program("java"))
		out, err := exec.CommandContext(t.Context(), "javac", "-d", w.Path("bin"), testdata("Memory.java")).CombinedOutput()
		qt.Assert(t, qt.IsNil(err), qt.Commentf("%s", out))
		for name, options := range map[string][]string{
			"g1":     {"-XX:+UseG1GC", "-XX:G1PeriodicGCInterval=200", "-XX:MinHeapFreeRatio=5", "-XX:MaxHeapFreeRatio=10"},
			"serial": {"-XX:+UseSerialGC", "-XX:MinHeapFreeRatio=5", "-XX:MaxHeapFreeRatio=10"},
		} {
			t.Run(name, func(t *testing.T) {
				args := append([]string{"java", "-Xmx256m", "-cp", w.Path("bin")}, options...)
				w.in(t).generations(10, &api.RunRequest{Name: "app", Args: append(args, "Memory"), Env: env})
			})
		}
	})
}
