package relocate

import (
	"context"
	"crypto/tls"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/snapctl/snapctl/vem/devices"
	"github.com/snapctl/snapctl/vem/directory/cache"
	"github.com/snapctl/snapctl/vem/membership"
	"github.com/snapctl/snapctl/vem/peering"
)

// Check returns a [*membership.Error] if this host can't be at some addresses: one that it does not
// have, or has twice.
func Check(list []membership.Address) error {
	for i, a := range list {
		if slices.ContainsFunc(list[:i], func(b membership.Address) bool { return a.Addr == b.Addr }) {
			return &membership.Error{Text: fmt.Sprintf("address %s is given twice", a.Addr), Remedy: "give it once"}
		}
	}
	missing, err := devices.Missing(list)
	if err != nil || len(missing) == 0 {
		return err
	}
	what := missing[0].Addr.String()
	if missing[0].Device != "" {
		what += " on device " + missing[0].Device
	}
	here, err := devices.Addresses()
	if err != nil {
		return err
	}
	var has []string
	for _, a := range here {
		has = append(has, a.Addr.String()+"%"+a.Device)
	}
	return &membership.Error{
		Text:   "this host has no address " + what + ", or its device is down",
		Remedy: "give one that it has: " + strings.Join(has, ", "),
	}
}

// answerTime is how long a host may take to answer.
const answerTime = 2 * time.Second

// Answered looks whether other hosts, which are alive, reach this one at some addresses: it connects to
// their control channels from each of them, by what TLS says of a host. It returns what is wrong, as
// notes; and a [*membership.Error] if none of the hosts is reached at all, since this one would be cut
// off. A link-local address is not looked at.
func Answered(ctx context.Context, list []membership.Address, hosts map[string][]netip.AddrPort, tlsOf func(host string) *tls.Config) (notes []string, err error) {
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	var mu sync.Mutex // guards what follows
	byAddr, byHost := make(map[netip.Addr]bool), make(map[string]bool)
	var wait sync.WaitGroup
	local := slices.DeleteFunc(slices.Clone(list), func(a membership.Address) bool { return a.Addr.IsLinkLocalUnicast() })
	for _, a := range local {
		for name, at := range hosts {
			for _, to := range at {
				if to.Addr().Is4() != a.Addr.Is4() {
					continue
				}
				wait.Go(func() {
					from := &net.Dialer{LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(a.Addr, 0))}
					d := tls.Dialer{NetDialer: from, Config: tlsOf(name).Clone()}
					d.Config.NextProtos = []string{"h2"} // as hosts have it that have something to say
					c, err := d.DialContext(ctx, "tcp", to.String())
					if err != nil {
						return
					}
					_ = c.Close() // nothing was said
					mu.Lock()
					defer mu.Unlock()
					byAddr[a.Addr], byHost[name] = true, true
				})
			}
		}
	}
	wait.Wait()
	if len(hosts) == 0 || len(local) == 0 {
		return nil, nil
	}
	if len(byHost) == 0 {
		return nil, &membership.Error{
			Text:   "no other host answers from these addresses, and there are some that are alive: nothing is changed",
			Remedy: "keep an address that works among them; see that the network between the hosts carries packets of the new ones",
		}
	}
	for _, a := range local {
		if !byAddr[a.Addr] {
			notes = append(notes, fmt.Sprintf("no other host answers from %s: it is of no use yet", a.Addr))
		}
	}
	for name := range hosts {
		if !byHost[name] {
			notes = append(notes, fmt.Sprintf("host %s answers from none of these addresses", name))
		}
	}
	slices.Sort(notes)
	return notes, nil
}

// Alive are the hosts that are seen, but for one, with where they are asked.
func Alive(c *cache.Cache, but string) map[string][]netip.AddrPort {
	all := make(map[string][]netip.AddrPort)
	if c == nil {
		return all
	}
	for _, h := range c.Hosts() {
		if h.Name == but || h.Removed || !c.Seen(h.Name) {
			continue
		}
		for _, u := range h.Underlays {
			all[h.Name] = append(all[h.Name], netip.AddrPortFrom(u.Addr, h.Port))
		}
	}
	return all
}

// Stay are those of some hosts whose channels begin at one of some addresses of this host.
func Stay(p *peering.Peering, hosts map[string][]netip.AddrPort, at []netip.Addr) (names []string) {
	for name := range hosts {
		if slices.ContainsFunc(slices.Collect(maps.Keys(p.Ways(name))), func(w peering.Way) bool { return slices.Contains(at, w.Local) }) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}
