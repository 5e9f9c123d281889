package e2e

import (
	"fmt"
	"strings"
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
	never := &api.WakePolicy{Mode: api.WakeMode_WAKE_MODE_NEVER} // else they wait for a listener
	w.Run(&api.RunRequest{
		Name: "busy", Endpoint: "10.77.0.40", HibernateAfter: durationpb.New(after), Wake: never,
		// Until the file is there.
		Args: []string{"sh", "-c", "while ! test -e /run/done; do :; done; exec sleep 1000"},
	})
	w.Run(&api.RunRequest{Name: "idle", Endpoint: "10.77.0.41", HibernateAfter: durationpb.New(2 * after), Wake: never, Args: []string{"sleep", "1000"}})
	w.Run(&api.RunRequest{Name: "deaf", Endpoint: "10.77.0.42", HibernateAfter: durationpb.New(after), Args: []string{"sleep", "1000"}})
	held("idle")
	qt.Assert(t, qt.Equals(w.Show("busy").GetStatus(), api.Status_STATUS_RUNNING))
	r, err := w.Snapctl(t.Context(), "exec", "busy", "--", "touch", "/run/done")
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.Equals(r.Code, 0), qt.Commentf("%s", r.Stderr))
	held("busy")
	w.Until("show tells that nothing could wake the third", func() error {
		if a := w.Show("deaf"); !strings.Contains(a.GetAwake(), "nothing could wake it") {
			return fmt.Errorf("it is %s, awake: %s", a.GetStatus(), a.GetAwake())
		}
		return nil
	})
}

// TestRefusedWhenIdle has an app that can't be saved be idle: it is looked at again, and
// hibernated as soon as it can be.
func TestRefusedWhenIdle(t *testing.T) {
	w := New(t)
	w.Run(&api.RunRequest{
		Name: "capture", Endpoint: "10.77.0.43", HibernateAfter: durationpb.New(200 * time.Millisecond),
		Wake: &api.WakePolicy{Mode: api.WakeMode_WAKE_MODE_NEVER},
		Args: []string{"python3", "-c", `import os, socket, time
s = socket.socket(socket.AF_VSOCK)
while not os.path.exists("/run/done"): time.sleep(0.01)
s.close(); time.sleep(1000)`},
	})
	w.Until("it is refused", func() error {
		if a := w.Show("capture"); !strings.Contains(a.GetAwake(), "can't be hibernated as it is: ") || !strings.Contains(a.GetError(), "vsock") {
			return fmt.Errorf("it is %s, awake: %s, error: %s", a.GetStatus(), a.GetAwake(), a.GetError())
		}
		return nil
	})
	r, err := w.Snapctl(t.Context(), "exec", "capture", "--", "touch", "/run/done")
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.Equals(r.Code, 0), qt.Commentf("%s", r.Stderr))
	w.Until("it is hibernated", func() error {
		if a := w.Show("capture"); a.GetStatus() != api.Status_STATUS_HELD {
			return fmt.Errorf("it is %s, awake: %s", a.GetStatus(), a.GetAwake())
		}
		return nil
	})
	logged := strings.Count(w.DaemonLog(), "hibernate idle app")
	qt.Assert(t, qt.Equals(logged, 1)) // and not with each look
}
