#!/usr/bin/env bash
# Linux 6.18: cgroup.kill does not end a process whose first thread has ended.
#
# Expected: "Writing 1 to the file causes the cgroup and all descendant cgroups to be killed"
# (Documentation/admin-guide/cgroup-v2.rst). Each process is ended, in whatever state it is.
# Seen: such a process goes on, however often one writes. A SIGKILL to its id ends it.
#
# Why: kernel/cgroup/cgroup.c, __cgroup_kill, sends the signal to the first thread only
# (send_sig, PIDTYPE_PID). kernel/signal.c, complete_signal, wakes no other thread for a
# signal that is for one thread, and this one has ended.
#
# What snapctl does: snapshot/freezer kills such processes by id, and snapshot/preflight refuses
# to freeze them.
# shellcheck source=findings/finding.bash
. "$(dirname "$0")/finding.bash"
echo "Linux $(uname -r)"
mount=$(awk '$3 == "cgroup2" {print $2; exit}' /proc/mounts)
[ -e "$mount/cgroup.procs" ] || { echo "no cgroup2 is mounted" >&2; exit 2; }
group=$mount/finding-$$
trap 'kill -9 $pid 2>/dev/null || true; wait || true; rmdir "$group"; rm -rf "$tmp"' EXIT
cat >"$tmp/main.py" <<'P'
import ctypes, os, sys, threading, time
def other():
    while "Z" not in open(f"/proc/{os.getpid()}/task/{os.getpid()}/stat").read().rsplit(")")[1]:
        time.sleep(0.05)
    open(sys.argv[1] + "/ready", "w").close()
    time.sleep(1000)
threading.Thread(target=other).start()
ctypes.CDLL(None).syscall(60 if os.uname().machine == "x86_64" else 93, 0) # exit: of this thread only
P
mkdir "$group"
for first in goes-on ended; do
	rm -f "$tmp/ready"
	if [ $first = ended ]; then
		sh -c 'echo $$ >"$0/cgroup.procs"; exec python3 "$1/main.py" "$1"' "$group" "$tmp" & pid=$!
		until [ -e "$tmp/ready" ]; do sleep 0.05; done
	else
		sh -c 'echo $$ >"$0/cgroup.procs"; exec sleep 1000' "$group" & pid=$!
		until grep -qx "$pid" "$group/cgroup.procs"; do sleep 0.05; done
	fi
	echo 1 >"$group/cgroup.kill"
	for _ in {1..20}; do grep -q "populated 0" "$group/cgroup.events" && break; sleep 0.1; done
	grep -q "populated 0" "$group/cgroup.events" && state=killed || state="goes on after 2 s"
	echo "first thread $first: $state" >>"$tmp/seen"
done
kill -9 $pid
until grep -q "populated 0" "$group/cgroup.events"; do sleep 0.05; done
want "cgroup.kill" "first thread goes-on: killed
first thread ended: goes on after 2 s" "$(cat "$tmp/seen")"
