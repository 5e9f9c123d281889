package membership

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/snapctl/snapctl/vem/directory"
	"github.com/snapctl/snapctl/vem/trust"
)

// Init makes an installation with this host as its first one. If it fails, or the daemon is
// killed, this host is in no installation, and Init goes on where it ended when it is called
// again. Returns an *[Error] if this host is in an installation, or what it says of itself can't
// be.
func (m *Membership) Init(ctx context.Context, req InitRequest) (*Host, error) {
	done, err := m.begin(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	p, err := m.Complete(req.Place)
	if err != nil {
		return nil, err
	}
	s, err := m.found(ctx, p, req.Directory)
	if err != nil {
		return nil, fmt.Errorf("make an installation: %w", err)
	}
	return m.settle(ctx, s, p)
}

// found makes CA, certificate and directory, as far as an earlier Init has not made them.
func (m *Membership) found(ctx context.Context, p Place, urls []string) (*member, error) {
	o := trust.AuthorityOptions{Now: m.opt.Now}
	ca, err := trust.OpenAuthority(m.caDir(), o)
	if errors.Is(err, fs.ErrNotExist) {
		ca, err = trust.CreateAuthority(m.caDir(), o)
	}
	if err != nil {
		return nil, err
	}
	if err := m.discard(p.Name, ca.Installation()); err != nil {
		return nil, err
	}
	identity, err := trust.Open(m.hostDir(), m.opt.Now)
	if errors.Is(err, fs.ErrNotExist) {
		identity, err = m.sign(ca, p.Name)
	}
	if err != nil {
		return nil, err
	}
	store, at, err := m.opt.Directories.Make(ctx, identity, urls)
	if err != nil {
		return nil, err
	}
	s := &member{record: record{Phase: joined, Place: placeOf(p), Directory: at}, identity: identity, store: store}
	if len(urls) == 0 {
		s.runs = at
	}
	s.invites = newInvites(ca, s, m.opt.Now)
	d, err := directory.Init(ctx, store, string(ca.Installation()), p.Name, m.opt.Now())
	if errors.Is(err, directory.ErrInstalled) { // by an earlier Init: nobody else has this CA
		d, err = directory.Open(ctx, store, string(ca.Installation()), directory.Known{})
	}
	if err != nil {
		return nil, errors.Join(err, store.Close())
	}
	s.opened.Store(d)
	return s, nil
}

// sign makes the certificate of the first host.
func (m *Membership) sign(ca *trust.Authority, host string) (*trust.Identity, error) {
	csr, err := trust.Request(m.hostDir())
	if err != nil {
		return nil, err
	}
	chain, err := ca.Sign(csr, host)
	if err != nil {
		return nil, err
	}
	return trust.Accept(m.hostDir(), trust.Grant{Chain: chain, Host: host, CA: ca.Fingerprint()}, m.opt.Now)
}

// discard removes the certificate that this host has got on a way into an installation that it
// did not go to its end, if it is not the one of this installation and name.
func (m *Membership) discard(host string, installation trust.InstallationID) error {
	old, err := trust.Open(m.hostDir(), m.opt.Now)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err == nil && old.Host() == host && old.Installation() == installation:
		return nil
	}
	return os.RemoveAll(m.hostDir())
}

// setAsideCA renames the CA of an Init that did not come to its end, if it is not the one of this
// installation. It is not removed: somebody may have removed the record of a member by mistake.
func (m *Membership) setAsideCA(installation trust.InstallationID) error {
	ca, err := trust.OpenAuthority(m.caDir(), trust.AuthorityOptions{Now: m.opt.Now})
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case ca.Installation() == installation:
		return nil
	}
	return os.Rename(m.caDir(), m.caDir()+"-"+string(ca.Installation()))
}

// settle enters this host into the directory, and makes it a member when that is done.
func (m *Membership) settle(ctx context.Context, s *member, p Place) (*Host, error) {
	d, err := s.directory(ctx)
	if err == nil {
		var h directory.Host
		if h, err = d.PutHost(ctx, m.entry(p, s)); err == nil {
			s.record.Phase, s.record.Known = joined, d.Known()
			if err = m.save(s.record); err == nil {
				m.arrive(s)
				host := m.show(h, s)
				host.Health = Up
				return host, nil
			}
		}
	}
	return nil, errors.Join(fmt.Errorf("enter this host into the directory: %w", err), s.store.Close())
}
