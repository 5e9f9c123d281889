package daemon

import (
	"context"
	"errors"

	"github.com/snapctl/snapctl/restore"
	"github.com/snapctl/snapctl/template"
	"github.com/snapctl/snapctl/vem/netns"
	"github.com/snapctl/snapctl/vem/sockopt"
	"github.com/snapctl/snapctl/vem/tcprepair"
)

// connections are those inside that an app gets which is made of the snapshot.
func (s *source) connections(policy template.ConnectionPolicy) ([]tcprepair.Connection, error) {
	if policy == template.ConnectionReset || s.Manifest.Connections == 0 {
		return nil, nil
	}
	if err := s.Checked(); err != nil {
		return nil, err
	}
	s.once.Do(func() { s.saved, s.savedErr = readConnections(s.Dir, s.Manifest) })
	if s.savedErr != nil {
		return nil, s.savedErr
	}
	return s.saved.Connections, nil
}

// socketOptions are what the other sockets of an app get that is made of the snapshot.
func (s *source) socketOptions() (sockopt.Saved, error) {
	if err := s.Checked(); err != nil {
		return sockopt.Saved{}, err
	}
	s.optionsOnce.Do(func() { s.options, s.optionsErr = readOptions(s.Dir) })
	return s.options, s.optionsErr
}

// reconnection is connections inside an app that were made again for it.
type reconnection struct{ made []*tcprepair.Restored }

// reconnect makes connections in an app's network namespace, where nothing else is yet.
// They rest until release. The caller closes them.
func reconnect(ctx context.Context, ns *netns.NS, list []tcprepair.Connection) (_ *reconnection, err error) {
	r := &reconnection{}
	if len(list) == 0 {
		return r, nil
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, r.close())
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

// held are the sockets, for CRIU to inherit.
func (r *reconnection) held() []restore.Held {
	var list []restore.Held
	for _, made := range r.made {
		for _, s := range made.Sockets {
			list = append(list, restore.Held{Inode: s.Inode, File: s.File})
		}
	}
	return list
}

// ready wraps what is called when all processes have their descriptors and none runs:
// then the connections go on. Not before, for CRIU binds listeners to the same ports,
// which the kernel allows beside sockets in repair mode only.
func (r *reconnection) ready(next func(context.Context, int) error) func(context.Context, int) error {
	if len(r.made) == 0 {
		return next
	}
	return func(ctx context.Context, pid int) error {
		for _, made := range r.made {
			if err := made.Release(); err != nil {
				return err
			}
		}
		if next == nil {
			return nil
		}
		return next(ctx, pid)
	}
}

func (r *reconnection) close() error {
	var errs []error
	for _, made := range r.made {
		errs = append(errs, made.Close())
	}
	return errors.Join(errs...)
}
