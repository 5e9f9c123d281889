package membership

import (
	"context"
	"fmt"
	"slices"

	"github.com/snapctl/snapctl/vem/directory"
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
		return nil, s.withoutCA(ctx)
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
	next := s.again()
	next.invites = newInvites(ca, next, m.opt.Now)
	m.self.Store(next)
	return nil
}

// again is a copy of what this host is, in which something is to be changed.
func (s *member) again() *member {
	next := &member{record: s.record, identity: s.identity, store: s.store, invites: s.invites, runs: s.runs}
	next.opened.Store(s.opened.Load())
	return next
}

// HasCA tells whether this host invites, lets in and renews.
func (m *Membership) HasCA() bool {
	s := m.self.Load()
	return s != nil && s.invites != nil
}

// SetDirectory has this host, and those that it lets in, remember where the directory is now.
func (m *Membership) SetDirectory(ctx context.Context, urls []string) error {
	if slices.Equal(m.DirectoryURLs(), urls) {
		return m.Member()
	}
	return m.change(ctx, func(r *record) { r.Directory = slices.Clone(urls) })
}

// change changes what this host remembers.
func (m *Membership) change(ctx context.Context, change func(*record)) error {
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
	next := s.again()
	change(&next.record)
	if err := m.save(next.record); err != nil {
		return err
	}
	m.self.Store(next)
	return nil
}

// SetAddresses has this host remember where others reach it now.
func (m *Membership) SetAddresses(ctx context.Context, list []Address) error {
	return m.change(ctx, func(r *record) { r.Place.Addresses = Underlays(list) })
}

// Enter enters this host into the directory, as when it came into the installation: see
// [directory.Directory.PutHost].
func (m *Membership) Enter(ctx context.Context) (directory.Host, error) {
	s, err := m.member()
	if err != nil {
		return directory.Host{}, err
	}
	d, err := s.directory(ctx)
	if err != nil {
		return directory.Host{}, err
	}
	h := m.entry(s.record.Place.place(), s)
	h.Member = nil // what it runs now is told by Update
	return d.PutHost(ctx, h)
}

// Update changes what the directory says of this host, and returns this host. Returns what
// [directory.Directory.PutHost] does.
func (m *Membership) Update(ctx context.Context, change func(*directory.Host)) (*Host, error) {
	s, err := m.member()
	if err != nil {
		return nil, err
	}
	d, err := s.directory(ctx)
	if err != nil {
		return nil, err
	}
	h, err := d.Host(ctx, s.identity.Host())
	if err != nil {
		return nil, err
	}
	change(&h)
	if h, err = d.PutHost(ctx, h); err != nil {
		return nil, err
	}
	host := m.show(h, s)
	host.Health = Up
	return host, nil
}
