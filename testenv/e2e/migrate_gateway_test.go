package e2e

import (
	"fmt"
	"net"
	"testing"

	"github.com/go-quicktest/qt"

	"github.com/snapctl/snapctl/runtime/api"
)

// TestMigrateBehindAGateway moves an app around all hosts, the gateway among them, to which a machine is connected
// that knows nothing of snapctl: once as the gateway, and once at its own address.
func TestMigrateBehindAGateway(t *testing.T) {
	hs := newInstallation(t, "alpha", "beta", "gamma")
	p := hs.plant()
	gamma := hs.worlds[2]
	web := hs.worlds[0].actor(&api.RunRequest{Name: "web"})
	p.by(2)
	var open []*caller
	for _, on := range [][]string{{"host", "gateway", "on"}, {"host", "gateway", "on", "--advertise", plant4, "--advertise", plant6}} {
		hs.ok(gamma, on...)
		if len(on) > 3 {
			hs.knows(hs.worlds[0], other{"gamma", []string{plant4, plant6}, true})
			hs.knows(hs.worlds[1], other{"gamma", []string{plant4, plant6}, true})
			open = nil // that those from before end is told to whoever advertises
		}
		for _, at := range []string{web.GetEndpoint(), web.GetEndpoint6()} {
			open = append(open, p.call(net.JoinHostPort(at, "7000")))
		}
		for i := range 3 {
			m := hs.migrate("web", hs.worlds[i], hs.worlds[(i+1)%3])
			qt.Check(t, qt.HasLen(m.Lost, 0))
			for n, c := range open {
				qt.Assert(t, qt.Equals(c.ask("echo %d", n), fmt.Sprint(n)), qt.Commentf("%v, on %s", on, hs.worlds[(i+1)%3].Name()))
			}
		}
	}
	hs.ok(gamma, "host", "gateway", "off")
	for _, w := range hs.worlds[:2] {
		hs.knows(w)
	}
}
