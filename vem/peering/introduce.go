package peering

import (
	"context"
	"log/slog"
	"net/netip"
	"slices"
	"time"

	"github.com/snapctl/snapctl/vem/control"
	"github.com/snapctl/snapctl/vem/control/message"
)

// A route is for all endpoints of this host, so the other host has to know all of them: by a
// channel without an outer header it lets in only what comes from those that it has a route to
// (see channel.Direct). When a channel has come up both hosts tell each other of their endpoints,
// by comparing tables. From then on a host that gets an endpoint tells those that it has channels
// to of that one alone. If that fails, since the other host was started anew, say, or does not know
// the call, tables are compared again: at once, when there is a connection again, and by the watch.
//
//	Here ---> next ---> under way ---> told
//	           ^ what comes meanwhile goes together

// told is what the other host of a link was told of this host's endpoints. The network's mutex
// guards it.
type told struct {
	all  bool  // it was told of all of them, and of each that came since
	mute bool  // it did not take what it was told last
	ups  int   // how often the channel went down: what was told before does not count
	busy bool  // somebody tells it
	next *news // what is to be told next; nil: nothing
	now  *news // what is under way; nil: nothing
}

// news is what is told together.
type news struct {
	whole     bool // by comparing tables
	endpoints []message.Endpoint
	done      chan struct{} // closed when the other host has taken it, or has not
}

// Here tells the hosts that this one has channels to of an endpoint of this host that has come to a
// network. It does not wait for them, see [Peering.Told].
func (p *Peering) Here(network string, a netip.Addr) {
	n := p.network(network)
	if n == nil {
		return
	}
	epoch, ok := p.opt.Locals.Epoch(network, a)
	if !ok {
		return
	}
	for _, l := range n.allLinks() {
		n.tell(l, func(next *news) bool {
			if l.channel == nil || l.ours[a] >= epoch {
				return false
			}
			l.ours[a] = epoch
			if next.whole = next.whole || len(next.endpoints) == maxNews; !next.whole {
				next.endpoints = append(next.endpoints, message.Endpoint{Address: a, Epoch: epoch})
			}
			return true
		})
	}
}

// Told waits until the hosts that this one has channels to have taken what they were told of
// endpoints of a network before, or have failed to. It does not wait for those that did not take
// what they were told last.
func (p *Peering) Told(ctx context.Context, network string) {
	n := p.network(network)
	if n == nil {
		return
	}
	for _, done := range n.underway() {
		select {
		case <-done:
		case <-ctx.Done():
			return
		}
	}
}

func (n *Network) underway() (list []chan struct{}) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, l := range n.links {
		if l.told.mute || l.channel == nil {
			continue
		}
		for _, one := range []*news{l.told.now, l.told.next} {
			if one != nil {
				list = append(list, one.done)
			}
		}
	}
	return list
}

// introduceAll tells the other host of a link of all endpoints of this one, beside all else.
func (n *Network) introduceAll(l *link) {
	n.tell(l, func(next *news) bool { next.whole = true; return true })
}

// tell has the other host of a link be told what add adds, beside all else. add is called with the
// network's mutex, and returns false if it has added nothing.
func (n *Network) tell(l *link, add func(*news) bool) {
	n.mu.Lock()
	t := &l.told
	next := t.next
	if next == nil {
		next = &news{done: make(chan struct{})}
	}
	busy := t.busy
	if added := add(next); added {
		t.next, t.busy = next, true
	} else {
		busy = true // there is nothing to be done
	}
	n.mu.Unlock()
	if !busy {
		n.p.opt.Run(func(ctx context.Context) { n.tellAll(ctx, l) })
	}
}

