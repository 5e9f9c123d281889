package daemon

import (
	"context"
	"testing"

	"github.com/go-quicktest/qt"
)

// Pools are filled when nobody asks for clones, or somebody has for too long.
func TestCalm(t *testing.T) {
	var c calls
	qt.Assert(t, qt.Equals(c.rest(), 0))
	qt.Assert(t, qt.IsTrue(c.calm(t.Context())))

	one, two := c.begin(), c.begin()
	one()
	qt.Assert(t, qt.Equals(c.rest(), callPause))
	two()
	qt.Assert(t, qt.IsTrue(c.rest() > 0))
	qt.Assert(t, qt.IsTrue(c.calm(t.Context())))
	qt.Assert(t, qt.Equals(c.rest(), 0))

	c.begin() // it never ends
	qt.Assert(t, qt.IsTrue(c.calm(t.Context())))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	qt.Assert(t, qt.IsFalse(c.calm(ctx)))
}
