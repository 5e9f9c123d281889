package relocate

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/go-quicktest/qt"

	"github.com/snapctl/snapctl/vem/membership"
)

// host is one that moves. It notes where it is, by what it was told last.
type host struct {
	used, told, kept []membership.Address
	steps            []string
	fails            string // the step that fails
	stays            int    // how often a channel begins at an old address still
	stuck            bool   // it does for good
	asked            []netip.Addr
}

var errFails = errors.New("it fails")

func (h *host) do(step string, at *[]membership.Address, list []membership.Address) error {
	step += " " + text(list)
	h.steps = append(h.steps, step)
	if step == h.fails {
		return errFails
	}
	*at = list
	return nil
}

func (h *host) move(from, to []membership.Address) Move {
	h.used, h.told, h.kept = from, from, from
	return Move{
		Old: from, New: to, Wait: time.Minute,
		Use:  func(_ context.Context, list []membership.Address) error { return h.do("use", &h.used, list) },
		Tell: func(_ context.Context, list []membership.Address) error { return h.do("tell", &h.told, list) },
		Keep: func(_ context.Context, list []membership.Address) error { return h.do("keep", &h.kept, list) },
		Stay: func(gone []netip.Addr) []string {
			h.asked = gone
			if h.stays--; h.stays >= 0 || h.stuck {
				return []string{"b"}
			}
			return nil
		},
	}
}

// text has the addresses by their last bytes, and an asterisk behind those that come last.
func text(list []membership.Address) (s string) {
	for _, a := range list {
		s += string('0' + a.Addr.As4()[3])
		if a.Priority >= last {
			s += "*"
		}
	}
	return s
}

func at(numbers ...byte) (list []membership.Address) {
	for _, n := range numbers {
		list = append(list, membership.Address{Addr: netip.AddrFrom4([4]byte{192, 0, 2, n}), Priority: int(n)})
	}
	return list
}

// A host is at the old addresses too, which come last, until no channel begins there; each step is there
// before the next one.
func TestMove(t *testing.T) {
	h := &host{stays: 3}
	qt.Assert(t, qt.IsNil(h.move(at(1, 2), at(2, 3)).Do(t.Context())))
	qt.Check(t, qt.DeepEquals(h.steps, []string{"use 231*", "tell 231*", "keep 23", "tell 23", "use 23"}))
	qt.Check(t, qt.Equals(len(h.asked), 1))
	qt.Check(t, qt.Equals(h.asked[0].String(), "192.0.2.1"))
	qt.Check(t, qt.IsTrue(h.stays < 0))

	h = &host{}
	qt.Assert(t, qt.IsNil(h.move(at(1), at(1, 2)).Do(t.Context()))) // none is given up
	qt.Check(t, qt.HasLen(h.asked, 0))
}

// Whatever fails before the new addresses are written, the host is where it was; after that it has moved.
func TestMoveFails(t *testing.T) {
	for _, step := range []string{"use 21*", "tell 21*", "keep 2"} {
		h := &host{fails: step}
		qt.Check(t, qt.ErrorIs(h.move(at(1), at(2)).Do(t.Context()), errFails))
		qt.Check(t, qt.Equals(text(h.used)+text(h.told)+text(h.kept), "111"), qt.Commentf("%s fails", step))
	}
	h := &host{fails: "tell 2"}
	err := h.move(at(1), at(2)).Do(t.Context())
	qt.Check(t, qt.ErrorIs(err, ErrTell))
	qt.Check(t, qt.ErrorIs(err, errFails))
	qt.Check(t, qt.Equals(text(h.used)+text(h.kept), "22"))
}

// Channels that do not move, and somebody who does not wait, leave the host where it was.
func TestMoveStays(t *testing.T) {
	h := &host{stuck: true}
	m := h.move(at(1), at(2))
	m.Wait = time.Millisecond
	err := m.Do(t.Context())
	known, ok := errors.AsType[*membership.Error](err)
	qt.Assert(t, qt.IsTrue(ok), qt.Commentf("%v", err))
	qt.Check(t, qt.ErrorMatches(known, "the channels to host b do not go from the new addresses within 1ms"))
	qt.Check(t, qt.Equals(text(h.used)+text(h.told)+text(h.kept), "111"))

	ctx, cancel := context.WithCancel(t.Context())
	h = &host{stuck: true}
	m = h.move(at(1), at(2))
	stay := m.Stay
	m.Stay = func(gone []netip.Addr) []string { cancel(); return stay(gone) }
	qt.Check(t, qt.ErrorIs(m.Do(ctx), context.Canceled))
	qt.Check(t, qt.Equals(text(h.used)+text(h.told)+text(h.kept), "111"))
}

func TestControlAddresses(t *testing.T) {
	p := membership.Place{Port: 7077, Addresses: []membership.Address{
		{Addr: netip.MustParseAddr("192.0.2.7"), Device: "eth0"}, {Addr: netip.MustParseAddr("2001:db8::7")}, {Addr: netip.MustParseAddr("fe80::7"), Device: "eth1"},
	}}
	qt.Check(t, qt.DeepEquals(ControlAddresses(p), []string{"[192.0.2.7]:7077", "[2001:db8::7]:7077", "[fe80::7%eth1]:7077"}))
}

// Addresses that this host does not have, or twice, are refused.
func TestCheck(t *testing.T) {
	qt.Check(t, qt.ErrorMatches(Check(slices.Concat(at(1), at(1))), "address 192.0.2.1 is given twice"))
	known, ok := errors.AsType[*membership.Error](Check([]membership.Address{{Addr: netip.MustParseAddr("192.0.2.77"), Device: "eth9"}}))
	qt.Assert(t, qt.IsTrue(ok))
	qt.Check(t, qt.ErrorMatches(known, "this host has no address 192.0.2.77 on device eth9, or its device is down"))
	qt.Check(t, qt.IsNil(Check(nil)))
}
