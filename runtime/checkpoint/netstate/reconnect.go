package netstate

import (
	"context"
	"errors"

	"github.com/snapctl/snapctl/restore"
	"github.com/snapctl/snapctl/vem/netns"
	"github.com/snapctl/snapctl/vem/tcprepair"
)

// Reconnection is connections inside an app that were made again for it.
type Reconnection struct{ made []*tcprepair.Restored }

// Reconnect makes connections in an app's network namespace, where nothing else is yet.
// They rest until Release. The caller closes them.
func Reconnect(ctx context.Context, ns *netns.NS, list []tcprepair.Connection) (_ *Reconnection, err error) {
	r := &Reconnection{}
	if len(list) == 0 {
		return r, nil
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, r.Close())
		}
	}()
	return r, ns.Do(func() error {
		for _, c := range list {
			if err := ctx.Err(); err != nil {
				return err
			}
			made, err := c.Restore()
			if err != nil {
				return err
			}
			r.made = append(r.made, made)
		}
		return nil
	})
}

// Held are the sockets, for CRIU to inherit.
func (r *Reconnection) Held() []restore.Held {
	var list []restore.Held
	for _, made := range r.made {
		for _, s := range made.Sockets {
			list = append(list, restore.Held{Inode: s.Inode, File: s.File})
		}
	}
	return list
}

// Release has the connections go on. It is called when all processes have their descriptors
// and none runs. Not before, for CRIU binds listeners to the same ports, which the kernel
// allows beside sockets in repair mode only.
func (r *Reconnection) Release() error {
	for _, made := range r.made {
		if err := made.Release(); err != nil {
			return err
		}
	}
	return nil
}

// Close closes the sockets: restored processes have their own descriptors of them.
func (r *Reconnection) Close() error {
	var errs []error
	for _, made := range r.made {
		errs = append(errs, made.Close())
	}
	return errors.Join(errs...)
}
