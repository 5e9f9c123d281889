#!/usr/bin/env bash
# A program keeps files of its own cgroup open, as programs do that watch their own memory, and works in that directory.
# Right: it goes on after a wake, and a restored copy reads its own cgroup's, not the original's.
# Needs: python3.
# shellcheck source=testenv/cases/case.bash
. "$(dirname "$0")/case.bash"
cat >"$d/watch.py" <<'P'
import os, sys, time
def find(*names):
    for n in names:
        if os.path.exists("/sys/fs/cgroup/" + n): return "/sys/fs/cgroup/" + n
    print("NONE of", names, flush=True); sys.exit(1)
limit = open(find("memory.max", "memory/memory.limit_in_bytes"))
procs = open(find("cgroup.procs", "memory/cgroup.procs"))
pids = open(find("pids.max", "pids/pids.max"))
os.chdir(os.path.dirname(limit.name))
while True:
    for f in limit, procs, pids: f.seek(0)
    print("LOOK", limit.read().strip(), len(procs.read().split()), pids.read().strip(), os.listdir(".") != [], flush=True)
    time.sleep(0.1)
P
look() { # APP: what it sees from now on
	local before; before=$(snapctl logs "$1" | wc -l)
	for _ in {1..100}; do snapctl logs "$1" | tail -n +$((before + 2)) | grep -m1 LOOK && return; sleep 0.1; done
	echo "nothing more: $(snapctl logs "$1" | tail -1)"
}
snapctl run --name $app --memory 300M --pids 77 -- /usr/bin/python3 -c "$(cat "$d/watch.py")" >/dev/null || skip "run"
right="LOOK 314572800 1 77 True"
got=$(look $app); [ "$got" = "$right" ] || wrong "before: $got"
message=$(snapctl hibernate $app 2>&1) || wrong "hibernate: $message"
message=$(snapctl wake $app 2>&1) || wrong "wake: $message"
got=$(look $app); [ "$got" = "$right" ] || wrong "after the wake: $got"
message=$(snapctl snapshot --stop --name $app-s $app 2>&1) || wrong "snapshot: $message"
for _ in 1 2; do
	message=$(snapctl restore $app-s --as $app-2 2>&1) || wrong "restore: $message"
	got=$(look $app-2); [ "$got" = "$right" ] || wrong "in the copy: $got"
	snapctl rm --force $app-2 >/dev/null
done
ok "it sees its own cgroup everywhere"