// tellAll tells the other host of a link until there is nothing more to be told.
func (n *Network) tellAll(ctx context.Context, l *link) {
	for {
		n.mu.Lock()
		t := &l.told
		if t.now != nil {
			close(t.now.done)
		}
		t.now, t.next = t.next, nil
		t.busy = t.now != nil
		now := t.now
		n.mu.Unlock()
		if now == nil {
			return
		}
		if now.whole || !n.hasToldAll(l) || n.introduce(ctx, l, now.endpoints) != nil {
			n.tryCompare(ctx, l)
		}
	}
}

// maxNews bounds how many endpoints wait to be told: if there are more all are.
const maxNews = 8 * message.MaxIntroduce

// introduceTimeout bounds how long another host may take to note new endpoints.
const introduceTimeout = time.Second

// introduce tells the other host of a link of new endpoints. If that fails it may not know all.
func (n *Network) introduce(ctx context.Context, l *link, list []message.Endpoint) error {
	for some := range slices.Chunk(list, message.MaxIntroduce) {
		some, _ = n.split(l, some)
		_, seen, up := n.now(l)
		if !up || len(some) == 0 {
			continue
		}
		timed, cancel := context.WithTimeout(ctx, introduceTimeout)
		err := n.p.opt.Peers.Introduce(timed, l.host, message.IntroduceRequest{Network: n.name, Endpoints: some, Generation: seen.generation})
		cancel()
		n.mu.Lock()
		l.told.mute = err != nil
		l.told.all = l.told.all && err == nil
		n.mu.Unlock()
		if err != nil {
			return err
		}
		_, gone := n.split(l, some)
		for _, e := range gone { // it may have been told of that before it was told that they are there
			n.tellGone(l, e.Address, e.Epoch)
		}
	}
	return nil
}

// split tells endpoints that the other host of a link is to reach from those that it is not any
// more.
func (n *Network) split(l *link, list []message.Endpoint) (there, gone []message.Endpoint) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, e := range list {
		switch l.ours[e.Address] {
		case e.Epoch:
			there = append(there, e)
		case 0:
			gone = append(gone, e)
		}
	}
	return there, gone
}

// tryCompare is compareWith, whose error is logged: it is done again when there is a connection to
// the host, or by the watch.
func (n *Network) tryCompare(ctx context.Context, l *link) {
	ctx, cancel := context.WithTimeout(ctx, control.DefaultTimeout)
	defer cancel()
	if err := n.compareWith(ctx, l); err != nil && ctx.Err() == nil {
		n.p.opt.Log.InfoContext(ctx, "a host was not told of all endpoints of this one yet", slog.String("host", l.host), slog.Any("error", err))
	}
}

// compareWith compares tables with the other host of a link, so that each knows all endpoints of the
// other. Nobody has the link's turn meanwhile who waits for this.
func (n *Network) compareWith(ctx context.Context, l *link) error {
	if _, _, up := n.now(l); !up {
		return nil
	}
	n.mu.Lock()
	ups := l.told.ups
	n.mu.Unlock()
	n.setAllOurs(l)
	merged, equal, err := n.p.opt.Peers.Reconcile(ctx, l.host, n.table(ctx, l.host))
	if err == nil && !equal {
		_, err = n.merge(ctx, l.host, merged, l.host)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	l.told.all = err == nil && l.channel != nil && l.told.ups == ups
	l.told.mute = err != nil
	return err
}

// setAllOurs notes that the other host of a channel that is up is to reach all endpoints of this
// one.
func (n *Network) setAllOurs(l *link) {
	all := n.p.opt.Locals.All(n.name)
	n.mu.Lock()
	defer n.mu.Unlock()
	if l.channel == nil {
		return
	}
	for _, e := range all {
		l.ours[e.Address] = max(l.ours[e.Address], e.Epoch)
	}
}

func (n *Network) hasToldAll(l *link) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return l.told.all
}

// strange are the links that are up and whose hosts were not told of all endpoints.
func (n *Network) strange() (list []*link) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, l := range n.links {
		if l.channel != nil && !l.told.all {
			list = append(list, l)
		}
	}
	return list
}
