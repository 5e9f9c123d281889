package redirect_test

import (
	"bufio"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"testing"

	"github.com/go-quicktest/qt"

	"github.com/snapctl/snapctl/vem/channel"
	"github.com/snapctl/snapctl/vem/channel/redirect"
	"github.com/snapctl/snapctl/vem/fabric"
	"github.com/snapctl/snapctl/vem/fabric/tcx"
	"github.com/snapctl/snapctl/vem/netns"
)

// ownerVar tells a process that runs TestOwner which host's network it opens: the host's
// namespace, and the fabric's folder.
const (
	ownerNS  = "CHANNEL_OWNER_NS"
	ownerDir = "CHANNEL_OWNER_DIR"
)

// TestOwner is no test but the process that TestKilled kills.
func TestOwner(t *testing.T) {
	path := os.Getenv(ownerNS)
	if path == "" {
		return
	}
	ns, err := netns.Open(path)
	qt.Assert(t, qt.IsNil(err))
	f, err := fabric.Open(t.Context(), fabric.Config{
		Network: "default", Prefix4: prefix4, Prefix6: prefix6, Dir: os.Getenv(ownerDir), Host: ns, MTU: networkMTU,
	})
	qt.Assert(t, qt.IsNil(err))
	far, err := f.Far()
	qt.Assert(t, qt.IsNil(err))
	m, err := redirect.Open(t.Context(), redirect.Config(far))
	qt.Assert(t, qt.IsNil(err))
	hosts, err := m.Hosts(t.Context())
	qt.Assert(t, qt.IsNil(err))
	fmt.Fprintln(os.Stdout, "owns", len(hosts))
	_, err = bufio.NewReader(os.Stdin).ReadString('\n') // until it is killed
	t.Fatalf("stdin ended: %v", err)
}

// A process that has installed its programs over those of another one is killed, again and
// again. Traffic does not notice, and the next one finds everything.
func TestKilled(t *testing.T) {
	w := newWorld(t, "192.0.2.0/24")
	w.use(0, channel.Tunnel)
	a, b := w.attach(w.alpha, endpoint(2)), w.attach(w.beta, endpoint(3))
	serve(t, b)
	l := load(t, a, b.ep.Addr4)
	for range 3 {
		for _, p := range []*place{w.alpha, w.beta} {
			p.close(t)
			owner := exec.Command(os.Args[0], "-test.run=^TestOwner$")
			owner.Env = append(os.Environ(), fmt.Sprintf("%s=/proc/%d/ns/net", ownerNS, p.KeeperPID()), ownerDir+"="+p.cfg.Dir)
			stdin, err := owner.StdinPipe()
			qt.Assert(t, qt.IsNil(err))
			stdout, err := owner.StdoutPipe()
			qt.Assert(t, qt.IsNil(err))
			qt.Assert(t, qt.IsNil(owner.Start()))
			line, err := bufio.NewReader(stdout).ReadString('\n')
			qt.Check(t, qt.IsNil(err))
			qt.Check(t, qt.Equals(line, "owns 1\n"))
			qt.Check(t, qt.IsNil(owner.Process.Kill()))
			qt.Check(t, qt.IsNotNil(owner.Wait()))
			stdin.Close()
			moved(t, l, 1<<20)
			p.open(t)
			moved(t, l, 1<<20)
		}
	}
	stop(t, l)
}

// A kernel that has no tcx carries packets as well, and traffic goes on when a release that uses
// it takes over from one that does not.
func TestWithoutTCX(t *testing.T) {
	with := tcx.Supported
	tcx.Supported = func() bool { return false }
	defer func() { tcx.Supported = with }()
	w := newWorld(t, "192.0.2.0/24")
	w.use(0, channel.Tunnel)
	a, b := w.attach(w.alpha, endpoint(2)), w.attach(w.beta, endpoint(3))
	serve(t, b)
	l := load(t, a, b.ep.Addr4)
	moved(t, l, 1<<20)
	tcx.Supported = with
	for _, p := range []*place{w.alpha, w.beta} {
		p.close(t)
		p.open(t)
		moved(t, l, 1<<20)
	}
	stop(t, l)
}

// Clones, which have the same address inside, talk to each other and to others over a channel,
// and errors about their packets get to them.
func TestClones(t *testing.T) {
	for _, kind := range []channel.Kind{channel.Direct, channel.Tunnel} {
		t.Run(kind.String(), func(t *testing.T) {
			w := newWorld(t, "192.0.2.0/24")
			w.use(0, kind)
			inside := endpoint(7)
			clone := func(n byte) fabric.Endpoint {
				e := endpoint(n)
				e.Inside4, e.Inside6 = inside.Addr4, inside.Addr6
				return e
			}
			a, b, plain := w.attach(w.alpha, clone(2)), w.attach(w.beta, clone(3)), w.attach(w.beta, endpoint(4))
			serve(t, b)
			serve(t, plain)
			for _, to := range []app{b, plain} {
				for _, addr := range []netip.Addr{to.ep.Addr4, to.ep.Addr6} {
					l := load(t, a, addr)
					moved(t, l, 1<<20)
					stop(t, l)
					d := newDatagrams(t, a, addr)
					qt.Assert(t, qt.IsNil(d.send(200)))
					d.refused()
				}
			}
		})
	}
}

// Two networks over one cable: each has its own endpoints, hosts and counters, and one goes
// without the other noticing.
func TestTwoNetworks(t *testing.T) {
	w := newWorld(t, "192.0.2.0/24")
	w.use(0, channel.Tunnel)
	a, b := w.attach(w.alpha, endpoint(2)), w.attach(w.beta, endpoint(3))
	serve(t, b)
	l := load(t, a, b.ep.Addr4)
	moved(t, l, 1<<20)
	cfg := w.beta.cfg
	cfg.Network, cfg.Prefix4, cfg.Prefix6 = "second", netip.MustParsePrefix("10.78.0.0/16"), netip.Prefix{}
	f, err := fabric.Open(t.Context(), cfg)
	qt.Assert(t, qt.IsNil(err))
	defer f.Close()
	far, err := f.Far()
	qt.Assert(t, qt.IsNil(err))
	m, err := redirect.Open(t.Context(), redirect.Config(far))
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.IsNil(m.SetUnderlay(t.Context(), w.underlay(w.beta))))
	qt.Assert(t, qt.IsNil(m.SetHost(t.Context(), w.host(w.beta, w.cables[0], channel.Tunnel))))
	moved(t, l, 1<<20)
	report, err := m.Report(t.Context())
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.Equals(report.Hosts["alpha"], channel.Counters{}))
	qt.Check(t, qt.Equals(report.Drops, channel.Drops{}))
	// The network goes without its channels, and what is left of them with the next Open.
	qt.Assert(t, qt.IsNil(m.Close()))
	qt.Assert(t, qt.IsNil(f.Delete(t.Context())))
	moved(t, l, 1<<20)
	w.beta.close(t)
	w.beta.open(t)
	moved(t, l, 1<<20)
	stop(t, l)
}
