package peering

import (
	"context"
	"net/netip"
	"time"

	"github.com/snapctl/snapctl/vem/channel"
	"github.com/snapctl/snapctl/vem/control/message"
)

// link is what this host has in common with another one in one network. The network's mutex
// guards all of it but turn, set and expected.
type link struct {
	host string
	turn chan struct{} // has one token while somebody changes the link in the kernel
	set  channel.Host  // that the module was given last; who has the turn has it

	expected expected // likewise

	channel *message.Channel // nil: down
	version version          // of the newest change that was seen, also if that took it down
	routes  map[netip.Addr]route
	ours    map[netip.Addr]uint64 // endpoints of this host that the other one reaches -> epoch
	traffic traffic
	change  change
	told    told

	failed map[string]time.Time // when a kind did not come up, by its name
	said   string               // of the kind that this host was told to have, see unmet

	last  message.Channel // as it was when it was up last, for people
	since time.Time       // when it came up, or went down; zero: before this process
}

// route is an endpoint of the other host.
type route struct {
	epoch uint64
	state channel.State
}

// take gets the link's turn.
func (l *link) take(ctx context.Context) (release func(), err error) {
	select {
	case l.turn <- struct{}{}:
		return func() { <-l.turn }, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// version orders the changes of a channel.
type version struct {
	generation uint64
	by         string // the host that began the change
}

// newer tells whether a change counts after another one.
func (v version) newer(than version) bool {
	if v.generation != than.generation {
		return v.generation > than.generation
	}
	return v.by < than.by
}
