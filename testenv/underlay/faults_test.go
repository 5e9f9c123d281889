package underlay_test

import (
	"math"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/go-quicktest/qt"

	"github.com/snapctl/snapctl/testenv/underlay"
)

// eachWay runs a test of the faults of a port on a plain one and on one with a line,
// with datagrams of either family.
func eachWay(t *testing.T, fn func(port *underlay.Port, out *pipe)) {
	t.Helper()
	for name, hasLine := range map[string]bool{"plain": false, "line": true} {
		t.Run(name, func(t *testing.T) {
			h, a, b := pair(t, underlay.NetworkConfig{Prefixes: []netip.Prefix{lan4, lan6}}, hasLine)
			for family, addr := range map[string]func(*underlay.Port) netip.Addr{
				"IPv4": (*underlay.Port).Addr4, "IPv6": (*underlay.Port).Addr6,
			} {
				t.Run(family, func(t *testing.T) {
					qt.Assert(t, qt.IsNil(a.Set(underlay.Both, underlay.Faults{})))
					out := newPipe(t, h[0], h[1], addr(a), addr(b))
					out.warm()
					fn(a, out)
				})
			}
		})
	}
}

// TestLoss loses the same frames each time: those that the seed says.
func TestLoss(t *testing.T) {
	const sent, batch, percent = 1000, 50, 30
	eachWay(t, func(port *underlay.Port, out *pipe) {
		t := out.t
		for _, d := range []underlay.Direction{underlay.Out, underlay.In} {
			way, other := out, out.back()
			if d == underlay.In {
				way, other = other, way
			}
			qt.Assert(t, qt.IsNil(port.Set(d, underlay.Faults{Loss: percent, Seed: 7})))
			way.got, other.got = nil, nil
			var c underlay.Counters
			for n := uint32(batch); n <= sent; n += batch {
				qt.Assert(t, qt.IsNil(way.send(n-batch, batch)))
				qt.Assert(t, qt.IsNil(other.send(n-batch, batch)))
				other.receive(int(n))
				until(t, "all frames are there", func() (err error) {
					c, err = port.Counters(d)
					if err == nil && c.Seen < uint64(n) {
						err = errFew
					}
					return err
				})
			}
			other.all(sent) // untouched
			way.receive(sent - int(c.Dropped))
			way.rest()
			// More frames than ours, such as a host's question for routers, are few.
			qt.Check(t, qt.IsTrue(len(way.got) <= sent-int(c.Dropped)+int(c.Seen-sent)))
			mean, deviation := percent/100.0*float64(c.Seen), math.Sqrt(0.3*0.7*float64(c.Seen))
			qt.Check(t, qt.IsTrue(math.Abs(float64(c.Dropped)-mean) < 4*deviation), qt.Commentf("%+v", c))
			qt.Check(t, qt.Equals(c.Dropped, underlay.Lost(percent, 7, c.Seen)))
			qt.Assert(t, qt.IsNil(port.Set(d, underlay.Faults{})))
		}
	})
}

func TestCut(t *testing.T) {
	eachWay(t, func(port *underlay.Port, out *pipe) {
		t := out.t
		back := out.back()
		qt.Assert(t, qt.IsNil(port.Cut(underlay.Out)))
		qt.Assert(t, qt.IsNil(out.send(0, 100))) // who sends is not told
		qt.Assert(t, qt.IsNil(back.send(0, 100)))
		back.receive(100)
		until(t, "all frames were dropped", func() error {
			c, err := port.Counters(underlay.Out)
			if err == nil && (c.Dropped < 100 || c.Dropped != c.Seen) {
				err = errFew
			}
			return err
		})
		qt.Assert(t, qt.IsNil(port.Mend(underlay.Out)))
		qt.Assert(t, qt.IsNil(out.send(100, 1)))
		out.receive(1)
		qt.Check(t, qt.DeepEquals(out.got, []uint32{100}))
	})
}

// TestDown takes the carrier and gives it back.
func TestDown(t *testing.T) {
	eachWay(t, func(port *underlay.Port, out *pipe) {
		t := out.t
		qt.Assert(t, qt.IsNil(port.Down()))
		before, err := port.Counters(underlay.Out)
		qt.Assert(t, qt.IsNil(err))
		_ = out.send(0, 10) // may fail: the host can know
		after, err := port.Counters(underlay.Out)
		qt.Assert(t, qt.IsNil(err))
		qt.Check(t, qt.Equals(after, before))
		qt.Assert(t, qt.IsNil(port.Up(t.Context())))
		until(t, "it goes on", func() error {
			if err := out.send(10, 1); err != nil {
				return err
			}
			out.rest()
			if !slices.Contains(out.got, 10) {
				return errFew
			}
			return nil
		})
	})
}

