package e2e

import (
	"context"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/go-quicktest/qt"

	"github.com/snapctl/snapctl/runtime/api"
	"github.com/snapctl/snapctl/testenv"
)

// fine asks a program that knows what its memory must hold.
func (s *survivor) fine(format string, args ...any) {
	s.t.Helper()
	qt.Assert(s.t, qt.Matches(s.asks(fmt.Sprintf(format, args...)), `ok.*`), qt.Commentf("%s", fmt.Sprintf(format, args...)))
}

// churn runs testenv/cmd/churn.
func (w *World) churn(limits *api.Limits) *survivor {
	w.t.Helper()
	program := w.compiled("churn", append([]string{"gcc"}, w.sources("churn")...)...)
	return w.controlled(&api.RunRequest{Name: "churn", Args: []string{program}, Limits: limits})
}

// TestMemoryOfTenGenerations changes memory in every way between ten
// hibernations, some of them across the death of the daemon.
func TestMemoryOfTenGenerations(t *testing.T) {
	w := New(t, "gcc")
	s := w.churn(nil)
	for generation := range 10 {
		s.fine("churn %d 400", generation)
		w.Hibernate("churn")
		if generation%4 == 1 {
			w.killDaemon()
		}
		w.Wake("churn")
		w.mapped(1 << 20)
		if generation%4 == 3 {
			w.killDaemon()
		}
		s.fine("check")
	}
	s.fine("churn 99 4000")
}

// TestMemoryOfCopiesDiverges restores a snapshot twice, lets the copies and
// the original go their ways, and hibernates and snapshots all of them again.
func TestMemoryOfCopiesDiverges(t *testing.T) {
	w := New(t, "gcc")
	all := map[string]*survivor{"churn": w.churn(nil)}
	all["churn"].fine("churn 1 2000")
	_, err := w.API.TakeSnapshot(t.Context(), &api.SnapshotRequest{App: "churn", Name: "saved"}, nil)
	qt.Assert(t, qt.IsNil(err))
	copied := func(snapshot, app, endpoint string) {
		_, err := w.API.Restore(t.Context(), &api.RestoreRequest{
			Snapshot: snapshot, As: app, Endpoint: endpoint,
		}, nil)
		qt.Assert(t, qt.IsNil(err))
		w.mapped(1 << 20)
		all[app] = w.control(endpoint)
	}
	copied("saved", "one", "10.77.0.21")
	copied("saved", "two", "10.77.0.22")
	for round := range 3 {
		for seed, app := range []string{"churn", "one", "two"} {
			all[app].fine("check")
			all[app].fine("churn %d 500", 100*round+seed)
			w.Hibernate(app)
			w.Wake(app)
		}
	}
	// A copy of a copy, and one more of the first, after all that.
	_, err = w.API.TakeSnapshot(t.Context(), &api.SnapshotRequest{App: "one", Name: "again"}, nil)
	qt.Assert(t, qt.IsNil(err))
	copied("again", "three", "10.77.0.23")
	copied("saved", "four", "10.77.0.24")
	for seed, app := range []string{"churn", "one", "two", "three", "four"} {
		all[app].fine("check")
		all[app].fine("churn %d 1000", 1000+seed)
	}
	// What nobody has any more, nobody needs.
	for _, app := range []string{"churn", "two", "four"} {
		qt.Assert(t, qt.IsNil(w.API.Remove(t.Context(), &api.RemoveRequest{Name: app, Force: true})))
	}
	for _, snapshot := range []string{"saved", "again"} {
		qt.Assert(t, qt.IsNil(w.API.RemoveSnapshot(t.Context(), snapshot)))
	}
	w.killDaemon()
	for _, app := range []string{"one", "three"} {
		w.Hibernate(app)
		w.Wake(app)
		w.mapped(1 << 20)
		all[app].fine("check")
		all[app].fine("churn 7 1000")
	}
}

// TestMemoryUnderPressure takes the memory of a woken app away from it, over
// and over: by its limit, by its own advice, and on the whole host.
func TestMemoryUnderPressure(t *testing.T) {
	w := New(t, "gcc")
	s := w.churn(&api.Limits{MemoryBytes: 240 << 20})
	s.fine("churn 1 2000")
	for round := range 3 {
		w.Hibernate("churn")
		w.Wake("churn")
		w.mapped(1 << 20)
		w.evictPages()
		s.fine("evict")
		w.evictPages()
		s.fine("check")
		s.fine("press 70")
		s.fine("check")
		s.fine("churn %d 300", round)
	}
}

// TestMemoryOfAllocators tortures allocators while their process is hibernated
// and woken at random moments.
func TestMemoryOfAllocators(t *testing.T) {
	w, random := New(t, "gcc", "musl-gcc"), seeded(t)
	preload := func(library string) string {
		paths, err := filepath.Glob("/usr/lib/*-linux-gnu/" + library)
		qt.Assert(t, qt.IsNil(err))
		testenv.Need(t, func(context.Context) error {
			if len(paths) == 0 {
				return fmt.Errorf("no library %s", library)
			}
			return nil
		})
		return "LD_PRELOAD=" + paths[0]
	}
	program := w.compiled("torture", append([]string{"gcc"}, w.sources("torture")...)...)
	musl := w.compiled("torture-musl", append([]string{"musl-gcc", "-static"}, w.sources("torture")...)...)
	for name, test := range map[string]struct {
		args []string
		env  []string
	}{
		"glibc":      {args: []string{program}},
		"glibc-trim": {args: []string{program}, env: []string{"MALLOC_TRIM_THRESHOLD_=65536", "MALLOC_MMAP_THRESHOLD_=65536"}},
		"jemalloc":   {args: []string{program}, env: []string{preload("libjemalloc.so.2")}},
		"jemalloc-purge": {args: []string{program}, env: []string{
			preload("libjemalloc.so.2"), "MALLOC_CONF=dirty_decay_ms:0,muzzy_decay_ms:0,background_thread:true",
		}},
		"tcmalloc": {args: []string{program}, env: []string{
			preload("libtcmalloc_minimal.so.4"), "TCMALLOC_RELEASE_RATE=10",
		}},
		"tcmalloc-decommit": {args: []string{program}, env: []string{
			preload("libtcmalloc_minimal.so.4"), "TCMALLOC_AGGRESSIVE_DECOMMIT=t",
		}},
		// Debian's mimalloc 2.0.9 does not keep alignments by itself.
		"mimalloc": {args: []string{program, "unaligned"}, env: []string{
			preload("libmimalloc.so.?"), "MIMALLOC_PAGE_RESET=1", "MIMALLOC_RESET_DELAY=0", "MIMALLOC_DECOMMIT_DELAY=0",
		}},
		"musl": {args: []string{musl}},
	} {
		t.Run(name, func(t *testing.T) {
			w := w.in(t)
			s := w.controlled(&api.RunRequest{Name: "app", Args: test.args, Env: test.env})
			steps := 0
			for range 4 {
				w.pause(random, 200*time.Millisecond)
				w.Hibernate("app")
				w.Wake("app")
				w.mapped(64 << 10)
				w.Until("it goes on", func() error {
					var now int
					answer := s.asks("check")
					if _, err := fmt.Sscanf(answer, "ok %d", &now); err != nil {
						t.Fatal(answer)
					}
					if now <= steps {
						return fmt.Errorf("%d steps", now)
					}
					steps = now
					return nil
				})
			}
			s.fine("stop")
			t.Logf("%d steps", steps)
		})
	}
}
