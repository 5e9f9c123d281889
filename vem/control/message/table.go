package message

import (
	"crypto/sha256"
	"encoding/binary"
	"net/netip"
	"slices"
	"strings"
)

// Table is what two hosts have in common in one network: the channel between them, and what they
// reach over it.
type Table struct {
	Network string
	// Channel is as the host that has this table sees it; nil: there is none.
	Channel *Channel
	// Routes are in the order of their addresses, each address once; at most [MaxRoutes].
	Routes []Route
}

// Sort brings the routes into their order.
func (t *Table) Sort() {
	slices.SortFunc(t.Routes, func(a, b Route) int { return a.Address.Compare(b.Address) })
}

// Digest is the same for two tables that say the same of two hosts, each as one of them sees it.
// self is the host whose table it is. Parameters of modules do not count.
func (t *Table) Digest(self, other string) [sha256.Size]byte {
	h := sha256.New()
	text := func(s string) {
		h.Write(binary.BigEndian.AppendUint32(nil, uint32(len(s))))
		h.Write([]byte(s))
	}
	number := func(n uint64) { h.Write(binary.BigEndian.AppendUint64(nil, n)) }
	first, second := self, other
	if strings.Compare(other, self) < 0 {
		first, second = other, self
	}
	text(first)
	text(second)
	text(t.Network)
	if c := t.Channel; c != nil {
		ends := [2]netip.AddrPort{c.Local, c.Remote}
		if first != self {
			ends = [2]netip.AddrPort{c.Remote, c.Local}
		}
		text(c.Module)
		text(ends[0].String())
		text(ends[1].String())
		number(uint64(c.MTU))
		number(c.Generation)
	}
	number(uint64(len(t.Routes)))
	for _, r := range t.Routes {
		text(r.Address.String())
		text(r.Owner)
		number(r.Epoch)
	}
	var sum [sha256.Size]byte
	h.Sum(sum[:0])
	return sum
}
