#!/usr/bin/env bash
# A program waits at its start (for a database, a slow disk) longer than its --hibernate-after, before it listens.
# Right: it is not hibernated while nothing could wake it; a client that comes later is answered.
# Needs: python3, curl.
# shellcheck source=testenv/cases/case.bash
. "$(dirname "$0")/case.bash"
snapctl run --name $app --hibernate-after 3s -- sh -c 'sleep 8; exec /usr/bin/python3 -m http.server 7000 --bind 0.0.0.0 --directory /srv' >/dev/null || skip "run"
ip=$(snapctl show $app | awk '$1 == "endpoint:" {print $2}')
for _ in {1..25}; do
	curl -s -o /dev/null --max-time 5 http://$ip:7000/ && ok "answered after $SECONDS s"
	[ $SECONDS -gt 30 ] && break; sleep 1
done
wrong "no answer for $SECONDS s; $(snapctl ps | grep "^$app")"
