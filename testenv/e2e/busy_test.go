package e2e

import (
	"fmt"
	"testing"
	"time"

	"github.com/go-quicktest/qt"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/snapctl/snapctl/runtime/api"
)

// TestBusyAppIsNotIdle has an app work without traffic, as on a long query, and
// one do nothing: only the second hibernates by itself. When the first has done
// its work it does so too.
func TestBusyAppIsNotIdle(t *testing.T) {
	w := New(t)
	const after = 800 * time.Millisecond
	held := func(app string) {
		t.Helper()
		w.Until(app+" is held", func() error {
			if s := w.Show(app).GetStatus(); s != api.Status_STATUS_HELD {
				return fmt.Errorf("it is %s", s)
			}
			return nil
		})
	}
	w.Run(&api.RunRequest{
		Name: "busy", Endpoint: "10.77.0.40", HibernateAfter: durationpb.New(after),
		// Until the file is there.
		Args: []string{"sh", "-c", "while ! test -e /run/done; do :; done; exec sleep 1000"},
	})
	w.Run(&api.RunRequest{Name: "idle", Endpoint: "10.77.0.41", HibernateAfter: durationpb.New(2 * after), Args: []string{"sleep", "1000"}})
	held("idle")
	qt.Assert(t, qt.Equals(w.Show("busy").GetStatus(), api.Status_STATUS_RUNNING))
	r, err := w.Snapctl(t.Context(), "exec", "busy", "--", "touch", "/run/done")
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.Equals(r.Code, 0), qt.Commentf("%s", r.Stderr))
	held("busy")
}
