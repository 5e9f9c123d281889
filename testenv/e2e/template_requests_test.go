package e2e

import (
	"context"
	"testing"
	"time"

	"github.com/go-quicktest/qt"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/snapctl/snapctl/runtime/api"
	"github.com/snapctl/snapctl/runtime/client"
	"github.com/snapctl/snapctl/testenv/gate"
	"github.com/snapctl/snapctl/testenv/host"
)

// TestReadyClonesStay ends a request to keep going when one clone of three is ready:
// by its time, by a client that hangs up, and by the death of the daemon. It stays,
// the others leave nothing.
func TestReadyClonesStay(t *testing.T) {
	for name, end := range map[string]func(w *World, hangUp func()){
		"time":   func(*World, func()) {}, // it comes
		"cancel": func(_ *World, hangUp func()) { hangUp() },
		"death":  func(w *World, _ func()) { w.killDaemon() },
	} {
		t.Run(name, func(t *testing.T) {
			w, _, clients, g := pausedAt(t, "clone.restored")
			ctx, hangUp := context.WithCancel(t.Context())
			defer hangUp()
			results := make(chan *api.CloneResult, 3)
			ended := make(chan error, 1)
			go func() {
				req := &api.CloneRequest{Template: "t", Count: 3, KeepGoing: true, Timeout: durationpb.New(3 * time.Second)}
				_, err := w.API.Clone(ctx, req, client.CloneWatch{Result: func(r *api.CloneResult) { results <- r }})
				ended <- err
			}()
			var stops []*gate.Stop
			for range 3 {
				stop, err := g.Wait(t.Context())
				qt.Assert(t, qt.IsNil(err))
				stops = append(stops, stop)
			}
			qt.Assert(t, qt.IsNil(stops[1].Continue()))
			ready := <-results
			qt.Assert(t, qt.IsNil(client.CloneError(ready)))
			end(w, hangUp)
			err := <-ended
			if name == "time" { // the answer says which
				qt.Assert(t, qt.IsNil(err))
				for range 2 {
					qt.Assert(t, qt.ErrorIs(client.CloneError(<-results), context.DeadlineExceeded))
				}
			} else {
				qt.Assert(t, qt.IsNotNil(err))
			}
			open(t, g)
			w.settled()
			qt.Assert(t, qt.DeepEquals(w.names(), []string{"cache", ready.GetName()}))
			qt.Assert(t, qt.Equals(w.redis(ready.GetApp().GetEndpoint()).do("INCR n"), ":3"))
			w.once(ready.GetName(), api.Status_STATUS_RUNNING)
			w.empties("batches")
			goesOn(w, clients)
		})
	}
}

// TestTimeOfClones has the command line tell which clones there was time for.
func TestTimeOfClones(t *testing.T) {
	w, _, clients, g := pausedAt(t, "clone.restored")
	ended := make(chan host.Result, 1)
	go func() { ended <- w.CLI("--timeout", "3s", "clone", "t", "--count", "2", "--keep-going") }()
	for i := range 2 {
		stop, err := g.Wait(t.Context())
		qt.Assert(t, qt.IsNil(err))
		if i == 0 {
			qt.Assert(t, qt.IsNil(stop.Continue()))
		}
	}
	r := <-ended
	qt.Assert(t, qt.Equals(r.Code, 6))
	qt.Assert(t, qt.Matches(r.Stdout, `t-[12] cloned at (?s).*`))
	qt.Assert(t, qt.StringContains(r.Stderr, "1 of 2 clones of t could not be made"))
	qt.Assert(t, qt.StringContains(r.Stderr, "deadline exceeded"))
	qt.Assert(t, qt.StringContains(r.Stderr, "--timeout 3s was too short"))
	open(t, g)
	w.settled()
	qt.Assert(t, qt.HasLen(w.names(), 2))
	goesOn(w, clients)
}
