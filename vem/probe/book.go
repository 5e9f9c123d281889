package probe

import (
	"net/netip"
	"slices"
	"time"
)

// book has what is known of all ways, and decides what is sent. It sends nothing itself, and
// knows no clock: everything is told when it happens. It is not safe for use at the same time.
type book struct {
	interval time.Duration
	limits   map[netip.Addr]int // addresses of this host, with the MTU of their devices
	peers    map[string]*peer
	askers   map[KeyName]*asker
	number   uint64 // of the last ask
	out      map[uint64]*sent
	changed  map[string]bool // hosts of which there is news
	urgent   bool            // tick has something to do at once
}

// peer is a host that is asked, or asks.
type peer struct {
	name string
	key  Key
	asks bool // there is a key to ask it by
	ways []*way
	keys []KeyName // by which it asks, the oldest first
}

// datagram is what is to be sent.
type datagram struct {
	from   netip.Addr
	to     netip.AddrPort
	data   []byte
	number uint64 // of an ask; 0: an answer
}

func newBook(interval time.Duration) *book {
	return &book{
		interval: interval, limits: make(map[netip.Addr]int), peers: make(map[string]*peer), askers: make(map[KeyName]*asker),
		out: make(map[uint64]*sent), changed: make(map[string]bool),
	}
}

func (b *book) peer(host string) *peer {
	p := b.peers[host]
	if p == nil {
		p = &peer{name: host}
		b.peers[host] = p
	}
	return p
}

// setLimits says which addresses this host has.
func (b *book) setLimits(limits map[netip.Addr]int) {
	b.limits = limits
	for _, p := range b.peers {
		for _, w := range p.ways {
			if limit, ok := limits[w.pair.Local]; ok && limit != w.size.limit {
				b.dropSizes(w)
				w.size = newSearch(limit)
				b.changed[p.name] = true
			}
		}
	}
}

// setWays says which ways to a host are to be probed. What is known of those that were before
// stays.
func (b *book) setWays(host string, pairs []Pair, now time.Time) {
	if len(pairs) == 0 && b.peers[host] == nil {
		return
	}
	p := b.peer(host)
	before := p.ways
	p.ways = nil
	for _, pair := range pairs {
		i := slices.IndexFunc(before, func(w *way) bool { return w.pair == pair })
		if i >= 0 {
			p.ways = append(p.ways, before[i])
			continue
		}
		p.ways = append(p.ways, &way{pair: pair, host: p, health: newHealth(), size: newSearch(b.limits[pair.Local]), next: now})
	}
	for _, w := range before {
		if !slices.Contains(p.ways, w) {
			b.dropWay(w)
		}
	}
}

// dropWay forgets all that is out by a way.
func (b *book) dropWay(w *way) {
	for _, s := range w.old {
		delete(b.out, s.number)
	}
	if w.waiting != nil {
		delete(b.out, w.waiting.number)
	}
	b.dropSizes(w)
}

func (b *book) dropSizes(w *way) {
	for _, s := range w.sizes {
		delete(b.out, s.number)
	}
	w.sizes, w.missed, w.small, w.echoes, w.unproven = nil, nil, false, 0, 0
}

// askBy gives the key to ask a host by.
func (b *book) askBy(host string, k Key) {
	p := b.peer(host)
	p.key, p.asks = k, true
}

// answerTo gives a key by which a host asks. Some of its keys before stay good.
func (b *book) answerTo(host string, k Key) {
	if b.askers[k.Name] != nil {
		return
	}
	p := b.peer(host)
	b.askers[k.Name] = newAsker(host, k)
	if p.keys = append(p.keys, k.Name); len(p.keys) > maxKeys {
		delete(b.askers, p.keys[0])
		p.keys = p.keys[1:]
	}
}

// forget drops a host: it is neither asked nor answered any more.
func (b *book) forget(host string) {
	p := b.peers[host]
	if p == nil {
		return
	}
	for _, w := range p.ways {
		b.dropWay(w)
	}
	for _, name := range p.keys {
		delete(b.askers, name)
	}
	delete(b.peers, host)
}

// tick returns what is to be sent at a moment, and when to call it again; zero: when something has
// changed.
func (b *book) tick(now time.Time) (list []datagram, next time.Time) {
	b.urgent = false
	for _, p := range b.peers {
		if !p.asks {
			continue
		}
		for _, w := range p.ways {
			if _, ok := b.limits[w.pair.Local]; !ok {
				continue // its address is gone
			}
			b.expire(w, now)
			list = append(list, b.ask(w, now)...)
			next = sooner(next, w.due())
		}
	}
	return list, next
}

// due is when something is to be done about a way.
func (w *way) due() (at time.Time) {
	for _, s := range w.sizes {
		at = sooner(at, s.until)
	}
	if w.waiting != nil {
		return sooner(at, w.waiting.until)
	}
	return sooner(at, w.next)
}

func sooner(a, b time.Time) time.Time {
	if a.IsZero() || b.Before(a) {
		return b
	}
	return a
}

