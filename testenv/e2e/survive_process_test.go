package e2e

import (
	"testing"
	"time"

	"github.com/go-quicktest/qt"

	"github.com/snapctl/snapctl/runtime/api"
)

func TestProcessesSurvive(t *testing.T) {
	survive(t, map[string]trial{
		"tree": {}, "threads": {}, "group": {}, "signals": {}, "queued-signals": {}, "timers": {}, "cwd": {},
		"cow": {}, "shared-memory": {}, "sleep": {}, "privileges": {}, "mount-namespace": {},
		"blocked-calls": {}, "timed-calls": {},
	})
}

// TestTimeStandsStillInHibernation holds an app for a while that its clocks do
// not show.
func TestTimeStandsStillInHibernation(t *testing.T) {
	w := New(t)
	const held = time.Second
	s := w.survivor("survivor")
	s.ok("setup clock")
	w.Hibernate("survivor")
	<-time.After(held)
	w.Wake("survivor")
	s.ok("check clock %s", held)

	s.ok("setup clock")
	_, err := w.API.TakeSnapshot(t.Context(), &api.SnapshotRequest{App: "survivor", Name: "saved"}, nil)
	qt.Assert(t, qt.IsNil(err))
	s.ok("check clock 0s") // it went on
	<-time.After(held)
	_, err = w.API.Restore(t.Context(), &api.RestoreRequest{Snapshot: "saved", As: "copy", Endpoint: copyEndpoint}, nil)
	qt.Assert(t, qt.IsNil(err))
	w.control(copyEndpoint).ok("check clock %s", held)
}
