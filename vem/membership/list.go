package membership

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/snapctl/snapctl/vem/directory"
	"github.com/snapctl/snapctl/vem/trust"
)

// List returns the hosts of the installation, also those that were removed, in the order of
// names; none if this host is in no installation.
func (m *Membership) List(ctx context.Context) ([]Host, error) {
	s := m.self.Load()
	if s == nil {
		return nil, nil
	}
	d, err := s.directory(ctx)
	if err != nil {
		return nil, err
	}
	hosts, err := d.Hosts(ctx)
	if err != nil {
		return nil, err
	}
	seen, err := d.Seen(ctx)
	if err != nil {
		return nil, err
	}
	all, err := d.Endpoints(ctx)
	if err != nil {
		return nil, err
	}
	return m.Show(hosts, seen, all), nil
}

// Show returns what is known of hosts: which of them are seen, and which endpoints there are; nothing
// if this host is in no installation, or has left it meanwhile.
func (m *Membership) Show(hosts []directory.Host, seen map[string]bool, all []directory.Endpoint) (list []Host) {
	s, owned := m.self.Load(), count(all)
	if s == nil {
		return nil
	}
	for _, h := range hosts {
		host := m.show(h, s)
		host.Endpoints = owned[h.Name]
		switch {
		case h.Removed:
			host.Health = Removed
		case host.Self, seen[h.Name]:
			host.Health = Up
		default:
			host.Health = Silent
		}
		list = append(list, *host)
	}
	return list
}

// count counts the endpoints of each host.
func count(all []directory.Endpoint) map[string]int {
	owned := make(map[string]int)
	for _, e := range all {
		if !e.OfHost() {
			owned[e.Owner]++
		}
	}
	return owned
}

// endpoints counts those of each host, without the ones that hosts themselves have.
func endpoints(ctx context.Context, d *directory.Directory) (map[string]int, error) {
	all, err := d.Endpoints(ctx)
	if err != nil {
		return nil, err
	}
	return count(all), nil
}

// show turns what the directory says of a host into a Host.
func (m *Membership) show(h directory.Host, s *member) *Host {
	host := &Host{
		Name: h.Name, Self: h.Name == s.identity.Host(), Port: h.Port, Version: h.Release, Key: h.Key,
		JoinedAt: h.JoinedAt, Installation: string(s.identity.Installation()),
		Roles: Roles{Directory: len(h.Member) > 0 && !h.Removed, CA: h.CA && !h.Removed, Cordoned: h.Cordoned && !h.Removed},
	}
	for _, u := range h.Underlays {
		host.Addresses = append(host.Addresses, Address{Addr: u.Addr, Device: u.Interface, Priority: u.Priority})
	}
	if host.Self {
		host.Certificate, host.Private = s.identity.Expires(), slices.Clone(s.record.Private)
	}
	return host
}

// Remove takes a host out of the installation: other hosts refuse it from then on. force removes
// it although it owns endpoints, which then have to be taken over. A host that was removed
// already may be removed again.
func (m *Membership) Remove(ctx context.Context, name string, force bool) error {
	s, err := m.member()
	if err != nil {
		return err
	}
	if name == s.identity.Host() {
		return &Error{Text: "this host can't remove itself", Remedy: "remove it on another host"}
	}
	d, err := s.directory(ctx)
	if err != nil {
		return err
	}
	owned, err := endpoints(ctx, d)
	if err != nil {
		return err
	}
	if n := owned[name]; n > 0 && !force {
		return &Error{
			Text:   fmt.Sprintf("host %s owns %d endpoints", name, n),
			Remedy: "move its apps to other hosts first; if it is gone for good remove it with --force, and take its apps over",
		}
	}
	h, err := d.Host(ctx, name)
	if err != nil {
		return err
	}
	if m.opt.Leaving != nil {
		if err := m.opt.Leaving(ctx, h); err != nil {
			return err
		}
	}
	if err := d.RemoveHost(ctx, name); err != nil {
		return err
	}
	if m.opt.Removed != nil {
		m.opt.Removed(name)
	}
	return nil
}

// Check returns what refuses removed hosts at each handshake. known tells what is known of a host
// without asking the directory. A host that is not known is not refused: it may have joined a
// moment ago, and its certificate says that it was let in.
func Check(known func(host string) (directory.Host, bool)) trust.Check {
	return func(p trust.Peer) error {
		h, ok := known(p.Host)
		switch {
		case !ok:
			return nil
		case h.Removed:
			return trust.ErrRemoved
		case h.Key != string(p.Member):
			return fmt.Errorf("%w: it is an earlier host of this name", trust.ErrRemoved)
		}
		return nil
	}
}

// IsUnavailable tells whether an error is that the directory can't be reached: all that works
// without it goes on.
func IsUnavailable(err error) bool { return errors.Is(err, directory.ErrUnavailable) }
