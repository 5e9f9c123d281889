package membership

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"slices"
	"strings"

	"github.com/snapctl/snapctl/vem/directory"
)

// Leave takes this host out of its installation: other hosts refuse it from then on, and it forgets
// certificate, CA and directory. Apps go on, alone. Returns an *[Error], and changes nothing, while
// the host owns endpoints, no other host has the CA, or the others can't be told; force leaves all
// the same.
//
// If the daemon is killed after the others were told the next one goes on.
func (m *Membership) Leave(ctx context.Context, force bool) error {
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
	err = m.takeLeave(ctx, s, force)
	if err != nil && IsUnavailable(err) && m.opt.Refused != nil && m.opt.Refused(ctx) {
		err = nil // it has left: the directory ends its connections before it can say so
	}
	if err != nil {
		if !force {
			return err
		}
		m.opt.Log.WarnContext(ctx, "this host leaves its installation by force", slog.Any("error", err))
	}
	r := s.record
	r.Phase = left
	if err := m.save(r); err != nil {
		return err
	}
	m.self.Store(nil)
	m.tell()
	return errors.Join(m.forget(ctx), s.store.Close())
}

// takeLeave tells the other hosts.
func (m *Membership) takeLeave(ctx context.Context, s *member, force bool) error {
	d, err := s.directory(ctx)
	if err != nil {
		return unheard(s, err)
	}
	hosts, err := d.Hosts(ctx)
	if err != nil {
		return unheard(s, err)
	}
	own, err := owned(ctx, d, s.identity.Host())
	if err != nil {
		return unheard(s, err)
	}
	if len(own) > 0 && !force {
		return &Error{
			Text:   fmt.Sprintf("host %s has apps that other hosts know of: %s", s.identity.Host(), strings.Join(own, ", ")),
			Remedy: "move or remove them first; --force leaves all the same: they go on here, and nobody else reaches them",
		}
	}
	at := slices.IndexFunc(hosts, func(h directory.Host) bool { return h.Name == s.identity.Host() })
	others := slices.DeleteFunc(slices.Clone(hosts), func(h directory.Host) bool { return h.Removed || h.Name == s.identity.Host() })
	switch {
	case at < 0 || hosts[at].Removed:
		return nil
	case len(others) == 0 && len(hosts[at].Member) > 0:
		return nil // the directory ends with the installation
	case len(others) > 0 && len(Signers(others)) == 0 && !force:
		return &Error{
			Text:   fmt.Sprintf("host %s is the only one that has the CA: no other could let hosts in any more", s.identity.Host()),
			Remedy: "have another host run the installation too: \"snapctl host init\" there; --force leaves all the same",
		}
	}
	if m.opt.Leaving != nil {
		if err := m.opt.Leaving(ctx, hosts[at]); err != nil {
			return err
		}
	}
	return d.RemoveHost(ctx, s.identity.Host())
}

// unheard is that the other hosts can't be told.
func unheard(s *member, err error) error {
	return &Error{
		Text: "tell the other hosts that this one leaves", Err: err,
		Remedy: fmt.Sprintf("--force leaves all the same; then another host has to remove it: \"snapctl host rm %s\"", s.identity.Host()),
	}
}

// maxNamed is how many apps an error names.
const maxNamed = 10

// owned names the apps whose endpoints a host owns.
func owned(ctx context.Context, d *directory.Directory, host string) (names []string, err error) {
	all, err := d.Endpoints(ctx)
	if err != nil {
		return nil, err
	}
	more := 0
	for _, e := range all {
		switch {
		case e.Owner != host || e.OfHost():
		case len(names) == maxNamed:
			more++
		case e.App != "":
			names = append(names, e.App)
		default:
			names = append(names, e.Addr.String())
		}
	}
	slices.Sort(names)
	if more > 0 {
		names = append(names, fmt.Sprintf("and %d more", more))
	}
	return names, nil
}

// forget removes what an installation has left on this host. It can be done again.
func (m *Membership) forget(ctx context.Context) error {
	if m.opt.Left != nil {
		if err := m.opt.Left(ctx); err != nil {
			return fmt.Errorf("leave the installation: %w", err)
		}
	}
	err := errors.Join(os.RemoveAll(m.hostDir()), os.RemoveAll(m.caDir()))
	if err == nil {
		if err = os.Remove(m.recordFile()); errors.Is(err, fs.ErrNotExist) {
			err = nil
		}
	}
	if err != nil {
		return fmt.Errorf("leave the installation: %w", err)
	}
	return nil
}
