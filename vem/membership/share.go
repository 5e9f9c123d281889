package membership

import (
	"context"
	"fmt"

	"github.com/snapctl/snapctl/vem/trust"
)

// ShareCA returns the CA of the installation, with its private key, for a host of the
// installation that is to invite and renew as well, so that the installation does not depend on
// this host. It is sent to that host only, by a connection that proved who it is. Returns an
// *[Error] if this host does not have the CA, and an error wrapping trust.ErrRemoved if the host
// was removed.
func (m *Membership) ShareCA(ctx context.Context, host string) ([]byte, error) {
	s, err := m.member()
	if err != nil {
		return nil, err
	}
	if s.invites == nil {
		return nil, s.withoutCA()
	}
	d, err := s.directory(ctx)
	if err != nil {
		return nil, err
	}
	h, err := d.Host(ctx, host)
	switch {
	case err != nil:
		return nil, err
	case h.Removed:
		return nil, fmt.Errorf("share the CA with host %s: %w", host, trust.ErrRemoved)
	}
	return s.invites.ca.Export()
}

// AdoptCA takes the CA that another host has shared: from then on this host invites, lets in and
// renews too. It may be called again. If it fails this host has no CA, as before.
func (m *Membership) AdoptCA(ctx context.Context, exported []byte) error {
	select {
	case m.turn <- struct{}{}:
		defer func() { <-m.turn }()
	case <-ctx.Done():
		return fmt.Errorf("another operation on the membership of this host is at work: %w", ctx.Err())
	}
	s, err := m.member()
	if err != nil {
		return err
	}
	ca, err := trust.ImportAuthority(m.caDir(), exported, s.identity.Installation(), trust.AuthorityOptions{Now: m.opt.Now})
	if err != nil {
		return err
	}
	next := &member{record: s.record, identity: s.identity, store: s.store}
	next.opened.Store(s.opened.Load())
	next.invites = newInvites(ca, next, m.opt.Now)
	m.self.Store(next)
	return nil
}
