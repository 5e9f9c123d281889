package e2e

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/go-quicktest/qt"

	"github.com/snapctl/snapctl/runtime/fault"
	"github.com/snapctl/snapctl/runtime/journal"
	"github.com/snapctl/snapctl/testenv"
	"github.com/snapctl/snapctl/testenv/gate"
	"github.com/snapctl/snapctl/testenv/host"
)

// TestClientsThatWaitMove has clients connect to an app and ask it when it sleeps already, since it is about to
// move: they get their answers wherever it is afterwards, also if the daemon of its host is killed meanwhile, or can't write down what it
// has taken from the listener.
func TestClientsThatWaitMove(t *testing.T) {
	testenv.Need(t, testenv.Kernel(6, 9))
	js := newJourneys(t)
	asked := 0
	const full = "a file that can't be written"
	for _, killed := range []fault.Name{"", "migrate.withdrawn", "migrate.saved", "migrate.gone", full, ""} {
		t.Run("killed at "+string(killed), func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			w := js.at
			endpoint := w.Show("cache").GetEndpoint()
			g := gate.New(t, w.Dir(), "migrate.prepared")
			plan := []gate.Fault{g.Fault()}
			if killed != "" && killed != full {
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
			inTheWay := filepath.Join(w.Outside(w.StateDir()), "apps/cache/handover.bin"+journal.Half) // it is written there first
			if killed == full {
				qt.Assert(t, qt.IsNil(os.Mkdir(inTheWay, 0o700)))
			}
			qt.Assert(t, qt.IsNil(stop.Continue()))
			switch killed {
			case full:
				qt.Assert(t, qt.ErrorMatches(<-ended, "(?s).*keep the sockets of an app that leaves.*"))
				qt.Assert(t, qt.IsNil(os.Remove(inTheWay)))
				open(t, g)
			case "":
				qt.Assert(t, qt.IsNil(<-ended))
				open(t, g)
			default:
				_, err := w.WaitDaemon(ctx)
				qt.Assert(t, qt.IsNil(err))
				qt.Assert(t, qt.IsNil(w.StartDaemon(t.Context(), host.Daemon{})))
				w.Dial()
				<-ended
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
