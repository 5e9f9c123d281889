#!/usr/bin/env bash
# nftables 1.0.6 does not read back all that it writes as JSON: part is refused, and part is
# taken without what matters.
#
# Expected: `nft -j list ruleset` into `nft -j -f -` gives the same ruleset, as the text of
# `nft list ruleset` does.
# Seen: refused are synproxy objects, chains of netdev, maps of intervals or concatenations,
# and jumps to chains without a name. Taken, exit status 0, are a dormant table, which then
# is active; sets without timeout, auto-merge and comment; a ct timeout without its times.
# The text is right each time.
#
# What snapctl does: vem/netconf keeps the kernel's own messages, and neither form of nft's.
# shellcheck source=findings/finding.bash
. "$(dirname "$0")/finding.bash"
unpack nftables=1.0.6-2+deb12u2 libnftables1=1.0.6-2+deb12u2
nft --version
cat >"$tmp/all.sh" <<'P'
cd "$1"
try() { # NAME RULESET
	nft flush ruleset; nft -f - <<<"$2"
	nft list ruleset >before; nft -j list ruleset >as.json 2>/dev/null
	nft flush ruleset; nft -f before; nft list ruleset >after
	cmp -s before after || echo "$1: TEXT CHANGED"
	nft flush ruleset
	if nft -j -f as.json 2>/dev/null; then
		nft list ruleset >after
		lost=$(diff before after | sed -n 's/^<\s*//p' | paste -sd ' ')
		[ -n "$lost" ] && echo "$1: lost ${lost% }" || echo "$1: right"
	else
		echo "$1: refused"
	fi
}
try plain 'table inet t { chain c { type filter hook input priority 0; tcp dport 22 accept; } ; }'
try dormant 'table inet t { flags dormant; chain c { type filter hook input priority 0; drop; } ; }'
try set 'table inet t { set s { type ipv4_addr; flags interval; auto-merge; comment "x"; elements = { 10.0.0.0/8 } ; } ; }'
try timeout 'table inet t { set s { type ipv4_addr; flags dynamic,timeout; timeout 1h; } ; }'
try ct-timeout 'table inet t { ct timeout c { protocol tcp; l3proto ip; policy = { established : 100, close : 20 } ; } ; }'
try synproxy 'table inet t { synproxy s { mss 1460; wscale 7; timestamp sack-perm; } ; }'
try netdev 'table netdev t { chain c { type filter hook ingress device "lo" priority 0; } ; }'
try map-of-intervals 'table inet t { map m { type ipv4_addr : interval ipv4_addr; elements = { 1.2.3.4 : 5.6.7.0/24 } ; } ; }'
try map-of-pairs 'table inet t { map m { type inet_service : ipv4_addr . inet_service; } ; }'
try jump 'table inet t { chain c { ip saddr 1.2.3.4 jump { accept; } ; } ; }'
P
want "what JSON loses" "plain: right
dormant: lost flags dormant
set: lost auto-merge comment \"x\"
timeout: lost flags dynamic,timeout
ct-timeout: lost l3proto ip policy = { established : 100, close : 20 }
synproxy: refused
netdev: refused
map-of-intervals: refused
map-of-pairs: refused
jump: refused" "$(unshare --net bash "$tmp/all.sh" "$tmp" 2>&1)"
