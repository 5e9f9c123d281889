#!/usr/bin/env bash
# github.com/vishvananda/netlink v1.3.1: RuleAdd of what RuleList gave makes another rule of one
# that forbids, and RouteAdd of what RouteListFiltered gave another route.
#
# Expected: what is listed, removed and added again is as it was; or the library has an error
# for what it does not know.
# Seen: the rule "prohibit" comes back as "lookup 1", in a table that is empty, and so lets
# through what it forbade. The same for unreachable, blackhole and l3mdev. Of routes are lost:
# the tunnel of "encap ip", so that packets leave as they are; the source of "from", so that it
# is for all; "nhid", "pref", and all locks but that of the mtu. No error in any case.
#
# Why: Rule of v1.3.1 has a Type for what is sent, but RuleList leaves it at 0: without an
# type RuleAdd asks for a lookup (rule_linux.go), and the kernel takes a free table for one
# of number 0 (net/ipv4/fib_rules.c, fib4_rule_configure).
#
# What snapctl does: vem/netconf keeps the kernel's own messages, and not the library's structs.
# shellcheck source=findings/finding.bash
. "$(dirname "$0")/finding.bash"
go=$(scripts/deps go)
export GOFLAGS="-modcacherw -trimpath" GOMODCACHE=$tmp/modules CGO_ENABLED=0 GOWORK=off
mkdir "$tmp/main"
cd "$tmp/main"
cat >main.go <<'G'
package main

import (
	"fmt"
	"os"
	"os/exec"
	"strings"

	"github.com/vishvananda/netlink"
)

func ip(args string) string {
	out, err := exec.Command("ip", strings.Fields(args)...).CombinedOutput()
	if err != nil {
		fmt.Println("ip", args, err, string(out))
		os.Exit(1)
	}
	return strings.Join(strings.Fields(string(out)), " ")
}

func main() {
	ip("link set lo up")
	ip("link add eth0 type veth peer name eth1")
	ip("link set eth0 up")
	ip("link set eth1 up")
	ip("addr add 192.0.2.1/24 dev eth0")
	ip("-6 addr add 2001:db8::1/64 dev eth0 nodad")
	ip("nexthop add id 7 via 192.0.2.2 dev eth0")
	for _, rule := range []string{"lookup 9", "prohibit", "unreachable", "blackhole", "l3mdev"} {
		rule = "pref 77 " + rule
		ip("rule add " + rule)
		before := ip("rule show pref 77")
		all, err := netlink.RuleList(netlink.FAMILY_V4)
		ip("rule del " + rule)
		for i := range all {
			if all[i].Priority == 77 {
				err = netlink.RuleAdd(&all[i])
			}
		}
		fmt.Printf("%s | %s | %v\n", before, ip("rule show pref 77"), err)
		ip("rule del pref 77")
	}
	for _, route := range []string{"198.51.100.0/24 dev eth0 mtu lock 1300", "198.51.100.0/24 encap ip id 7 dst 192.0.2.4 dev eth0", "198.51.100.0/24 nhid 7",
		"198.51.100.0/24 dev eth0 cwnd lock 6", "-6 2001:db8:1::/64 from 2001:db8::/64 dev eth0", "-6 2001:db8:1::/64 pref high dev eth0"} {
		family, which := netlink.FAMILY_V4, ""
		if strings.HasPrefix(route, "-6") {
			family, which, route = netlink.FAMILY_V6, "-6 ", route[3:]
		}
		dst := strings.Fields(route)[0]
		ip(which + "route add " + route)
		before := ip(which + "route show " + dst)
		all, err := netlink.RouteListFiltered(family, &netlink.Route{}, netlink.RT_FILTER_TABLE)
		ip(which + "route del " + route)
		for i := range all {
			if all[i].Dst != nil && all[i].Dst.String() == dst {
				err = netlink.RouteAdd(&all[i])
			}
		}
		fmt.Printf("%s | %s | %v\n", before, ip(which+"route show "+dst), err)
		ip(which + "route flush " + dst)
	}
}
G
cat >go.mod <<'G'
module finding

go 1.23

require github.com/vishvananda/netlink v1.3.1
G
"$go" mod tidy 2>/dev/null
"$go" build -o finding . 2>/dev/null
echo "vishvananda/netlink v1.3.1, Linux $(uname -r)"
want "before | after | error" "77: from all lookup 9 | 77: from all lookup 9 | <nil>
77: from all prohibit | 77: from all lookup 1 | <nil>
77: from all unreachable | 77: from all lookup 2 | <nil>
77: from all blackhole | 77: from all lookup 3 | <nil>
77: from all lookup [l3mdev-table] | 77: from all lookup 4 | <nil>
198.51.100.0/24 dev eth0 scope link mtu lock 1300 | 198.51.100.0/24 dev eth0 scope link mtu lock 1300 | <nil>
198.51.100.0/24 encap ip id 7 src 0.0.0.0 dst 192.0.2.4 ttl 0 tos 0 dev eth0 scope link | 198.51.100.0/24 dev eth0 scope link | <nil>
198.51.100.0/24 nhid 7 via 192.0.2.2 dev eth0 | 198.51.100.0/24 via 192.0.2.2 dev eth0 | <nil>
198.51.100.0/24 dev eth0 scope link cwnd lock 6 | 198.51.100.0/24 dev eth0 scope link cwnd 6 | <nil>
2001:db8:1::/64 from 2001:db8::/64 dev eth0 metric 1024 pref medium | 2001:db8:1::/64 dev eth0 metric 1024 pref medium | <nil>
2001:db8:1::/64 dev eth0 metric 1024 pref high | 2001:db8:1::/64 dev eth0 metric 1024 pref medium | <nil>" "$(unshare --net ./finding)"
