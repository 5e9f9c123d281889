package e2e

import (
	"fmt"
	"testing"
	"time"

	"github.com/go-quicktest/qt"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/snapctl/snapctl/runtime/api"
	"github.com/snapctl/snapctl/runtime/client"
)

// TestPolicyIsInherited has clones and restored apps sleep and wake as the app did
// that was saved, unless they are told otherwise.
func TestPolicyIsInherited(t *testing.T) {
	w := New(t)
	saved := &api.WakePolicy{Mode: api.WakeMode_WAKE_MODE_ON_DATA, MinBytes: 7, Timers: true, Ignore: []string{"192.0.2.0/24"}}
	w.actor(&api.RunRequest{Name: "web", Endpoint: actorEndpoint, Wake: saved, HibernateAfter: durationpb.New(time.Hour), AcceptChangedFiles: true})
	w.caller(actorEndpoint).close()
	lives := func(name string, wake *api.WakePolicy, after time.Duration) {
		t.Helper()
		a := w.Show(name)
		qt.Assert(t, qt.CmpEquals(a.GetWake(), wake, protocmp.Transform()))
		qt.Assert(t, qt.Equals(a.GetHibernateAfter().AsDuration(), after))
		qt.Assert(t, qt.Equals(a.GetAcceptChangedFiles(), name != "other"))
	}
	w.template("t", "web", "")
	w.Hibernate("web")
	_, err := w.API.TakeSnapshot(t.Context(), &api.SnapshotRequest{App: "web", Name: "s"}, nil)
	qt.Assert(t, qt.IsNil(err))
	w.Wake("web")

	other := &api.WakePolicy{Mode: api.WakeMode_WAKE_MODE_ON_CONNECT}
	for i, of := range []string{"t", "s"} { // a running and a held app's
		name, endpoint := "restored-"+of, fmt.Sprint("10.77.0.", 130+i)
		_, err := w.API.Restore(t.Context(), &api.RestoreRequest{Snapshot: of, As: name, Endpoint: endpoint}, nil)
		qt.Assert(t, qt.IsNil(err))
		lives(name, saved, time.Hour)
	}
	_, err = w.API.Restore(t.Context(), &api.RestoreRequest{Snapshot: "s", As: "other", Endpoint: "10.77.0.133", Wake: other, HibernateAfter: &durationpb.Duration{}, AcceptChangedFiles: new(false)}, nil)
	qt.Assert(t, qt.IsNil(err))
	lives("other", other, 0)

	w.pool("t", 1)
	for _, use := range []api.PoolUse{api.PoolUse_POOL_USE_ONLY, api.PoolUse_POOL_USE_NEVER} {
		w.pooled("t", 1)
		made := w.clones(&api.CloneRequest{Template: "t", Pool: use})[0]
		lives(made.GetName(), saved, time.Hour)
		w.pooled("t", 1)
		idle := w.clones(&api.CloneRequest{Template: "t", Pool: use, HibernateAfter: durationpb.New(100 * time.Millisecond)})[0].GetName()
		w.Until("it is hibernated", func() error {
			if s := w.Show(idle).GetStatus(); s != api.Status_STATUS_HELD {
				return fmt.Errorf("it is %s", s)
			}
			return nil
		})
		lives(idle, saved, 100*time.Millisecond)
		w.remove(idle)
		w.pooled("t", 1)
		light := w.clones(&api.CloneRequest{Template: "t", Pool: use, Wake: other})[0].GetApp()
		w.Hibernate(light.GetName())
		conn := w.Connect(light.GetEndpoint(), 7000) // wakes what sleeps lightly
		w.Running(light.GetName())
		qt.Assert(t, qt.IsNil(conn.Close()))
		lives(light.GetName(), other, time.Hour)
	}
	_, err = w.API.Clone(t.Context(), &api.CloneRequest{Template: "t", HibernateAfter: durationpb.New(-time.Second)}, client.CloneWatch{})
	qt.Assert(t, qt.ErrorMatches(err, `(?s).*not negative.*`))
	w.RemoveAll()
	w.empty()
}
