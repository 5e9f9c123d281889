package membership

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

	"github.com/snapctl/snapctl/vem/trust"
)

// Join makes this host one of an installation that has invited it. If it fails, or the daemon is
// killed, this host is in no installation, and Join with the same token goes on where it ended
// when it is called again. Returns an *[Error] if this host is in an installation, the token
// can't be one, or what it says of itself can't be, and what Compare returns.
func (m *Membership) Join(ctx context.Context, req JoinRequest) (*Host, error) {
	done, err := m.begin(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	token, err := trust.ParseToken(req.Token)
	if err != nil {
		return nil, &Error{Text: err.Error(), Remedy: "copy the whole line that \"snapctl host invite\" printed"}
	}
	p, err := m.Complete(req.Place)
	if err != nil {
		return nil, err
	}
	installation := token.CA.Installation()
	if err := errors.Join(m.discard(p.Name, installation), m.setAsideCA(installation)); err != nil {
		return nil, err
	}
	s, err := m.enter(ctx, req.At, token, p)
	if err == nil {
		err = m.compare(ctx, s, p, req.OnConflict)
	}
	if err != nil {
		return nil, fmt.Errorf("join installation %s at %s: %w", installation, req.At, err)
	}
	return m.settle(ctx, s, p)
}

// compare makes sure that this host can be in the installation with what it has.
func (m *Membership) compare(ctx context.Context, s *member, p Place, how OnConflict) error {
	if m.opt.Compare == nil {
		return nil
	}
	d, err := s.directory(ctx)
	if err == nil {
		s.record.Private, err = m.opt.Compare(ctx, d, m.entry(p, s), how)
	}
	if err != nil {
		return errors.Join(err, s.store.Close())
	}
	return nil
}

// enter gets the certificate of this host, unless an earlier Join has got it.
func (m *Membership) enter(ctx context.Context, at string, token trust.Token, p Place) (*member, error) {
	r, err := m.load()
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	identity, err := trust.Open(m.hostDir(), m.opt.Now)
	if errors.Is(err, fs.ErrNotExist) || err == nil && r.Phase != joining {
		identity, r, err = m.ask(ctx, at, token, p)
	}
	if err != nil {
		return nil, err
	}
	store, err := m.opt.Directories.Open(ctx, identity, r.Directory)
	if err != nil {
		return nil, err
	}
	return &member{record: r, identity: identity, store: store}, nil
}

// ask has this host let in. Where the directory is is written before the certificate is there:
// who has one knows where to go on.
func (m *Membership) ask(ctx context.Context, at string, token trust.Token, p Place) (*trust.Identity, record, error) {
	csr, err := trust.Request(m.hostDir())
	if err != nil {
		return nil, record{}, err
	}
	welcome, err := m.opt.Gate.Join(ctx, Application{
		At: at, TLS: trust.JoinClient(token, m.opt.Now), Request: token.Join(p.Name, csr), Place: p,
	})
	if err != nil {
		return nil, record{}, err
	}
	r := record{Phase: joining, Place: placeOf(p), Directory: welcome.Directory}
	if err := m.save(r); err != nil {
		return nil, r, err
	}
	identity, err := trust.Accept(m.hostDir(), trust.Grant{Chain: welcome.Chain, Host: p.Name, CA: token.CA}, m.opt.Now)
	return identity, r, err
}
