package gateway

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/snapctl/snapctl/vem/directory"
)

// word is how the text begins that a gateway has in the directory. Releases that know no gateways
// skip such an endpoint, since it has no list of ports.
const word = "gateway"

// Format is what the directory has of the host as a gateway, with the endpoint that the host itself
// has in a network, and ParseSettings reads it: "gateway 203.0.113.0/24"; empty if it is none.
func (s Settings) Format() string {
	if !s.On {
		return ""
	}
	words := []string{word}
	for _, p := range s.Advertise {
		words = append(words, p.String())
	}
	return strings.Join(words, " ")
}

// ParseSettings reads what Format has made, on a host of this or another version.
func ParseSettings(text string) (Settings, error) {
	first, rest, _ := strings.Cut(text, " ")
	s := Settings{On: first == word}
	if !s.On {
		return s, nil
	}
	for one := range strings.FieldsSeq(rest) {
		p, err := netip.ParsePrefix(one)
		if err != nil {
			return Settings{}, fmt.Errorf("what a gateway advertises: %w", err)
		}
		s.Advertise = append(s.Advertise, p)
	}
	return s, s.Check(nil)
}

// Gate is a gateway on another host, as one network has it.
type Gate struct {
	Host      string         `json:"host"`
	Addr      netip.Addr     `json:"address"` // IPv4, of the host itself in the network
	Advertise []netip.Prefix `json:"advertise,omitempty"`
	Alive     bool           `json:"alive,omitempty"` // it was seen a moment ago
}

func (g Gate) equal(h Gate) bool {
	return g.Host == h.Host && g.Addr == h.Addr && g.Alive == h.Alive && slices.Equal(g.Advertise, h.Advertise)
}

// gates are the gateways on other hosts by networks, those that are alive first: of several the first
// one is taken, on this host as on others.
func gates(known Known, self string) map[string][]Gate {
	removed := make(map[string]bool)
	for _, h := range known.Hosts() {
		removed[h.Name] = h.Removed
	}
	all := make(map[string][]Gate)
	for _, e := range known.Endpoints() {
		s, err := settingsOf(e)
		if err != nil || !s.On || e.Owner == self || removed[e.Owner] {
			continue
		}
		all[e.Network] = append(all[e.Network], Gate{Host: e.Owner, Addr: e.Addr, Advertise: s.Advertise, Alive: known.Seen(e.Owner)})
	}
	for _, list := range all {
		slices.SortFunc(list, func(a, b Gate) int {
			switch {
			case a.Alive != b.Alive && a.Alive:
				return -1
			case a.Alive != b.Alive:
				return 1
			}
			return cmp.Compare(a.Host, b.Host)
		})
	}
	return all
}

func settingsOf(e directory.Endpoint) (Settings, error) {
	if !e.OfHost() {
		return Settings{}, nil
	}
	return ParseSettings(e.Ports)
}

// Beyond are the machines that send to a network's endpoints, and get what these send, at their own
// addresses.
type Beyond struct {
	Here  []netip.Prefix // those behind this host
	Gates []Gate         // and behind others
}

// Rules are what the VEM is told to forward.
type Rules struct {
	Settings

	// Elsewhere are prefixes that only other hosts advertise.
	Elsewhere []netip.Prefix
}

// beyond is what there is in a network.
func (s State) beyond(network string) Beyond {
	return Beyond{Here: s.Advertise, Gates: s.Gates[network]}
}

// rules are for all networks.
func (s State) rules() Rules {
	r := Rules{Settings: s.Settings}
	for _, list := range s.Gates {
		for _, g := range list {
			r.Elsewhere = append(r.Elsewhere, g.Advertise...)
		}
	}
	slices.SortFunc(r.Elsewhere, func(a, b netip.Prefix) int { return cmp.Compare(a.String(), b.String()) })
	r.Elsewhere = slices.DeleteFunc(slices.Compact(r.Elsewhere), func(p netip.Prefix) bool { return slices.Contains(s.Advertise, p) })
	return r
}

// others are the gateways on other hosts, of whatever networks.
func (s State) others() (list []Other) {
	seen := make(map[string]bool)
	for _, gates := range s.Gates {
		for _, g := range gates {
			if !seen[g.Host] {
				seen[g.Host] = true
				list = append(list, Other{Host: g.Host, Advertise: g.Advertise, Alive: g.Alive})
			}
		}
	}
	slices.SortFunc(list, func(a, b Other) int { return cmp.Compare(a.Host, b.Host) })
	return list
}
