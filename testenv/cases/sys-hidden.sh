#!/usr/bin/env bash
# A snapctld runs by `ip netns exec`, whose new /sys hides the host's cgroup mounts.
# Right: it mounts cgroups for itself, as its doctor says; apps run with limits that hold and that they see, hibernate and wake.
# Needs: iproute2, snapctld on PATH (a second one is started, in a network namespace of its own).
# shellcheck source=testenv/cases/case.bash
. "$(dirname "$0")/case.bash"
ns=$app; run=/run/$app
end() {
	"${x[@]}" snapctl rm --force a; kill $daemon; wait $daemon
	for p in /proc/[0-9]*; do grep -qz "^$run/holder.sock" $p/cmdline && kill ${p#/proc/} && while [ -e $p/exe ]; do sleep 0.05; done; done
	ip netns del $ns; umount /run/netns; rmdir /run/netns; rm -rf "$run"
}
command -v snapctld >/dev/null || skip "no snapctld on PATH"
ip netns add $ns && ip -n $ns link set lo up || skip "no network namespace"
mkdir -p "$run"
x=(env "SNAPCTL_SOCKET=$run/snapctl.sock")
ip netns exec $ns snapctld --state-dir "$d/state" --run-dir "$run" >"$d/log" 2>&1 & daemon=$!
for _ in {1..100}; do "${x[@]}" snapctl ps >/dev/null 2>&1 && break; sleep 0.1; done
"${x[@]}" snapctl ps >/dev/null 2>&1 || wrong "snapctld does not start: $(tail -1 "$d/log")"
said=$("${x[@]}" snapctl doctor | grep -E '^\w+ +cgroups ') ; [[ $said = ok* ]] || wrong "doctor says: $said"
message=$("${x[@]}" snapctl run --name a --memory 200M --pids 20 -- sh -c 'cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/memory/memory.limit_in_bytes 2>/dev/null
	sh -c "for i in $(seq 40); do sleep 1000 & done; exit 0" || echo LIMITED; echo READY; exec sleep 1000' 2>&1) || wrong "run: $message"
for _ in {1..100}; do said=$("${x[@]}" snapctl logs a); grep -q READY <<<"$said" && break; sleep 0.1; done
grep -q '^209715200$' <<<"$said" || wrong "the app does not see its limit: $said"
grep -q LIMITED <<<"$said" || wrong "the app has more processes than its limit: $said"
message=$("${x[@]}" snapctl hibernate a 2>&1) || wrong "hibernate: $message"
message=$("${x[@]}" snapctl wake a 2>&1) || wrong "wake: $message"
ok "snapctld mounts cgroups for itself"
