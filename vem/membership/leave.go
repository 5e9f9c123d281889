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
// If the daemon is killed meanwhile the next one goes on, see [Membership.Depart].
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
	return m.leave(ctx, s, force)
}

// Departing tells whether an earlier daemon was killed while this host left its installation, and whether
// the others were told for sure.
func (m *Membership) Departing() (yes, told bool) {
	s := m.self.Load()
	if s == nil || s.record.Phase == joined {
		return false, false
	}
	return true, s.record.Phase == left
}

// Depart goes on with what an earlier daemon had begun when it was killed while this host left its
// installation: until then it is a host of it. It returns an *[Error] if the host can't leave any more, and
// stays; and any other error if it is to be called again.
func (m *Membership) Depart(ctx context.Context) error {
	select {
	case m.turn <- struct{}{}:
		defer func() { <-m.turn }()
	case <-ctx.Done():
		return ctx.Err()
	}
	s := m.self.Load()
	switch {
	case s == nil || s.record.Phase == joined:
		return nil
	case s.record.Phase == left:
		return m.departed(ctx, s)
	}
	return m.leave(ctx, s, s.record.Force)
}

// leave tells the others, and forgets all. The caller has the turn.
func (m *Membership) leave(ctx context.Context, s *member, force bool) error {
	err := m.takeLeave(ctx, s, force)
	if err != nil && IsUnavailable(err) && m.opt.Refused != nil && m.opt.Refused(ctx) {
		err = nil // it has left: the directory ends its connections before it can say so
	}
	if err != nil {
		if !force {
			return m.stay(s, err)
		}
		m.opt.Log.WarnContext(ctx, "this host leaves its installation by force", slog.Any("error", err))
	}
	if err := m.Step(ctx, leaveTold); err != nil {
		return err
	}
	r := s.record
	r.Phase = left
	if err := m.save(r); err != nil {
		return err
	}
	if err := m.Step(ctx, leaveLeft); err != nil {
		return err
	}
	return m.departed(ctx, s)
}

// stay has this host be a member as before, since it can't leave for a reason. If nobody knows whether the
// others were told, it is found out again.
func (m *Membership) stay(s *member, why error) error {
	if IsUnavailable(why) && s.record.Phase == leaving {
		if known, ok := errors.AsType[*Error](why); ok {
			why = known.Err
		}
		return fmt.Errorf("leave the installation: %w", why)
	}
	next := s.again()
	next.record.Phase, next.record.Force = joined, false
	if err := m.save(next.record); err != nil {
		return errors.Join(why, err)
	}
	m.self.Store(next)
	return why
}

// departed forgets what this host was.
func (m *Membership) departed(ctx context.Context, s *member) error {
	m.self.Store(nil)
	m.tell()
	return errors.Join(m.forget(ctx), s.store.Close())
}

// The steps of Leave.
const (
	leaveBegun = "leave.begun" // it is written that this host leaves, and nobody was told
	leaveTold  = "leave.told"  // others refuse it, and it has not written that
	leaveLeft  = "leave.left"  // it has, and all is there still
)

// The steps of taking an app over from a dead host, which is not done here.
const (
	TakeoverBegun = "takeover.begun" // it may be, and nothing is written
	TakeoverTold  = "takeover.told"  // the directory has it, and this host has not written that
	TakeoverKept  = "takeover.kept"  // it has, and has not asked the directory whether its copy may send
)

// Steps are the names with which [Options.Step] is called.
func Steps() []string {
	return []string{leaveBegun, leaveTold, leaveLeft, TakeoverBegun, TakeoverTold, TakeoverKept}
}

// Step calls [Options.Step], if there is one.
func (m *Membership) Step(ctx context.Context, name string) error {
	if m.opt.Step == nil {
		return nil
	}
	return m.opt.Step(ctx, name)
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
	r := s.record
	r.Phase, r.Force = leaving, force
	if err := m.save(r); err != nil {
		return err
	}
	if err := m.Step(ctx, leaveBegun); err != nil {
		return err
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
