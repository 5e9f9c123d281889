package e2e

import (
	"fmt"
	"strings"
	"syscall"
	"testing"

	"github.com/go-quicktest/qt"

	"github.com/snapctl/snapctl/runtime/api"
	"github.com/snapctl/snapctl/testenv/host"
)

// TestClonesAreApart makes clones of an app that goes on, and has all of them go
// their own ways.
func TestClonesAreApart(t *testing.T) {
	w := New(t)
	w.actor(&api.RunRequest{Name: "web", Endpoint: actorEndpoint, Hostname: "frozen"}, "--bound", actorEndpoint+":7001")
	original := w.caller(actorEndpoint)
	qt.Assert(t, qt.Equals(original.ask("write /tmp/file shared"), "ok"))
	qt.Assert(t, qt.Equals(original.ask("alloc 8"), "ok")) // enough to be shared
	for n := range 3 {
		qt.Assert(t, qt.Equals(original.ask("count"), fmt.Sprint(n+1)))
	}
	w.template("t", "web", "")
	_, err := w.API.TakeSnapshot(t.Context(), &api.SnapshotRequest{App: "web", Name: "s"}, nil)
	qt.Assert(t, qt.IsNil(err))
	_, err = w.API.CreateTemplate(t.Context(), &api.CreateTemplateRequest{Name: "ts", Snapshot: "s"}, nil)
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.Equals(original.ask("count"), "4"))

	one := w.clone("ts", "single", nil)
	qt.Assert(t, qt.Equals(one.GetNumber(), int32(1)))
	qt.Assert(t, qt.Equals(one.GetTemplate(), "ts"))
	made := w.clones(&api.CloneRequest{Template: "t", Count: 10})
	chosen := w.clones(&api.CloneRequest{Template: "t", Names: []string{"blue", "green"}, Endpoints: []string{"10.77.0.120", "10.77.0.121"}, Storage: api.Storage_STORAGE_PRIVATE})
	qt.Assert(t, qt.Equals(chosen[1].GetApp().GetEndpoint(), "10.77.0.121"))
	qt.Assert(t, qt.Equals(chosen[1].GetApp().GetNumber(), int32(12)))
	all := append(append([]*api.CloneResult{{Name: "single", App: one}}, made...), chosen...)

	seen := make(map[string]bool)
	callers := make([]*caller, len(all))
	for i, r := range all {
		a := r.GetApp()
		if i > 0 && i <= 10 {
			qt.Assert(t, qt.Equals(a.GetName(), fmt.Sprintf("t-%d", i)))
			qt.Assert(t, qt.Equals(a.GetNumber(), int32(i)))
		}
		qt.Assert(t, qt.IsFalse(seen[a.GetEndpoint()] || seen[a.GetGeneration()]))
		seen[a.GetEndpoint()], seen[a.GetGeneration()] = true, true
		qt.Assert(t, qt.Equals(a.GetInsideEndpoint(), actorEndpoint))
		c := w.caller(a.GetEndpoint())
		callers[i] = c
		// What it had is there, what it does is its own, and it knows itself as before.
		qt.Assert(t, qt.Equals(c.ask("count"), "4"))
		qt.Assert(t, qt.Equals(c.ask("read /tmp/file"), "shared"))
		qt.Assert(t, qt.Equals(c.ask("write /tmp/file %s", a.GetName()), "ok"))
		qt.Assert(t, qt.Equals(c.ask("host"), "frozen"))
		qt.Assert(t, qt.Equals(c.ask("pid"), original.ask("pid")))
		qt.Assert(t, qt.Equals(c.ask("self"), actorEndpoint+":7000"))
		bound := newCaller(t, w.Connect(a.GetEndpoint(), 7001))
		qt.Assert(t, qt.Equals(bound.ask("self"), actorEndpoint+":7001"))
	}
	for i, r := range all {
		a, c := r.GetApp(), callers[i]
		qt.Assert(t, qt.Equals(c.ask("read /tmp/file"), a.GetName()))
		file := c.instance()
		qt.Assert(t, qt.Equals(file.Name, a.GetName()))
		qt.Assert(t, qt.Equals(file.Number, int(a.GetNumber())))
		qt.Assert(t, qt.Equals(file.Generation, a.GetGeneration()))
		qt.Assert(t, qt.Equals(file.Endpoint, a.GetEndpoint()))
		// It reaches itself by both addresses, another clone by that one's, which
		// sees it by its own.
		other := all[(i+1)%len(all)].GetApp()
		qt.Assert(t, qt.Equals(c.ask("dial tcp %s:7000 echo me", actorEndpoint), "me"))
		qt.Assert(t, qt.Equals(c.ask("dial tcp %s:7000 instance", a.GetEndpoint()), a.GetName()))
		qt.Assert(t, qt.Equals(c.ask("dial tcp %s:7000 instance", other.GetEndpoint()), other.GetName()))
		from, _, _ := strings.Cut(c.ask("dial tcp %s:7000 peer", other.GetEndpoint()), ":")
		qt.Assert(t, qt.Equals(from, a.GetEndpoint()))
	}
	// A plain app and a clone meet.
	w.actor(&api.RunRequest{Name: "plain", Endpoint: "10.77.0.99"})
	plain := w.caller("10.77.0.99")
	qt.Assert(t, qt.Equals(plain.ask("dial tcp %s:7000 instance", one.GetEndpoint()), "single"))
	qt.Assert(t, qt.Equals(plain.ask("dial udp %s:7000 hello", one.GetEndpoint()), "echo hello"))
	qt.Assert(t, qt.Equals(callers[0].ask("dial tcp 10.77.0.99:7000 echo plain"), "plain"))
	from, _, _ := strings.Cut(callers[0].ask("dial tcp 10.77.0.99:7000 peer"), ":")
	qt.Assert(t, qt.Equals(from, one.GetEndpoint()))

	// The original never noticed.
	qt.Assert(t, qt.Equals(original.ask("read /tmp/file"), "shared"))
	qt.Assert(t, qt.Equals(original.ask("count"), "5"))

	w.idsAreWhole(one)
	names := w.names()
	qt.Assert(t, qt.HasLen(names, 15))
	table := w.table("single")
	qt.Assert(t, qt.IsTrue(len(table) > 0))
	for _, row := range table {
		qt.Assert(t, qt.IsTrue(strings.HasPrefix(row.Local, one.GetEndpoint()) || !strings.HasPrefix(row.Local, "10.")), qt.Commentf("%v", row))
	}

	// What is restored is another instance too, of no template.
	generations := map[string]bool{one.GetGeneration(): true}
	for i := range 2 {
		name, endpoint := fmt.Sprint("restored-", i), fmt.Sprint("10.77.0.", 130+i)
		_, err := w.API.Restore(t.Context(), &api.RestoreRequest{Snapshot: "s", As: name, Endpoint: endpoint}, nil)
		qt.Assert(t, qt.IsNil(err))
		file := w.caller(endpoint).instance()
		qt.Assert(t, qt.Equals(file.Name, name))
		qt.Assert(t, qt.Equals(file.Template, ""))
		qt.Assert(t, qt.Equals(file.Generation, w.Show(name).GetGeneration()))
		qt.Assert(t, qt.IsFalse(generations[file.Generation]))
		generations[file.Generation] = true
		w.remove(name)
	}

	// Clones are apps, and outlive their daemon.
	w.Hibernate("single")
	w.Hibernate("t-3")
	qt.Assert(t, qt.IsNil(w.RestartDaemon(t.Context(), syscall.SIGKILL, host.Daemon{})))
	w.Dial()
	qt.Assert(t, qt.DeepEquals(w.names(), names))
	for i, r := range all {
		qt.Assert(t, qt.Equals(callers[i].ask("count"), "5"))
		qt.Assert(t, qt.Equals(callers[i].instance().Generation, r.GetApp().GetGeneration()))
	}
	w.Running("single")
	// None is left that needs what it shared, and nothing of it.
	r := w.CLI("template", "rm", "t")
	qt.Assert(t, qt.Equals(r.Code, 1))
	qt.Assert(t, qt.StringContains(r.Stderr, "blue, green"))
	err = w.API.RemoveSnapshot(t.Context(), "s")
	qt.Assert(t, qt.ErrorMatches(err, `(?s).*template ts.*`))
	w.RemoveAll()
	w.empty()
}

// idsAreWhole looks at the id map of a clone.
func (w *World) idsAreWhole(a *api.App) {
	w.t.Helper()
	ids, err := w.API.IDs(w.t.Context(), a.GetName())
	qt.Assert(w.t, qt.IsNil(err))
	kinds := make(map[string]int)
	for _, id := range ids {
		kinds[id.GetKind()]++
		switch {
		case id.GetKind() == "address" && !strings.Contains(id.GetVirtual(), ":"):
			qt.Assert(w.t, qt.Equals(id.GetVirtual()+" "+id.GetActual(), actorEndpoint+" "+a.GetEndpoint()))
		case id.GetKind() == "pid" && id.GetVirtual() == "1":
			qt.Assert(w.t, qt.Equals(id.GetActual(), fmt.Sprint(a.GetPid())))
		}
	}
	for _, kind := range []string{"hostname", "address", "path", "storage", "pid", "namespace"} {
		qt.Assert(w.t, qt.IsTrue(kinds[kind] > 0), qt.Commentf("no %s in %v", kind, ids))
	}
}
