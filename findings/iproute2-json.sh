#!/usr/bin/env bash
# iproute2 6.1.0: `ip -json mptcp limits` answers in plain text.
#
# Expected: JSON, as `ip -json mptcp endpoint` gives, or an error.
# Seen: the same text as without -json, exit status 0.
#
# Why: ip/ipmptcp.c, print_mptcp_limit, prints by the functions that know both forms, but
# nobody has opened a JSON document before, as mptcp_addr_dump has for endpoints.
#
# What snapctl does: it runs no program of iproute2, and sets MPTCP by sysctl (vem/fabric).
# shellcheck source=findings/finding.bash
. "$(dirname "$0")/finding.bash"
unpack iproute2=6.1.0-3
ip -V
sysctl -q net.mptcp.enabled >/dev/null || { echo "this kernel has no MPTCP" >&2; exit 2; }
cat >"$tmp/all.sh" <<'P'
json() { python3 -c 'import json, sys; json.load(sys.stdin)' 2>/dev/null && echo JSON || echo "no JSON"; }
ip link set lo up
ip mptcp endpoint add 127.0.0.1 dev lo subflow
echo "endpoint: $(ip -json mptcp endpoint | json)"
echo "limits: $(ip -json mptcp limits | json), exit status $(ip -json mptcp limits >/dev/null; echo $?), $(cmp -s <(ip mptcp limits) <(ip -json mptcp limits) && echo the same as without -json)"
P
want "ip -json mptcp" "endpoint: JSON
limits: no JSON, exit status 0, the same as without -json" "$(unshare --net bash "$tmp/all.sh")"
