#!/usr/bin/env bash
# A program listens at addresses that a copy can't have: one was taken away meanwhile, one is of a device that copies do
# not get. It is to be saved with --stop. Right: refused before the freeze, both named, and the app goes on; likewise
# when it is hibernated, and then it stays so.
# Needs: iproute2, python3.
# shellcheck source=testenv/cases/case.bash
. "$(dirname "$0")/case.bash"
snapctl run --name $app -- sh -c 'ip addr add 10.99.0.1/32 dev lo && ip link add mv0 link eth0 type macvlan && ip addr add 10.98.0.1/32 dev mv0 && ip link set mv0 up &&
	exec /usr/bin/python3 -c "
import socket, subprocess, time
a = socket.create_server((\"10.99.0.1\", 7000)); b = socket.create_server((\"10.98.0.1\", 7001))
subprocess.run([\"ip\", \"addr\", \"del\", \"10.99.0.1/32\", \"dev\", \"lo\"], check=True)
print(\"READY\", flush=True)
last = time.monotonic()
while True:
    time.sleep(0.02); now = time.monotonic()
    if now - last > 1: print(\"GAP\", now - last, flush=True)
    last = now"' >/dev/null || skip "run"
started
message=$(snapctl snapshot --stop --name $app-s $app 2>&1) && wrong "it is saved, and can't be restored: $message"
[ "$(snapctl show $app | awk '$1 == "status:" {print $2}')" = running ] || wrong "the app does not run any more: $message"
snapctl logs $app | grep GAP && wrong "the app was frozen"
[[ $message == *10.99.0.1:7000* && $message == *10.98.0.1:7001*mv0* && $message == *process* ]] || wrong "refused: $message"
# A snapshot of an app that sleeps has its sockets from the hold, and could not bind them either.
snapctl hibernate $app >/dev/null || wrong "hibernate"
held=$(snapctl snapshot --stop --name $app-s $app 2>&1) && wrong "it is saved while it sleeps, and can't be restored: $held"
[ "$(snapctl show $app | awk '$1 == "status:" {print $2}')" = held ] || wrong "the app does not sleep any more: $held"
[[ $held == *10.99.0.1:7000* && $held == *10.98.0.1:7001*mv0* ]] || wrong "refused while it sleeps: $held"
ok "refused: ${message//$'\n'/; }"
