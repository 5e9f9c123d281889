package vem

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"testing"

	"github.com/go-quicktest/qt"

	"github.com/snapctl/snapctl/vem/address"
)

func TestClaimChoosesTheLowestAddress(t *testing.T) {
	w := newWorld(t)
	one, two := w.claim(t, "one", ""), w.claim(t, "two", "")
	qt.Check(t, qt.Equals(one.Claim().Addr4.String(), "10.77.0.2"))
	qt.Check(t, qt.Equals(two.Claim().Addr4.String(), "10.77.0.3"))
	qt.Check(t, qt.Equals(two.Claim().Addr6.String(), "fd77:736e:6170::3"))
	one.Free()
	one.Free()
	qt.Check(t, qt.Equals(w.claim(t, "three", "").Claim().Addr4.String(), "10.77.0.2"))
	qt.Check(t, qt.DeepEquals(w.Owners(DefaultNetwork)[netip.MustParseAddr("10.77.0.3")], "two"))
	qt.Check(t, qt.DeepEquals(w.Owners(DefaultNetwork)[netip.MustParseAddr("fd77:736e:6170::2")], "three"))
	free, prefix, err := w.Addresses(DefaultNetwork)
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.Equals(free, 1<<16-5))
	qt.Check(t, qt.Equals(prefix.String(), "10.77.0.0/16"))
}

func TestClaimOfWhatOthersHave(t *testing.T) {
	w := newWorld(t)
	tcp := Port{Proto: "tcp", HostPort: 80, Port: 8080}
	w.claim(t, "web", "10.77.0.9", tcp)
	for name, test := range map[string]struct {
		claim Claim
		want  string
	}{
		"address":            {Claim{Addr4: netip.MustParseAddr("10.77.0.9")}, `app web has endpoint 10.77.0.9 of network default`},
		"port":               {Claim{Ports: []Port{tcp}}, `publish host port 80/tcp: app web has it`},
		"port at one":        {Claim{Ports: []Port{{Proto: "tcp", HostAddr: netip.MustParseAddr("127.0.0.1"), HostPort: 80, Port: 1}}}, `publish host port 80/tcp: .*`},
		"port of udp":        {Claim{Ports: []Port{{Proto: "udp", HostPort: 80, Port: 1}}}, ""},
		"gateway's address":  {Claim{Addr4: netip.MustParseAddr("10.77.0.1")}, `endpoint in network default \(10.77.0.0/16\): .*gateway.*`},
		"address outside":    {Claim{Addr4: netip.MustParseAddr("10.78.0.1")}, `endpoint in network default \(10.77.0.0/16\): .*outside.*`},
		"in another network": {Claim{Network: "other", Addr4: netip.MustParseAddr("10.79.0.9")}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			if test.claim.Network == "" {
				test.claim.Network = DefaultNetwork
			}
			e, err := w.Claim(t.Context(), test.claim)
			if test.want != "" {
				qt.Assert(t, qt.ErrorMatches(err, test.want))
				return
			}
			qt.Assert(t, qt.IsNil(err))
			e.Free()
		})
	}
}

func TestAddPorts(t *testing.T) {
	w := newWorld(t)
	tcp, udp := Port{Proto: "tcp", HostPort: 80, Port: 80}, Port{Proto: "udp", HostPort: 80, Port: 80}
	web, other := w.claim(t, "web", "", tcp), w.claim(t, "other", "")
	var taken *PortError
	qt.Assert(t, qt.ErrorAs(other.AddPorts([]Port{udp, tcp}), &taken))
	qt.Check(t, qt.Equals(*taken, PortError{App: "web", Port: tcp}))
	qt.Check(t, qt.HasLen(other.Claim().Ports, 0))
	qt.Check(t, qt.IsNil(web.AddPorts([]Port{udp})))
	qt.Check(t, qt.IsTrue(slices.Equal(web.Claim().Ports, []Port{tcp, udp})))
}

// small is a world whose network "small" has five addresses.
func small(t *testing.T) *world {
	t.Helper()
	w := newWorld(t)
	w.spaces.all["small"] = address.Space{Prefix4: netip.MustParsePrefix("10.99.0.0/29")}
	return w
}

// spare claims a spare endpoint, and counts how often it is asked to give it up.
func (w *world) spare(t *testing.T, gaveUp *int) *Endpoint {
	t.Helper()
	var e *Endpoint
	c := Claim{App: "_pool", Network: "small", Spare: &Spare{GiveUp: func(context.Context) error {
		*gaveUp++
		e.Free()
		return nil
	}}}
	e, err := w.Claim(t.Context(), c)
	qt.Assert(t, qt.IsNil(err))
	return e
}

