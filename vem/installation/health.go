package installation

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"sync"
	"time"

	"github.com/snapctl/snapctl/vem/control/message"
	"github.com/snapctl/snapctl/vem/directory"
	"github.com/snapctl/snapctl/vem/membership"
	"github.com/snapctl/snapctl/vem/overview"
)

// sightings are when hosts came up, or fell silent.
type sightings struct {
	mu    sync.Mutex
	since map[string]time.Time
}

func (s *sightings) note(host string, _ bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.since == nil {
		s.since = make(map[string]time.Time)
	}
	s.since[host] = time.Now()
}

func (s *sightings) of(host string) time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.since[host]
}

// Health tells how it stands with the other hosts.
func (i *Installation) Health(context.Context) overview.Health {
	p := i.part.Load()
	if p == nil {
		return overview.Health{}
	}
	c := p.cache.Load()
	if c == nil {
		return overview.Health{Trouble: directory.ErrUnavailable}
	}
	h := overview.Health{Hosts: make(map[string]overview.HostHealth), Trouble: c.Freshness().Err}
	for _, host := range i.hostNames() {
		h.Hosts[host] = overview.HostHealth{Since: p.seen.of(host), Control: p.control(host)}
	}
	return h
}

// hostNames are those of the other hosts, as far as they are known.
func (i *Installation) hostNames() (list []string) {
	p := i.part.Load()
	if p == nil {
		return nil
	}
	c := p.cache.Load()
	if c == nil {
		return nil
	}
	for _, h := range c.Hosts() {
		if h.Name != p.identity.Host() && !h.Removed {
			list = append(list, h.Name)
		}
	}
	return list
}

// control is how it stands with the control channel to a host.
func (p *part) control(host string) overview.Control {
	s, ok := p.peers.Status(host)
	if !ok {
		return overview.Control{Err: fmt.Errorf("no address of host %s is known", host), Remedy: "wait until the directory tells one"}
	}
	c := overview.Control{Connected: s.Connected, Version: s.Greeting.Version, Err: s.Err}
	if s.Connected {
		c.Address, c.Since, c.Skew, c.RoundTrip = s.Address.To.String(), s.Since, s.Greeting.Skew, s.Greeting.RoundTrip
	}
	c.Remedy = remedy(s.Err)
	_, c.Incompatible = errors.AsType[*message.VersionError](s.Err)
	return c
}

// remedy is what to do about an error of the control channel; "" if that is not known.
func remedy(err error) string {
	var known interface{ Remedy() string }
	if errors.As(err, &known) {
		return known.Remedy()
	}
	return ""
}

// hosts are those of the installation, see [membership.Membership.List]. If the directory can't be
// asked now they are what this host knows of them.
func (i *Installation) hosts(ctx context.Context) ([]membership.Host, error) {
	p := i.part.Load()
	if p == nil {
		return i.Membership.List(ctx)
	}
	c := p.cache.Load()
	if c == nil || c.Freshness().Err == nil {
		all, err := i.Membership.List(ctx)
		if c == nil || !membership.IsUnavailable(err) {
			return i.withDirectory(all), err
		}
	}
	seen := make(map[string]bool)
	for _, h := range c.Hosts() {
		seen[h.Name] = c.Seen(h.Name)
	}
	return i.withDirectory(i.Show(c.Hosts(), seen, c.Endpoints())), nil
}

// withDirectory notes which hosts run a member of the directory: those at its addresses.
func (i *Installation) withDirectory(all []membership.Host) []membership.Host {
	at := make(map[string]bool)
	for _, text := range i.DirectoryURLs() {
		if u, err := url.Parse(text); err == nil {
			at[u.Hostname()] = true
		}
	}
	for n := range all {
		for _, a := range all[n].Addresses {
			all[n].Directory = all[n].Directory || at[a.Addr.String()]
		}
	}
	return all
}
