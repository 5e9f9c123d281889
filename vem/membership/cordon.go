package membership

import (
	"context"
	"errors"
	"fmt"

	"github.com/containerd/errdefs"

	"github.com/snapctl/snapctl/vem/directory"
)

// SetCordoned has a host, "" for this one, take no apps of other hosts from now on, or take them again. It returns
// an error wrapping errdefs.ErrNotFound if there is no such host in the installation.
func (m *Membership) SetCordoned(ctx context.Context, host string, cordoned bool) (*Host, error) {
	s, err := m.member()
	if err != nil {
		return nil, err
	}
	if host == "" {
		host = s.identity.Host()
	}
	d, err := s.directory(ctx)
	if err != nil {
		return nil, err
	}
	if err := d.SetCordoned(ctx, host, cordoned); err != nil {
		if _, none := errors.AsType[*directory.HostError](err); none {
			return nil, fmt.Errorf("host %s: %w", host, errdefs.ErrNotFound)
		}
		return nil, err
	}
	all, err := m.List(ctx)
	for i := range all {
		if all[i].Name == host {
			return &all[i], err
		}
	}
	return nil, err
}

// TakesApps returns why this host takes no apps of other hosts: an *[Error] if it is cordoned. known are the hosts
// as they are known when the directory can't be asked.
func (m *Membership) TakesApps(ctx context.Context, known []directory.Host) error {
	s := m.self.Load()
	if s == nil {
		return Alone()
	}
	name := s.identity.Host()
	var now directory.Host
	d, err := s.directory(ctx)
	if err == nil {
		now, err = d.Host(ctx, name)
	}
	for _, h := range known {
		if err != nil && h.Name == name {
			now = h
		}
	}
	if !now.Cordoned {
		return nil
	}
	return &Error{
		Text:   fmt.Sprintf("host %s is cordoned: it takes no apps of other hosts", name),
		Remedy: fmt.Sprintf("choose another host, or have it take them again: snapctl host uncordon %s", name),
	}
}
