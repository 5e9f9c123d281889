package netconf_test

import (
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/go-quicktest/qt"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/vishvananda/netlink"

	"github.com/snapctl/snapctl/testenv"
	"github.com/snapctl/snapctl/testenv/leak"
	"github.com/snapctl/snapctl/vem/netconf"
	"github.com/snapctl/snapctl/vem/netns"
)

func TestMain(m *testing.M) { os.Exit(leak.Main(m)) }

var standard = netconf.Standard{
	Device: "eth0", Addresses: []netip.Addr{netip.MustParseAddr("10.77.0.9"), netip.MustParseAddr("fd77::9")},
	Gateways: []netip.Addr{netip.MustParseAddr("169.254.1.1"), netip.MustParseAddr("fe80::1")},
	Sysctls:  map[string]string{"ipv4/ip_unprivileged_port_start": "0", "ipv6/conf/default/addr_gen_mode": "1"},
}

// world is a namespace as an app gets it. Its eth0 leads nowhere.
type world struct {
	t  *testing.T
	ns *netns.NS
}

func newWorld(t *testing.T) *world {
	t.Helper()
	testenv.Need(t, testenv.Root)
	ns, err := netns.New()
	qt.Assert(t, qt.IsNil(err))
	t.Cleanup(func() { qt.Check(t, qt.IsNil(ns.Close())) })
	other, err := netns.New()
	qt.Assert(t, qt.IsNil(err))
	t.Cleanup(func() { qt.Check(t, qt.IsNil(other.Close())) })
	w := &world{t, ns}
	qt.Assert(t, qt.IsNil(ns.Do(func() error {
		if err := os.WriteFile("/proc/sys/net/ipv6/conf/default/addr_gen_mode", []byte("1"), 0); err != nil {
			return err
		}
		return netlink.LinkAdd(&netlink.Veth{
			LinkAttrs: netlink.LinkAttrs{Name: "eth0", TxQLen: -1}, PeerName: "peer", PeerNamespace: netlink.NsFd(other.File().Fd()),
		})
	})))
	qt.Assert(t, qt.IsNil(other.Do(func() error {
		peer, err := netlink.LinkByName("peer")
		if err != nil {
			return err
		}
		return netlink.LinkSetUp(peer)
	})))
	w.sh(`ip link set lo up; echo 0 >/proc/sys/net/ipv4/ip_unprivileged_port_start
		ip link set eth0 up; ip addr add 10.77.0.9/32 dev eth0; ip addr add fd77::9/128 dev eth0 nodad
		ip neigh add 169.254.1.1 lladdr 02:00:00:00:00:01 dev eth0; ip neigh add fe80::1 lladdr 02:00:00:00:00:01 dev eth0
		ip route add default via 169.254.1.1 dev eth0 onlink; ip -6 route add default via fe80::1 dev eth0 onlink`)
	return w
}

// sh runs a shell in the world and returns what it prints.
func (w *world) sh(script string) string {
	w.t.Helper()
	var out []byte
	err := w.ns.Do(func() (err error) {
		// A child is in the namespace of the thread that starts it.
		out, err = exec.CommandContext(w.t.Context(), "bash", "-ec", script).CombinedOutput()
		return err
	})
	qt.Assert(w.t, qt.IsNil(err), qt.Commentf("%s", out))
	return strings.TrimSpace(string(out))
}

func (w *world) read() (netconf.Settings, []netconf.Missing) {
	w.t.Helper()
	s, missing, err := netconf.Read(w.ns, standard)
	qt.Assert(w.t, qt.IsNil(err))
	b, err := netconf.Encode(s)
	qt.Assert(w.t, qt.IsNil(err))
	s, err = netconf.Decode(b)
	qt.Assert(w.t, qt.IsNil(err))
	return s, missing
}

// TestStandardIsNobodys finds nothing in a namespace of which a program has changed nothing.
func TestStandardIsNobodys(t *testing.T) {
	s, missing := newWorld(t).read()
	qt.Check(t, qt.IsTrue(s.Empty()), qt.Commentf("%+v", s))
	qt.Check(t, qt.HasLen(missing, 0))
}

