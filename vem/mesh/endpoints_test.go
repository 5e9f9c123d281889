package mesh

import (
	"testing"

	"github.com/go-quicktest/qt"

	"github.com/snapctl/snapctl/testenv"
)

// All endpoints of both hosts reach one another over a channel that the first two have brought up,
// also those that come later.
func TestManyEndpoints(t *testing.T) {
	testenv.Need(t, testenv.Root)
	w := newWorld(t)
	a, a2 := w.alpha.attach(2), w.alpha.attach(3)
	b, b2 := w.beta.attach(66), w.beta.attach(67)
	a.serve()
	b.serve()
	talk := func(from, to app) {
		t.Helper()
		c, err := from.dial(to.ep.Addr4)
		qt.Assert(t, qt.IsNil(err))
		defer c.Close()
		w.echo(c, "hello")
	}
	talk(a, b)
	talk(a2, b)
	talk(b2, a)
	a3 := w.alpha.attach(4)
	w.alpha.net.Here(a3.ep.Addr4)
	talk(a3, b)
	b3 := w.beta.attach(68)
	w.beta.net.Here(b3.ep.Addr4)
	talk(b3, a)
}
