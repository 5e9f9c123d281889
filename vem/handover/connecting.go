package handover

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/snapctl/snapctl/vem/handover/plain"
	"github.com/snapctl/snapctl/vem/hold"
)

// connected finds those sockets that were about to connect, and are not any more.
func (f *found) connected(t *table, set *hold.Set, own []netip.Addr) error {
	var rest []*other
	for _, o := range f.others {
		switch {
		case !o.state.Connecting || !t.connected(o.socket) && !t.over(o.socket):
			rest = append(rest, o)
		case t.over(o.socket):
			f.refuseSocket(o.socket, "it was about to connect, and was refused, which the program has not read")
		default:
			c := t.connection(o.socket, set, own)
			reason, window, err := c.look(t)
			if err != nil {
				return err
			}
			if f.window = max(f.window, window); reason != "" {
				f.refuseSocket(o.socket, reason)
				continue
			}
			f.connections = append(f.connections, c)
		}
	}
	f.others = rest
	return nil
}

// over tells whether a TCP socket is in none of the kernel's lists.
func (t *table) over(s *hold.Socket) bool {
	_, ok := t.byInode[uint32(s.Inode)]
	return !ok
}

// connecting is a socket that is about to connect.
type connecting struct {
	state *plain.Socket
	fd    int
}

// connect has all of them try again.
func (r *Restored) connect() error {
	var errs []error
	for _, c := range r.connecting {
		if err := c.state.Connect(c.fd); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", c.state.Settings.What, err))
		}
	}
	return errors.Join(errs...)
}
