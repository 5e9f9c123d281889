package e2e

import (
	"encoding/json"
	"testing"

	"github.com/go-quicktest/qt"

	"github.com/snapctl/snapctl/runtime/api"
	"github.com/snapctl/snapctl/testenv/host"
)

// memoryCase is what a case of testenv/cmd/memory tells.
type memoryCase struct {
	Case  string       `json:"case"`
	End   string       `json:"end"`
	Steps []memoryStep `json:"steps"`
}

// memoryStep is one call and what the memory holds before and after it.
type memoryStep struct {
	Step   string `json:"step"`
	Result string `json:"result"`
	May    string `json:"may"` // what it may answer where memory is mapped
	Before string `json:"before"`
	After  string `json:"after"`

	Areas   int `json:"areas"`   // how many pieces of memory the case has
	Mapped  int `json:"mapped"`  // and how many are mappings of files
	Filters int `json:"filters"` // seccomp filters of the process
}

// like tells whether a step went as it does in a program that was never
// frozen: it did the same, or, where memory is mapped, it did nothing and said so.
func (s memoryStep) like(never memoryStep, mapped bool) bool {
	if s.Result == never.Result && s.After == never.After {
		return true
	}
	return mapped && never.May != "" && s.Result == never.May && s.After == s.Before
}

// TestMemoryKeepsItsMeaning does to memory all that programs do, in programs
// that were never frozen, woken, and restored, and compares.
func TestMemoryKeepsItsMeaning(t *testing.T) {
	w := New(t, "gcc")
	program := w.compiled("memory", append([]string{"gcc"}, w.sources("memory")...)...)
	ordeal := func(t *testing.T, ordeal func(w *World, app string) string) []memoryCase {
		t.Helper()
		w := w.in(t)
		s := w.controlled(&api.RunRequest{Name: "app", Args: []string{program}, AcceptLost: []string{"lock-on-fault"}})
		qt.Assert(t, qt.Equals(s.asks("prepare"), "ok"))
		if endpoint := ordeal(w, "app"); endpoint != survivorEndpoint {
			s = w.control(endpoint)
		}
		answer := s.asks("act")
		var cases []memoryCase
		qt.Assert(t, qt.IsNil(json.Unmarshal([]byte(answer), &cases)), qt.Commentf("%s", answer))
		return cases
	}
	var never []memoryCase
	t.Run("never frozen", func(t *testing.T) {
		never = ordeal(t, func(*World, string) string { return survivorEndpoint })
	})
	qt.Assert(t, qt.IsTrue(len(never) > 50))
	for _, c := range never {
		qt.Assert(t, qt.Equals(c.End, "exit 0"), qt.Commentf("%s", c.Case))
	}

	for name, test := range map[string]struct {
		mapped bool
		ordeal func(w *World, app string) string
	}{
		"copied": {ordeal: func(w *World, app string) string {
			w.Hibernate(app)
			_, err := w.API.Wake(t.Context(), &api.WakeRequest{Name: app, Copy: true}, nil)
			qt.Assert(t, qt.IsNil(err))
			w.mapped(0)
			return survivorEndpoint
		}},
		"mapped, then copied": {ordeal: func(w *World, app string) string {
			w.Hibernate(app)
			w.Wake(app)
			w.mapped(16 << 20)
			w.Hibernate(app)
			_, err := w.API.Wake(t.Context(), &api.WakeRequest{Name: app, Copy: true}, nil)
			qt.Assert(t, qt.IsNil(err))
			w.mapped(0)
			return survivorEndpoint
		}},
		"mapped": {mapped: true, ordeal: func(w *World, app string) string {
			w.Hibernate(app)
			w.Wake(app)
			w.mapped(16 << 20)
			return survivorEndpoint
		}},
		"mapped twice and restored": {mapped: true, ordeal: func(w *World, app string) string {
			for range 2 {
				w.Hibernate(app)
				w.Wake(app)
			}
			_, err := w.API.TakeSnapshot(t.Context(), &api.SnapshotRequest{App: app, Name: "saved", Stop: true}, nil)
			qt.Assert(t, qt.IsNil(err))
			qt.Assert(t, qt.IsNil(w.API.Remove(t.Context(), &api.RemoveRequest{Name: app})))
			_, err = w.API.Restore(t.Context(), &api.RestoreRequest{Snapshot: "saved", As: "copy", Endpoint: copyEndpoint}, nil)
			qt.Assert(t, qt.IsNil(err))
			w.mapped(16 << 20)
			return copyEndpoint
		}},
	} {
		t.Run(name, func(t *testing.T) {
			for i, c := range ordeal(t, test.ordeal) {
				t.Run(c.Case, func(t *testing.T) { c.compare(t, never[i], test.mapped) })
			}
		})
	}
}

// compare proves that a case went as in a program that was never frozen.
func (c memoryCase) compare(t *testing.T, never memoryCase, mapped bool) {
	t.Helper()
	qt.Assert(t, qt.Equals(c.Case, never.Case))
	for i, step := range c.Steps {
		if i == len(never.Steps) || step.Step != never.Steps[i].Step {
			t.Errorf("step %q: there is no such step in a program that was never frozen", step.Step)
			break
		}
		if step.Areas != 0 {
			want, filters := 0, never.Steps[i].Filters
			if mapped {
				want, filters = step.Areas, filters+1 // and no guard of a former wake
			}
			qt.Check(t, qt.Equals(step.Mapped, want), qt.Commentf("pieces of memory that are mapped"))
			qt.Check(t, qt.Equals(step.Filters, filters), qt.Commentf("seccomp filters"))
		}
		if !step.like(never.Steps[i], mapped) {
			t.Errorf("step %q: answered %q, from %q to %q; never frozen: %q, from %q to %q", step.Step,
				step.Result, step.Before, step.After, never.Steps[i].Result, never.Steps[i].Before, never.Steps[i].After)
		}
	}
	qt.Check(t, qt.HasLen(c.Steps, len(never.Steps)))
	qt.Check(t, qt.Equals(c.End, never.End))
}

// TestMemoryWhereNothingMayBeExecuted wakes a program that makes memory
// executable, from a state directory whose file system forbids that.
func TestMemoryWhereNothingMayBeExecuted(t *testing.T) {
	w := newWorld(t, host.Config{}, func(h *host.Host) {
		r, err := host.Run(h.Command(t.Context(), "sh", "-ec",
			`mkdir -p "$1"; mount --bind "$1" "$1"; mount -o remount,bind,noexec "$1"`, "sh", h.StateDir()))
		qt.Assert(t, qt.IsNil(err))
		qt.Assert(t, qt.Equals(r.Code, 0), qt.Commentf("%s", r.Stderr))
	}, "gcc")
	program := w.compiled("memory", append([]string{"gcc"}, w.sources("memory")...)...)
	s := w.controlled(&api.RunRequest{Name: "app", Args: []string{program}, AcceptLost: []string{"lock-on-fault"}})
	qt.Assert(t, qt.Equals(s.asks("prepare protect"), "ok"))
	w.Hibernate("app")
	w.Wake("app")
	answer := s.asks("act")
	for _, called := range []string{
		`{"step":"call it","result":"42"}`, `{"step":"call what was executable","result":"43"}`, `{"step":"call it changed","result":"44 kept*63"}`,
	} {
		qt.Check(t, qt.StringContains(answer, called))
	}
}
