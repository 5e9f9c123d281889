package e2e

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/go-quicktest/qt"

	"github.com/snapctl/snapctl/runtime/fault"
	"github.com/snapctl/snapctl/testenv"
	"github.com/snapctl/snapctl/testenv/gate"
	"github.com/snapctl/snapctl/testenv/host"
)

// TestClientsThatWaitMove has clients connect to an app and ask it when it sleeps already, since it is about to
// move: they get their answers wherever it is afterwards, also if the daemon of its host is killed meanwhile.
func TestClientsThatWaitMove(t *testing.T) {
	testenv.Need(t, testenv.Kernel(6, 9))
	js := newJourneys(t)
	asked := 0
	for _, killed := range []fault.Name{"", "migrate.withdrawn", "migrate.saved", "migrate.gone", ""} {
		t.Run("killed at "+string(killed), func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			w := js.at
			endpoint := w.Show("cache").GetEndpoint()
			g := gate.New(t, w.Dir(), "migrate.prepared")
			plan := []gate.Fault{g.Fault()}
			if killed != "" {
				plan = append(plan, gate.Kill(killed))
			}
			js.plan(w, plan...)
			ended := make(chan error, 1)
			go func() { ended <- js.move(ctx) }()
			stop, err := g.Wait(ctx)
			qt.Assert(t, qt.IsNil(err))
			var late []*redis
			for range 5 {
				r := js.worlds[0].redis(endpoint)
				r.send("INCR late")
				late = append(late, r)
			}
			qt.Assert(t, qt.IsNil(stop.Continue()))
			if killed != "" {
				_, err := w.WaitDaemon(ctx)
				qt.Assert(t, qt.IsNil(err))
				qt.Assert(t, qt.IsNil(w.StartDaemon(t.Context(), host.Daemon{})))
				w.Dial()
				<-ended
			} else {
				qt.Assert(t, qt.IsNil(<-ended))
				open(t, g)
			}
			js.lands()
			answers := make(map[string]bool)
			for _, r := range late {
				answers[r.line()] = true
			}
			for range late {
				asked++
				qt.Check(t, qt.IsTrue(answers[fmt.Sprintf(":%d", asked)]), qt.Commentf("%v", answers))
			}
			js.plan(w)
		})
	}
}