// onLine makes two hosts, the first of which has a port with a line.
func onLine(t *testing.T) (port *underlay.Port, out *pipe) {
	t.Helper()
	h, a, b := pair(t, underlay.NetworkConfig{Prefixes: []netip.Prefix{lan4}}, true)
	out = newPipe(t, h[0], h[1], a.Addr4(), b.Addr4())
	out.warm()
	return a, out
}

func TestDelay(t *testing.T) {
	port, out := onLine(t)
	const delay = 50 * time.Millisecond
	for _, d := range []underlay.Direction{underlay.Out, underlay.In, underlay.Both} {
		qt.Assert(t, qt.IsNil(port.Set(underlay.Both, underlay.Faults{})))
		qt.Assert(t, qt.IsNil(port.Set(d, underlay.Faults{Delay: delay})))
		for _, way := range []*pipe{out, out.back()} {
			late := d == underlay.Both || (d == underlay.Out) == (way == out)
			began := time.Now()
			qt.Assert(t, qt.IsNil(way.send(0, 20)))
			way.got = nil
			way.receive(20)
			if late {
				qt.Check(t, qt.IsTrue(time.Since(began) >= delay), qt.Commentf("faults of %v", d))
			}
			way.all(20)
		}
	}
	// Without a delay a datagram does not wait for one that has more.
	qt.Assert(t, qt.IsNil(port.Set(underlay.Out, underlay.Faults{Delay: 10 * patience})))
	back := out.back()
	qt.Assert(t, qt.IsNil(out.send(0, 1)))
	qt.Assert(t, qt.IsNil(back.send(0, 1)))
	back.receive(1)
	out.got = nil
	out.rest()
	qt.Check(t, qt.HasLen(out.got, 0))
}

func TestReorder(t *testing.T) {
	port, out := onLine(t)
	qt.Assert(t, qt.IsNil(port.Set(underlay.Out, underlay.Faults{Reorder: 20, Seed: 3})))
	qt.Assert(t, qt.IsNil(out.send(0, 300)))
	out.receive(300)
	qt.Check(t, qt.IsFalse(slices.IsSorted(out.got)))
	out.all(300)
	back := out.back()
	qt.Assert(t, qt.IsNil(back.send(0, 300)))
	back.receive(300)
	back.all(300)
}

func TestRate(t *testing.T) {
	port, out := onLine(t)
	qt.Assert(t, qt.IsNil(port.Set(underlay.Out, underlay.Faults{Rate: 500_000})))
	out.size = 1000
	began := time.Now()
	qt.Assert(t, qt.IsNil(out.send(0, 100)))
	out.receive(100)
	qt.Check(t, qt.IsTrue(time.Since(began) >= 100*1000*time.Second/500_000))
	out.all(100)
}

// TestFullLine sends more than fits on a line that nothing leaves.
func TestFullLine(t *testing.T) {
	port, out := onLine(t)
	qt.Assert(t, qt.IsNil(port.Set(underlay.Out, underlay.Faults{Delay: 100 * patience})))
	sent := uint32(0)
	until(t, "the line is full", func() error {
		if err := out.send(sent, 500); err != nil {
			return err
		}
		sent += 500
		c, err := port.Counters(underlay.Out)
		if err == nil && c.Overflowed == 0 {
			err = errFew
		}
		return err
	})
	qt.Check(t, qt.IsTrue(sent >= 4096))
	c, err := port.Counters(underlay.In)
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.Equals(c.Overflowed, 0))
}

func TestFaultsThatAreNone(t *testing.T) {
	_, plain, _ := pair(t, underlay.NetworkConfig{Prefixes: []netip.Prefix{lan4}}, false)
	qt.Check(t, qt.ErrorIs(plain.Set(underlay.In, underlay.Faults{Delay: 1}), underlay.ErrNoLine))
	qt.Check(t, qt.ErrorIs(plain.Set(underlay.In, underlay.Faults{Reorder: 1}), underlay.ErrNoLine))
	qt.Check(t, qt.ErrorMatches(plain.Set(underlay.In, underlay.Faults{Loss: 101}), "set faults of eth0 of alpha: .* is no percentage"))
	qt.Check(t, qt.ErrorMatches(plain.Set(underlay.In, underlay.Faults{Rate: -1}), ".* is negative"))
	qt.Check(t, qt.ErrorMatches(plain.Set(7, underlay.Faults{}), ".*there is no Direction.7."))
	_, err := plain.Counters(underlay.Both)
	qt.Check(t, qt.ErrorMatches(err, ".*want Out or In"))
}
