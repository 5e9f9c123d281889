package installation

import (
	"context"
	"errors"
	"fmt"

	"github.com/snapctl/snapctl/vem/control/message"
	"github.com/snapctl/snapctl/vem/directory"
	"github.com/snapctl/snapctl/vem/membership"
	"github.com/snapctl/snapctl/vem/overview"
)

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
		h.Hosts[host] = overview.HostHealth{Since: p.seen.Of(host), Control: p.control(host)}
	}
	return h
}

// knownHosts are those that the directory is known to have.
func (i *Installation) knownHosts() []directory.Host {
	p := i.part.Load()
	if p == nil {
		return nil
	}
	c := p.cache.Load()
	if c == nil {
		return nil
	}
	return c.Hosts()
}

// hostNames are those of the other hosts, as far as they are known.
func (i *Installation) hostNames() (list []string) {
	p := i.part.Load()
	for _, h := range i.knownHosts() {
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
			return all, err
		}
	}
	seen := make(map[string]bool)
	for _, h := range c.Hosts() {
		seen[h.Name] = c.Seen(h.Name)
	}
	return i.Show(c.Hosts(), seen, c.Endpoints()), nil
}
