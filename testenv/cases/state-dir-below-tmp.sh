#!/usr/bin/env bash
# A snapctld whose state directory is below /tmp (a trial, a test) runs ten apps that look into /tmp.
# Right: each app has a /tmp of its own; none sees the host's files there.
# Needs: iproute2, snapctld on PATH (a second one is started, in a network namespace of its own).
place=/tmp
# shellcheck source=testenv/cases/case.bash
. "$(dirname "$0")/case.bash"
ns=$app; mark=$(mktemp /tmp/case-mark.XXXXXX)
end() {
	for a in a{1..10}; do "${x[@]}" snapctl rm --force $a; done; kill $daemon; wait
	for p in /proc/[0-9]*; do grep -qz "^$d/run/holder.sock" $p/cmdline && kill ${p#/proc/}; done; sleep 0.3 # its holder
	umount "$d/run"; ip netns del $ns; umount /run/netns; rmdir /run/netns; rm "$mark"
}
command -v snapctld >/dev/null || skip "no snapctld on PATH"
ip netns add $ns && ip -n $ns link set lo up || skip "no network namespace"
mkdir "$d/run" && mount -t tmpfs -o mode=700 tmpfs "$d/run"
x=(nsenter "--net=/run/netns/$ns" env "SNAPCTL_SOCKET=$d/run/snapctl.sock")
"${x[@]}" snapctld --state-dir "$d/state" --run-dir "$d/run" >"$d/log" 2>&1 & daemon=$!
for _ in {1..100}; do "${x[@]}" snapctl ps >/dev/null 2>&1 && break; sleep 0.1; done
"${x[@]}" snapctl ps >/dev/null 2>&1 || skip "a second snapctld does not start: $(tail -1 "$d/log")"
sees=0
for a in a{1..10}; do "${x[@]}" snapctl run --name $a -- sh -c "ls $mark; echo READY" >/dev/null 2>&1; done; sleep 2
for a in a{1..10}; do
	"${x[@]}" snapctl logs $a | grep -q READY || skip "an app did not run"
	"${x[@]}" snapctl logs $a | grep -q "^$mark" && sees=$((sees + 1))
done
[ $sees = 0 ] && ok "no app of 10 sees the host's /tmp"; wrong "$sees of 10 apps see the host's /tmp"
