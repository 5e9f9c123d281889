#!/usr/bin/env bash
# CRIU 4.2.1 restores a program without some of its settings, and says nothing.
#
# Expected: each setting is as it was, as nice values, limits and umask are, or the dump refuses.
# Seen: processors, I/O priority, timer slack, core dump filter, personality, mlockall
# (MCL_FUTURE) and PR_SET_MDWE are the defaults again, or those of CRIU. A file made with
# O_TMPFILE can't be given a name any more (ENOENT). Dump and restore succeed.
#
# What snapctl does: snapshot/settings puts the first four back and lists the personality,
# snapshot/preflight tells of locked memory and vem/hold/vet of O_TMPFILE before the freeze. The
# kernel shows MDWE to nobody else: SURVIVES.md says that it is lost.
# shellcheck source=findings/criu.bash
. "$(dirname "$0")/criu.bash"
cat >"$tmp/app.py" <<'P'
import ctypes, mmap, os, re, sys, time
libc = ctypes.CDLL(None)
tmp = sys.argv[1]
cpus = sorted(os.sched_getaffinity(0))
os.sched_setaffinity(0, cpus[:1])
IOPRIO_SET, IOPRIO_GET = (251, 252) if os.uname().machine == "x86_64" else (30, 31)
libc.syscall(IOPRIO_SET, 1, 0, 2 << 13 | 6)
libc.prctl(29, 12345, 0, 0, 0) # PR_SET_TIMERSLACK
libc.prctl(65, 1, 0, 0, 0) # PR_SET_MDWE
libc.personality(0x0040000) # ADDR_NO_RANDOMIZE
libc.mlockall(2) # MCL_FUTURE
with open("/proc/self/coredump_filter", "w") as f:
    f.write("0x7f")
os.nice(5)
os.umask(0o27)
unnamed = {name: os.open(tmp, os.O_TMPFILE | os.O_RDWR, 0o600) for name in ("before", "done")}
def tell(name):
    memory = mmap.mmap(-1, 1 << 20)
    locked = int(re.search(r"VmLck:\s*(\d+)", open("/proc/self/status").read())[1]) >= 1024
    named = libc.linkat(-100, b"/proc/self/fd/%d" % unnamed[name], -100, f"{tmp}/named-{name}".encode(), 0x400) == 0
    os.close(unnamed[name])
    with open(f"{tmp}/{name}.new", "w") as f:
        for setting, value in {
            "nice": os.nice(0), "umask": oct(os.umask(0o27)),
            "one processor": os.sched_getaffinity(0) == set(cpus[:1]) or len(cpus) < 2,
            "I/O priority": libc.syscall(IOPRIO_GET, 1, 0) & 7,
            "timer slack": libc.prctl(30, 0, 0, 0, 0),
            "core dump filter": open("/proc/self/coredump_filter").read().strip(),
            "personality": open("/proc/self/personality").read().strip(),
            "new memory locked": locked, "MDWE": libc.prctl(66, 0, 0, 0, 0),
            "O_TMPFILE can be named": named}.items():
            print(setting, value, file=f)
    os.rename(f"{tmp}/{name}.new", f"{tmp}/{name}")
tell("before")
open(tmp + "/ready", "w").close()
while not os.path.exists(tmp + "/go"):
    time.sleep(0.05)
tell("done")
P
# shellcheck disable=SC2016 # for the shell inside
inside 'start python3 "$tmp/app.py" "$tmp"; dump; touch "$tmp/go"; restore; until_file "$tmp/done"'
want "kept" "nice 5
umask 0o27" "$(grep -Fxf "$tmp/before" "$tmp/done")"
want "changed, as it was" "one processor True
I/O priority 6
timer slack 12345
core dump filter 0000007f
personality 00040000
new memory locked True
MDWE 1
O_TMPFILE can be named True" "$(grep -vFxf "$tmp/done" "$tmp/before")"