func TestSpareEndpointIsGivenUp(t *testing.T) {
	for name, addr := range map[string]netip.Addr{"the last one": {}, "the one that is asked for": netip.MustParseAddr("10.99.0.6")} {
		t.Run(name, func(t *testing.T) {
			w := small(t)
			gaveUp := make([]int, 5)
			for i := range gaveUp {
				e := w.spare(t, &gaveUp[i])
				if i == 4 {
					e.Ready() // the others would have to be waited for
				}
			}
			free, _, err := w.Addresses("small")
			qt.Assert(t, qt.IsNil(err))
			qt.Assert(t, qt.Equals(free, 5))
			_, err = w.Claim(t.Context(), Claim{App: "web", Network: "small", Addr4: addr})
			var spare *SpareError
			qt.Assert(t, qt.ErrorAs(err, &spare))
			qt.Assert(t, qt.ErrorMatches(err, "a spare endpoint has 10.99.0.6"))
			qt.Assert(t, qt.IsNil(spare.GiveUp(t.Context())))
			qt.Assert(t, qt.DeepEquals(gaveUp, []int{0, 0, 0, 0, 1}))

			// The pool does not get it back, nor does anybody who has not asked for it.
			_, err = w.Claim(t.Context(), Claim{App: "_pool", Network: "small", Spare: &Spare{}})
			qt.Assert(t, qt.ErrorIs(err, address.ErrExhausted))
			e, err := w.Claim(t.Context(), Claim{App: "web", Network: "small", Addr4: spare.Addr})
			qt.Assert(t, qt.IsNil(err))
			spare.Done()
			spare.Done()
			e.Free()
			e, err = w.Claim(t.Context(), Claim{App: "_pool", Network: "small", Spare: &Spare{}})
			qt.Assert(t, qt.IsNil(err))
			qt.Assert(t, qt.Equals(e.Claim().Addr4, spare.Addr))
		})
	}
}

// Two apps that ask at the same time get two addresses.
func TestSpareEndpointsAreReservedOnce(t *testing.T) {
	w := small(t)
	var gaveUp int
	for range 5 {
		w.spare(t, &gaveUp)
	}
	var first, second *SpareError
	_, err := w.Claim(t.Context(), Claim{App: "one", Network: "small"})
	qt.Assert(t, qt.ErrorAs(err, &first))
	_, err = w.Claim(t.Context(), Claim{App: "two", Network: "small"})
	qt.Assert(t, qt.ErrorAs(err, &second))
	qt.Assert(t, qt.Not(qt.Equals(first.Addr, second.Addr)))
}

func TestSpareEndpointInUse(t *testing.T) {
	w := small(t)
	var gaveUp int
	e := w.spare(t, &gaveUp)
	e.Use("clone-1")
	_, err := w.Claim(t.Context(), Claim{App: "web", Network: "small", Addr4: e.Claim().Addr4})
	var taken *TakenError
	qt.Assert(t, qt.ErrorAs(err, &taken))
	qt.Assert(t, qt.Equals(taken.App, "clone-1"))
}

func TestAddressSpacesOfNetworks(t *testing.T) {
	w := newWorld(t)
	for _, test := range []struct{ network, want string }{
		{DefaultNetwork, "10.77.0.0/16"}, {"b", "10.79.0.0/16"}, {"c", "10.80.0.0/16"}, {"b", "10.79.0.0/16"},
	} {
		s, err := w.space(test.network)
		qt.Assert(t, qt.IsNil(err))
		qt.Check(t, qt.Equals(s.Prefix4.String(), test.want))
		qt.Check(t, qt.Equals(w.spaces.all[test.network], s))
	}
	// Its file is there already, or can't be used, or not be written.
	w.spaces.all["given"] = address.Space{Prefix4: netip.MustParsePrefix("10.99.0.0/24")}
	e, err := w.Claim(t.Context(), Claim{App: "web", Network: "given"})
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.Equals(e.Claim().Addr4.String(), "10.99.0.2"))
	w.spaces.all["wrong"] = address.Space{Prefix4: netip.MustParsePrefix("10.99.0.1/24")}
	_, err = w.Claim(t.Context(), Claim{App: "web", Network: "wrong"})
	qt.Check(t, qt.ErrorIs(err, address.ErrPrefix))
	w.spaces.fail = errors.New("no space left on device")
	_, err = w.Claim(t.Context(), Claim{App: "web", Network: "new"})
	qt.Check(t, qt.ErrorIs(err, w.spaces.fail))
	w.spaces.fail = nil
	_, err = w.Claim(t.Context(), Claim{App: "web", Network: "new"})
	qt.Check(t, qt.IsNil(err))
}

func TestNextSpace(t *testing.T) {
	first := address.Space{Prefix4: netip.MustParsePrefix("10.77.0.0/16"), Prefix6: netip.MustParsePrefix("fd77:736e:6170::/64")}
	second, err := nextSpace(first, 1)
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.Equals(second.Prefix4, netip.MustParsePrefix("10.78.0.0/16")))
	qt.Check(t, qt.Equals(second.Prefix6, netip.MustParsePrefix("fd77:736e:6170:1::/64")))
	_, err = nextSpace(first, 178)
	qt.Check(t, qt.IsNil(err))
	_, err = nextSpace(first, 179)
	qt.Check(t, qt.ErrorIs(err, address.ErrExhausted))
}
