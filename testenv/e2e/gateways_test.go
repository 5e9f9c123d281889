package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/go-quicktest/qt"

	"github.com/snapctl/snapctl/runtime/api"
	"github.com/snapctl/snapctl/testenv/host"
	"github.com/snapctl/snapctl/testenv/underlay"
)

// plant is a network with a machine that knows nothing of snapctl, and a router that all hosts of an
// installation are on another network with.
type plant struct {
	hs              *hosts
	machine, router *host.Host
	addr4, addr6    netip.Addr // the machine's
	ports           []*underlay.Port
}

const (
	plant4, plant6 = "203.0.113.0/24", "2001:db8:7::/64"
	apps4, apps6   = "10.77.0.0/16", "fd77:736e:6170::/64"
)

func (hs *hosts) plant() *plant {
	hs.t.Helper()
	p := &plant{hs: hs, machine: host.New(hs.t, host.Config{Name: "machine"}), router: host.New(hs.t, host.Config{Name: "router"})}
	inside, office := hs.network("plant", plant4, plant6), hs.network("office", "198.18.0.0/24", "2001:db8:8::/64")
	at, door, out := hs.attach(inside, p.machine), hs.attach(inside, p.router), hs.attach(office, p.router)
	p.addr4, p.addr6 = at.Addr4(), at.Addr6()
	for name, value := range map[string]string{
		"ipv4/ip_forward": "1", "ipv6/conf/all/forwarding": "1", "ipv4/conf/all/rp_filter": "0", "ipv4/conf/" + out.Device() + "/rp_filter": "0", "ipv4/conf/" + door.Device() + "/rp_filter": "0",
	} {
		qt.Assert(hs.t, qt.IsNil(p.router.Do(func() error { return os.WriteFile("/proc/sys/net/"+name, []byte(value), 0) })))
	}
	p.ip(p.machine, "route", "add", "default", "via", door.Addr4().String())
	p.ip(p.machine, "route", "add", "default", "via", door.Addr6().String())
	for _, w := range hs.worlds {
		port := hs.attach(office, w.Host)
		hs.t.Cleanup(func() { qt.Check(hs.t, qt.IsNil(port.Remove())) })
		p.ip(w.Host, "route", "add", plant4, "via", out.Addr4().String())
		p.ip(w.Host, "route", "add", plant6, "via", out.Addr6().String())
		p.ports = append(p.ports, port)
	}
	path, err := p.machine.Install(hs.t.Context(), "actor")
	qt.Assert(hs.t, qt.IsNil(err))
	cmd := p.machine.Command(context.WithoutCancel(hs.t.Context()), path, "--tcp", ":7000")
	qt.Assert(hs.t, qt.IsNil(cmd.Start()))
	hs.t.Cleanup(func() {
		qt.Check(hs.t, qt.IsNil(errors.Join(cmd.Process.Signal(syscall.SIGTERM), cmd.Wait())))
	})
	return p
}

func (p *plant) ip(h *host.Host, args ...string) {
	p.hs.t.Helper()
	r, err := host.Run(h.Command(p.hs.t.Context(), "ip", args...))
	qt.Assert(p.hs.t, qt.IsNil(err))
	qt.Assert(p.hs.t, qt.Equals(r.Code, 0), qt.Commentf("%s: ip %v: %s", h.Name(), args, r.Stderr))
}

// by has the router lead the virtual network to a host.
func (p *plant) by(i int) {
	p.hs.t.Helper()
	p.ip(p.router, "route", "replace", apps4, "via", p.ports[i].Addr4().String())
	p.ip(p.router, "route", "replace", apps6, "via", p.ports[i].Addr6().String())
}

// call connects to an app, or to a port of a host, from the machine.
func (p *plant) call(address string) *caller {
	p.hs.t.Helper()
	return p.hs.worlds[0].from(p.machine, "tcp", address)
}

