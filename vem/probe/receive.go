package probe

import (
	"net/netip"
	"slices"
	"time"
)

// receive takes a datagram that came to an address of this host. If it is to be answered it
// returns the answer.
func (b *book) receive(data []byte, at netip.Addr, from netip.AddrPort, now time.Time) (datagram, bool) {
	p, ok := parse(data)
	if !ok {
		return datagram{}, false
	}
	if p.kind == answer {
		b.answered(data, p, at, from.Addr(), now)
		return datagram{}, false
	}
	a := b.askers[p.key]
	e := ends{from.Addr(), at}
	if a == nil || !genuine(data, a.key, e) || !a.admit(p.number, now) {
		return datagram{}, false
	}
	return datagram{from: at, to: from, data: seal(packet{kind: answer, key: p.key, number: p.number, size: p.size}, a.key, e)}, true
}

// answered takes an answer, if this host has asked for it.
func (b *book) answered(data []byte, p packet, at, from netip.Addr, now time.Time) {
	s := b.out[p.number]
	if s == nil {
		return
	}
	w := s.way
	if p.key != s.key.Name || p.size != s.size-w.pair.overhead() || w.pair.Local != at || w.pair.Remote.Addr() != from || !genuine(data, s.key, ends{at, from}) {
		return
	}
	defer b.watch(w)()
	rtt := max(now.Sub(s.at), 1)
	delete(b.out, s.number)
	switch {
	case s.why != alive:
		b.resolve(w, s, func() { w.echoedSize(s) })
	case w.waiting == s:
		w.waiting = nil
		w.health.echoed(rtt)
		w.echoes++
		w.grown++
		b.urgent = b.urgent || len(w.sizes) == 0 && !w.size.done()
	default:
		w.old = slices.DeleteFunc(w.old, func(other *sent) bool { return other == s })
		w.health.late(rtt, w.health.asked-1-s.index)
	}
}

// echoedSize notes that a large ask was answered.
func (w *way) echoedSize(s *sent) {
	if s.why == witness {
		w.small = true
		return
	}
	w.size.passed(s.size)
	if s.why == confirm {
		w.echoes, w.unproven = 0, 0
	}
}
