#!/usr/bin/env bash
# A process and a thread of it each have processors, an I/O priority and a timer slack of their own, and the process a core
# dump filter. Right: both have them after hibernate and wake, in a restored snapshot and in a clone.
# Needs: python3.
# shellcheck source=testenv/cases/case.bash
. "$(dirname "$0")/case.bash"
[ "$(nproc)" -gt 1 ] || skip "one processor is no choice"
cat >"$d/app.py" <<'P'
import ctypes, os, threading, time
libc = ctypes.CDLL(None)
cpus = sorted(os.sched_getaffinity(0))
def settings():
    tid = threading.get_native_id()
    return f"cpus {sorted(os.sched_getaffinity(0))} io {libc.syscall(252, 1, 0)} slack {libc.prctl(30, 0, 0, 0, 0)} core {open('/proc/self/coredump_filter').read().strip()}"
def choose(cpu, level, slack):
    os.sched_setaffinity(0, {cpu})
    assert libc.syscall(251, 1, 0, 2 << 13 | level) == 0
    libc.prctl(29, slack, 0, 0, 0)
rounds = 0
def tell(name):
    done = 0
    while True:
        if rounds > done:
            done += 1
            with open(f"/{name}.{done}", "w") as f: f.write(settings())
        time.sleep(0.02)
def other():
    choose(cpus[1], 3, 70001)
    tell("thread")
choose(cpus[0], 6, 12345)
open("/proc/self/coredump_filter", "w").write("0x7f")
threading.Thread(target=other, daemon=True).start()
def count():
    global rounds
    while True:
        rounds = sum(os.path.exists(f"/go.{i}") for i in range(1, 9))
        time.sleep(0.02)
threading.Thread(target=count, daemon=True).start()
print("READY", flush=True)
tell("process")
P
snapctl run --name $app -- /usr/bin/python3 "$d/app.py" >/dev/null || skip "run"
started
ask() { # APP ROUND
	snapctl exec "$1" -- sh -c "touch /go.$2; for i in \$(seq 300); do [ -s /process.$2 ] && [ -s /thread.$2 ] && break; sleep 0.05; done; cat /process.$2; echo; cat /thread.$2"
}
before=$(ask $app 1)
[[ $before == *"slack 12345 core 0000007f"*"slack 70001 core 0000007f"* ]] || skip "the app does not get its settings: $before"
snapctl hibernate $app >/dev/null && snapctl wake $app >/dev/null || wrong "does not wake"
[ "$(ask $app 2)" = "$before" ] || wrong "after the wake: $(ask $app 2); before: $before"
snapctl snapshot $app --name $app-s >/dev/null && snapctl restore $app-s --as $app-r --endpoint 10.77.0.200 >/dev/null || wrong "is not restored"
[ "$(ask $app-r 3)" = "$before" ] || wrong "restored: $(ask $app-r 3); before: $before"
snapctl template create $app-t --from $app >/dev/null && snapctl clone $app-t --name-pattern $app-c >/dev/null || wrong "is not cloned"
[ "$(ask $app-c 3)" = "$before" ] || wrong "cloned: $(ask $app-c 3); before: $before"
ok "$before"