// TestSettingsComeBack compares what programs tell of a copy's namespace, and of that of a
// copy of the copy, with what they told of the original's.
func TestSettingsComeBack(t *testing.T) {
	for name, tt := range map[string]struct{ set, look string }{
		"sysctl": {
			"echo 77 >/proc/sys/net/core/somaxconn; echo '4096 5000 6000' >/proc/sys/net/ipv4/tcp_rmem; echo 1 >/proc/sys/net/ipv4/ip_forward; echo 2 >/proc/sys/net/ipv4/conf/eth0/rp_filter",
			"cd /proc/sys/net; cat core/somaxconn ipv4/tcp_rmem ipv4/ip_forward ipv4/conf/*/forwarding ipv4/conf/*/rp_filter",
		},
		"addresses": {
			"ip addr add 10.99.0.1/32 dev lo; ip addr add 10.98.0.1/24 brd + dev eth0; ip -6 addr add fd99::1/64 dev eth0 nodad",
			"ip -4 -o addr show | sed 's/^[0-9]*: //'; ip -6 -o addr show | sed 's/^[0-9]*: //;s/nodad//g;s/  */ /g'; ip route show",
		},
		"routes": {
			`ip route add 10.98.0.0/24 dev lo; ip route add 10.97.0.0/24 via 169.254.1.1 dev eth0 onlink metric 7; ip route add blackhole 10.96.0.0/16
			ip route add 10.95.0.0/24 table 100 nexthop via 169.254.1.1 dev eth0 onlink weight 2 nexthop dev lo; ip -6 route add fd98::/64 via fe80::1 dev eth0 metric 9
			ip route add 10.94.0.1/32 dev eth0 src 10.77.0.9 mtu 1000; ip route add 10.93.0.0/24 via 10.94.0.1`,
			"ip route show table all; ip -6 route show fd98::/64",
		},
		"rules":      {"ip rule add from 10.9.0.0/16 fwmark 7 table 100 priority 100; ip -6 rule add iif eth0 table 200", "ip rule; ip -6 rule"},
		"neighbours": {"ip neigh add 10.77.0.10 lladdr 02:00:00:00:00:07 dev eth0 nud permanent", "ip neigh show nud permanent | sort"},
		"devices": {
			`ip link add br0 type bridge; ip link add v0 mtu 1400 type veth peer name v1; ip link set v0 master br0; ip link set v0 up; ip link set v1 up; ip link set br0 up
			ip addr add 10.92.0.1/24 dev br0; ip addr add 10.92.0.2/32 dev v1`,
			// The kernel tells some time after a device is up that it is (net/core/link_watch.c).
			"for i in $(seq 1000); do ip -br link show up | grep -q DOWN || break; sleep 0.01; done; ip -br link | grep -v eth0 | sed 's/<.*//;s/@if[0-9]*//' | sort; ip -4 -br addr | grep -v eth0 | sort; bridge link | sed 's/^[0-9]*: //;s/cost.*//'",
		},
		"nftables": {
			`nft -f - <<N
table inet filter {
	set ports { type inet_service; flags interval; elements = { 22, 80-90 } }
	map where { type inet_service : verdict; elements = { 443 : jump web } }
	counter hits {
	}
	chain web {
		counter name hits accept
	}
	chain input {
		type filter hook input priority 0; policy accept;
		tcp dport @ports accept
		tcp dport vmap @where
		tcp dport { 1, 2, 3 } drop comment "few"
		ct state invalid reject
		limit rate 3/second log prefix "x"
	}
}
table ip nat {
	chain post {
		type nat hook postrouting priority 100;
		oifname "eth0" masquerade
	}
}
N`,
			"nft list ruleset",
		},
		"iptables": {
			`iptables -A INPUT -p tcp --dport 9999 -j REJECT; iptables -A INPUT -p tcp -m multiport --dports 1,2 -m comment --comment hi -j DROP
			iptables -P FORWARD DROP; ip6tables -A OUTPUT -p udp -m udp --dport 53 -j ACCEPT; iptables -t nat -A POSTROUTING -o eth0 -j MASQUERADE`,
			"iptables -S; iptables -t nat -S; ip6tables -S",
		},
	} {
		t.Run(name, func(t *testing.T) {
			from, to, third := newWorld(t), newWorld(t), newWorld(t)
			from.sh(tt.set)
			want := from.sh(tt.look)
			qt.Assert(t, qt.Not(qt.Equals(to.sh(tt.look), want)))
			s, missing := from.read()
			qt.Check(t, qt.HasLen(missing, 0))
			for range 2 { // the second time there is nothing to do
				errs, err := s.Apply(to.ns)
				qt.Assert(t, qt.IsNil(err))
				qt.Check(t, qt.HasLen(errs, 0), qt.Commentf("%v", errs))
				qt.Check(t, qt.Equals(to.sh(tt.look), want))
			}
			again, _ := to.read()
			errs, err := again.Apply(third.ns)
			qt.Assert(t, qt.IsNil(err))
			qt.Check(t, qt.HasLen(errs, 0))
			qt.Check(t, qt.Equals(third.sh(tt.look), want))
		})
	}
}

