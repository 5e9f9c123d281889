package gateway

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
)

// Published is a port that leads to an endpoint of another host.
type Published struct {
	Port

	Network string     `json:"network"`
	Addr    netip.Addr `json:"address"` // IPv4
	App     string     `json:"app"`
	Host    string     `json:"host"` // that the app is on
}

// spot is a port of this host.
type spot struct {
	proto  string
	number uint16
}

// Taken are the ports of this host that something else has, and what that is.
type Taken map[spot]string

// Take notes that something has a port. The first one stays.
func (t Taken) Take(proto string, number uint16, by string) {
	at := spot{proto, number}
	if _, ok := t[at]; !ok {
		t[at] = by
	}
}

// Status is what became of a port on this host.
type Status struct {
	Published

	// Why is why it does not lead to the app here; empty: it does.
	Why string
}

// maxPublished bounds what one host forwards.
const maxPublished = 4096

// Choose decides which ports of other hosts' endpoints lead to them on this host: those that
// nothing else has here. Of two apps with one port that comes first whose name does, on all hosts
// alike.
func Choose(all []Published, taken Taken) (list []Status) {
	all = slices.Clone(all)
	slices.SortFunc(all, func(a, b Published) int {
		return cmp.Or(cmp.Compare(a.App, b.App), a.Addr.Compare(b.Addr), cmp.Compare(a.Proto, b.Proto), cmp.Compare(a.HostPort, b.HostPort))
	})
	here := make(map[spot]Published)
	for _, p := range all {
		s, at := Status{Published: p}, spot{p.Proto, p.HostPort}
		other, meets := here[at]
		switch by, isTaken := taken[at]; {
		case isTaken:
			s.Why = by + " has the port on this host"
		case meets:
			s.Why = fmt.Sprintf("app %s on host %s publishes the port as well", other.App, other.Host)
		case len(here) == maxPublished:
			s.Why = fmt.Sprintf("this host forwards %d ports already", maxPublished)
		default:
			here[at] = p
		}
		list = append(list, s)
	}
	return list
}