// ask returns the asks of a way that are due.
func (b *book) ask(w *way, now time.Time) (list []datagram) {
	if w.waiting == nil && !now.Before(w.next) {
		w.next = now.Add(b.interval)
		d := b.send(w, sent{why: alive, size: headerSize + w.pair.overhead(), index: w.health.asked, until: now.Add(w.wait(b.interval))}, now)
		w.waiting = b.out[d.number]
		list = append(list, d)
		if w.confirms() {
			list = append(list, b.askSizes(w, confirm, now, w.size.pass)...)
		}
	}
	if len(w.sizes) > 0 || !w.works() {
		return list
	}
	if w.grown >= growEvery && w.size.done() {
		w.grown = 0
		w.size.grow()
	}
	if sizes := w.size.next(); len(sizes) > 0 {
		list = append(list, b.askSizes(w, size, now, sizes...)...)
	}
	return list
}

// works tells whether small packets come through, so that it is the size of large ones if they do
// not.
func (w *way) works() bool {
	return w.health.misses == 0 && (w.health.state == Up || w.health.state == Lossy)
}

// confirms tells whether the largest size is to be asked for again.
func (w *way) confirms() bool {
	return w.size.done() && w.size.pass > 0 && len(w.sizes) == 0 && w.works() && (w.echoes >= confirmEvery || w.unproven > 0)
}

// askSizes asks for sizes, and with a small packet after them, which is their witness: if that is not
// answered either, in the same time, then the network is cut, or the other host is slow, and what was
// lost says nothing of sizes. The asks about life would tell too late.
func (b *book) askSizes(w *way, why purpose, now time.Time, sizes ...int) (list []datagram) {
	until := now.Add(w.shortWait(b.interval))
	for _, n := range sizes {
		list = append(list, b.send(w, sent{why: why, size: n, until: until}, now))
	}
	list = append(list, b.send(w, sent{why: witness, size: headerSize + w.pair.overhead(), until: until}, now))
	for _, d := range list {
		w.sizes = append(w.sizes, b.out[d.number])
	}
	return list
}

func (b *book) send(w *way, s sent, now time.Time) datagram {
	b.number++
	s.way, s.key, s.number, s.at = w, w.host.key, b.number, now
	b.out[s.number] = &s
	p := packet{kind: ask, key: s.key.Name, number: s.number, size: s.size - w.pair.overhead()}
	return datagram{w.pair.Local, w.pair.Remote, seal(p, s.key, ends{w.pair.Local, w.pair.Remote.Addr()}), s.number}
}

// expire notes which asks of a way were not answered in time.
func (b *book) expire(w *way, now time.Time) {
	defer b.watch(w)()
	if s := w.waiting; s != nil && !now.Before(s.until) {
		w.waiting = nil
		w.health.missed()
		if w.old = append(w.old, s); len(w.old) > remembered {
			delete(b.out, w.old[0].number)
			w.old = w.old[1:]
		}
		if w.health.state != Down {
			w.next = now
		}
	}
	for _, s := range slices.Clone(w.sizes) {
		if now.Before(s.until) {
			continue
		}
		b.resolve(w, s, func() {
			if s.why != witness {
				w.missed = append(w.missed, s)
			}
		})
	}
}

// lostSize notes that a large ask was not answered, while a small one was.
func (w *way) lostSize(s *sent) {
	if s.why == size {
		w.size.lost(s.size, w.health.patience())
		return
	}
	if w.unproven++; w.unproven >= w.health.patience() {
		w.unproven, w.echoes = 0, 0
		w.size.shrink()
	}
}

// resolve notes what became of an ask about a size.
func (b *book) resolve(w *way, s *sent, note func()) {
	delete(b.out, s.number)
	w.sizes = slices.DeleteFunc(w.sizes, func(other *sent) bool { return other == s })
	note()
	if len(w.sizes) > 0 {
		return
	}
	b.urgent = true
	if w.small && w.works() {
		for _, lost := range w.missed {
			w.lostSize(lost)
		}
	}
	w.missed, w.small = nil, false
	w.size.settle()
}

// watch returns what to call after a way may have changed.
func (b *book) watch(w *way) func() {
	state, steady, mtu := w.matters()
	return func() {
		if s, t, m := w.matters(); s != state || t != steady || m != mtu {
			b.changed[w.host.name] = true
		}
	}
}

// refused notes that this host could not send an ask, since it was too large for it.
func (b *book) refused(number uint64) {
	s := b.out[number]
	if s == nil || s.why == alive {
		return
	}
	defer b.watch(s.way)()
	b.resolve(s.way, s, func() {
		if s.why == confirm {
			s.way.size.shrink()
			return
		}
		s.way.size.refused(s.size)
	})
}

// news returns the hosts of which there is news, once.
func (b *book) news() (list []string) {
	for host := range b.changed {
		list = append(list, host)
	}
	clear(b.changed)
	slices.Sort(list)
	return list
}
