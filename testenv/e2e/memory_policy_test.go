package e2e

import (
	"testing"

	"github.com/go-quicktest/qt"

	"github.com/snapctl/snapctl/runtime/api"
)

const (
	mappedMemory = api.RestoreMemory_RESTORE_MEMORY_MAPPED
	copiedMemory = api.RestoreMemory_RESTORE_MEMORY_COPIED
)

// copies proves that nothing of an app is mapped from what was saved.
func (w *World) copies(app string) {
	w.t.Helper()
	a := w.Show(app)
	qt.Assert(w.t, qt.Equals(a.GetRestoreMemory(), copiedMemory))
	for _, m := range w.pageMaps() {
		qt.Assert(w.t, qt.Not(qt.Equals(m.pid, int(a.GetPid()))))
	}
}

// maps proves that memory of an app is mapped from what was saved.
func (w *World) maps(app string) {
	w.t.Helper()
	a := w.Show(app)
	qt.Assert(w.t, qt.Equals(a.GetRestoreMemory(), mappedMemory))
	for _, m := range w.pageMaps() {
		if m.pid == int(a.GetPid()) {
			return
		}
	}
	w.t.Fatalf("app %s maps nothing", app)
}

// TestMemoryPolicy runs an app whose memory is to be copied: it is whenever the app is
// woken, by traffic too, and in what is made of it, unless that is told otherwise.
func TestMemoryPolicy(t *testing.T) {
	w := New(t)
	w.actor(&api.RunRequest{Name: "web", Endpoint: actorEndpoint, RestoreMemory: copiedMemory})
	c := w.caller(actorEndpoint)
	qt.Assert(t, qt.Equals(c.ask("alloc 8"), "ok"))
	for range 2 {
		w.Hibernate("web")
		qt.Assert(t, qt.Equals(c.ask("echo woken"), "woken"))
		w.Running("web")
		w.copies("web")
	}
	_, err := w.API.TakeSnapshot(t.Context(), &api.SnapshotRequest{App: "web", Name: "s"}, nil)
	qt.Assert(t, qt.IsNil(err))
	in, err := w.API.Inspect(t.Context(), "s")
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.Equals(in.GetSnapshot().GetRestoreMemory(), copiedMemory))
	qt.Assert(t, qt.Matches(w.OK("inspect", "s"), `(?s).*restores memory: +copied.*`))
	qt.Assert(t, qt.Matches(w.OK("show", "web"), `(?s).*restores memory: +copied.*`))
	restore := func(name, endpoint string, req *api.RestoreRequest) {
		t.Helper()
		req.Snapshot, req.As, req.Endpoint = "s", name, endpoint
		_, err := w.API.Restore(t.Context(), req, nil)
		qt.Assert(t, qt.IsNil(err))
	}
	restore("same", "10.77.0.130", &api.RestoreRequest{})
	w.copies("same")
	restore("other", "10.77.0.131", &api.RestoreRequest{RestoreMemory: mappedMemory})
	w.maps("other")
	// Once is not always.
	restore("once", "10.77.0.132", &api.RestoreRequest{RestoreMemory: mappedMemory, Copy: true})
	w.Hibernate("once")
	w.Wake("once")
	w.maps("once")

	w.template("t", "web", "")
	w.template("mapped", "web", "{memory: mapped}")
	w.template("again", "other", "{memory: copied}")
	for _, name := range []string{"t", "mapped", "again"} {
		w.pool(name, 1)
	}
	for _, use := range []api.PoolUse{api.PoolUse_POOL_USE_ONLY, api.PoolUse_POOL_USE_NEVER} {
		clone := func(req *api.CloneRequest) string {
			t.Helper()
			w.pooled(req.GetTemplate(), 1)
			req.Pool = use
			name := w.clones(req)[0].GetName()
			w.Hibernate(name)
			conn := newCaller(t, w.Connect(w.Show(name).GetEndpoint(), 7000))
			qt.Assert(t, qt.Equals(conn.ask("echo woken"), "woken"))
			w.Running(name)
			return name
		}
		w.copies(clone(&api.CloneRequest{Template: "t"}))
		w.maps(clone(&api.CloneRequest{Template: "mapped"}))
		w.copies(clone(&api.CloneRequest{Template: "again"}))
	}
	// What stands ready has its memory already.
	w.pooled("t", 1)
	_, err = w.tryClones(&api.CloneRequest{Template: "t", RestoreMemory: mappedMemory, Pool: api.PoolUse_POOL_USE_ONLY})
	qt.Assert(t, qt.ErrorMatches(err, `(?s).*no clone stands ready with its memory mapped.*`))
	r := w.clones(&api.CloneRequest{Template: "t", RestoreMemory: mappedMemory})[0]
	qt.Assert(t, qt.IsFalse(r.GetFromPool()))
	w.maps(r.GetName())
	r = w.clones(&api.CloneRequest{Template: "t", RestoreMemory: copiedMemory})[0]
	qt.Assert(t, qt.IsTrue(r.GetFromPool()))
	w.copies(r.GetName())
	w.RemoveAll()
	w.empty()
}