// seen is the address that an app sees somebody at.
func seen(c *caller) string {
	c.t.Helper()
	at, err := netip.ParseAddrPort(c.ask("peer"))
	qt.Assert(c.t, qt.IsNil(err))
	return at.Addr().Unmap().String()
}

// other is a gateway as another host shows it.
type other struct {
	Host      string
	Advertise []string
	Alive     bool
}

// knows waits until a host knows these gateways on others.
func (hs *hosts) knows(w *World, want ...other) {
	hs.t.Helper()
	ctx, cancel := context.WithTimeout(hs.t.Context(), time.Minute)
	defer cancel()
	for {
		var shown struct{ Others []other }
		r := hs.ok(w, "host", "gateway", "show", "-o", "json")
		qt.Assert(hs.t, qt.IsNil(json.Unmarshal([]byte(r.Stdout), &shown)))
		if slices.EqualFunc(shown.Others, want, func(a, b other) bool {
			return a.Host == b.Host && a.Alive == b.Alive && slices.Equal(a.Advertise, b.Advertise)
		}) {
			return
		}
		select {
		case <-ctx.Done():
			hs.t.Fatalf("%s knows of %+v, want %+v", w.Name(), shown.Others, want)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// TestGateways has a machine that keeps its addresses reach apps of three hosts by two gateways, of
// which first one is switched off, and then the other one is cut off: its connections go on.
func TestGateways(t *testing.T) {
	hs := newInstallation(t, "alpha", "beta", "gamma")
	p := hs.plant()
	alpha, beta, gamma := hs.worlds[0], hs.worlds[1], hs.worlds[2]
	on := []string{"host", "gateway", "on", "--advertise", plant4, "--advertise", plant6}
	advertised := []string{plant4, plant6}

	for wrong, want := range map[string]string{
		"10.77.3.0/24": "it overlaps network default", "192.0.2.0/24": "it overlaps the underlay of", "0.0.0.0/0": "no prefix of other machines", "203.0.113.9/24": "is 203.0.113.0/24 meant",
	} {
		r := beta.CLI("host", "gateway", "on", "--advertise", wrong)
		qt.Check(t, qt.Equals(r.Code, 1))
		qt.Check(t, qt.StringContains(r.Stderr, want))
	}
	apps := make(map[string]*api.App)
	for _, w := range hs.worlds {
		apps[w.Name()] = w.actor(&api.RunRequest{Name: "web-" + w.Name(), Publish: []*api.Publication{{Protocol: "tcp", HostPort: hostPorts[w.Name()], Port: 7000}}})
	}
	qt.Check(t, qt.StringContains(hs.ok(beta, on...).Stdout, "its machines keep their addresses"))
	hs.ok(gamma, on...)
	both := []other{{"beta", advertised, true}, {"gamma", advertised, true}}
	hs.knows(alpha, both...)
	hs.knows(beta, both[1])
	hs.knows(gamma, both[0])
	qt.Check(t, qt.StringContains(hs.ok(beta, "host", "gateway", "show").Stdout, "also by gamma"))

	// Whichever way its packets come by: answers take beta, from hosts that are no gateways.
	var open []*caller
	for i := range []int{1, 2} {
		p.by(i + 1)
		for name, app := range apps {
			for to, own := range map[string]netip.Addr{app.GetEndpoint(): p.addr4, app.GetEndpoint6(): p.addr6} {
				c := p.call(net.JoinHostPort(to, "7000"))
				qt.Check(t, qt.Equals(seen(c), own.String()), qt.Commentf("%s", name))
				back := c.ask("dial tcp %s peer", net.JoinHostPort(own.String(), "7000"))
				at, err := netip.ParseAddrPort(back)
				qt.Assert(t, qt.IsNil(err), qt.Commentf("%s", back))
				qt.Check(t, qt.Equals(at.Addr().Unmap().String(), to))
				open = append(open, c)
			}
		}
	}
	goesOn := func(when string, list ...*caller) {
		t.Helper()
		for i, c := range list {
			qt.Assert(t, qt.Equals(c.ask("echo %d", i), fmt.Sprint(i)), qt.Commentf("%s", when))
		}
	}
	goesOn("by the other gateway", open...)
	alpha.Hibernate("web-alpha")
	goesOn("after a hibernation", open...)

	for _, kind := range []string{"wireguard", "vxlan", "auto"} {
		hs.set(alpha, kind)
		goesOn("by channels of kind "+kind, open...)
	}

	// By published ports it is seen as a host, since an answer could come by another one.
	hs.published4(p, alpha)
	for i, w := range hs.worlds {
		for name := range apps {
			at := map[netip.Addr]string{p.ports[i].Addr4(): apps4, p.ports[i].Addr6(): apps6}
			for a, prefix := range at {
				c := p.call(net.JoinHostPort(a.String(), fmt.Sprint(hostPorts[name])))
				qt.Check(t, qt.IsTrue(netip.MustParsePrefix(prefix).Contains(netip.MustParseAddr(seen(c)))), qt.Commentf("port of %s at %s of %s", name, a, w.Name()))
				if w == beta && a.Is6() { // it ends with the gateway
					c.close()
					continue
				}
				open = append(open, c)
			}
		}
	}
	goesOn("by published ports", open...)

	// The one that answers take is a gateway no more: all goes on by the other one.
	hs.ok(beta, "host", "gateway", "off")
	goesOn("beta is switched off", open...)
	hs.knows(alpha, both[1])
	goesOn("alpha knows", open...)
	hs.ok(beta, on...)
	hs.knows(alpha, both...)
	goesOn("beta is back", open...)

	for _, w := range hs.worlds { // nothing depends on a daemon
		qt.Assert(t, qt.IsNil(w.RestartDaemon(t.Context(), syscall.SIGKILL, host.Daemon{})))
		w.Dial()
		goesOn("daemon of "+w.Name()+" killed", open...)
	}

	// It fails, with all that it has: its app, and what was opened by its ports.
	lost := []*underlay.Port{hs.eth0[1], hs.eth1[1], p.ports[1]}
	for _, port := range lost {
		qt.Assert(t, qt.IsNil(port.Cut(underlay.Both)))
	}
	var live []*caller
	for _, c := range open {
		local, _ := netip.ParseAddrPort(c.conn.RemoteAddr().String())
		at := local.Addr().Unmap().String()
		ofBeta := at == apps["beta"].GetEndpoint() || at == apps["beta"].GetEndpoint6() || local.Port() == uint16(hostPorts["beta"])
		if !ofBeta && at != p.ports[1].Addr4().String() {
			live = append(live, c)
		}
	}
	hs.knows(alpha, other{"beta", advertised, false}, both[1])
	goesOn("beta has failed", live...)
	qt.Check(t, qt.Equals(seen(p.call(net.JoinHostPort(apps["alpha"].GetEndpoint(), "7000"))), p.addr4.String()))
	for _, port := range lost {
		qt.Assert(t, qt.IsNil(port.Mend(underlay.Both)))
	}
	hs.knows(alpha, both...)
	goesOn("beta is there again", open...)

	for _, c := range open {
		c.close()
	}
	for _, w := range []*World{beta, gamma} {
		hs.ok(w, "host", "gateway", "off")
	}
	hs.knows(alpha)
}

// hostPorts are the ports that apps publish, by their hosts.
var hostPorts = map[string]uint32{"alpha": 8001, "beta": 8002, "gamma": 8003}

// published4 waits until each app's port leads to it at all hosts.
func (hs *hosts) published4(p *plant, w *World) {
	hs.t.Helper()
	for _, port := range p.ports {
		for _, number := range hostPorts {
			w.from(p.machine, "tcp", net.JoinHostPort(port.Addr4().String(), fmt.Sprint(number))).close()
		}
	}
}