// TestMissingIsNamed names what it does not keep.
func TestMissingIsNamed(t *testing.T) {
	w := newWorld(t)
	w.sh(`ip link add mv0 link eth0 type macvlan; ip addr add 10.91.0.1/24 dev mv0; ip link set mv0 up; ip route del default; tc qdisc add dev eth0 root tbf rate 1mbit burst 32kbit latency 400ms`)
	s, missing := w.read()
	qt.Check(t, qt.HasLen(s.Addresses, 0))
	qt.Check(t, qt.HasLen(s.Messages, 0))
	qt.Check(t, qt.CmpEquals(missing, []netconf.Missing{
		{What: "network device mv0 (macvlan)", Device: "mv0", Addresses: []netip.Addr{netip.MustParseAddr("10.91.0.1")}},
		{What: "default route: the app has removed it, and copies have it"},
		{What: "queueing discipline tbf of network device eth0 (tc qdisc)"},
	}, cmpopts.EquateComparable(netip.Addr{})))
}

// TestWhatCannotBeSet is told by name, and the rest is set.
func TestWhatCannotBeSet(t *testing.T) {
	from, to := newWorld(t), newWorld(t)
	from.sh("ip link add v0 type veth peer name v1; ip link set v0 up; ip link set v1 up; ip route add 10.90.0.0/24 dev v0; echo 77 >/proc/sys/net/core/somaxconn")
	s, _ := from.read()
	s.Links = nil
	errs, err := s.Apply(to.ns)
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.HasLen(errs, 1))
	qt.Check(t, qt.ErrorMatches(errs[0], `route 10.90.0.0/24 dev v0: there is no device "v0"`))
	qt.Check(t, qt.Equals(to.sh("cat /proc/sys/net/core/somaxconn"), "77"))
}

// FuzzDecode reads anything: it is refused, or can be written again.
func FuzzDecode(f *testing.F) {
	b, err := netconf.Encode(netconf.Settings{Sysctls: map[string]string{"core/somaxconn": "1"}, Messages: []netconf.Message{{Type: 24, Data: make([]byte, 12)}}})
	qt.Assert(f, qt.IsNil(err))
	f.Add(b)
	f.Add([]byte(`{"version":1,"sysctls":{"../../kernel/core_pattern":"x"}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := netconf.Decode(b)
		if err != nil {
			qt.Assert(t, qt.ErrorIs(err, netconf.ErrMalformed))
			return
		}
		again, err := netconf.Encode(s)
		qt.Assert(t, qt.IsNil(err))
		_, err = netconf.Decode(again)
		qt.Assert(t, qt.IsNil(err))
	})
}
