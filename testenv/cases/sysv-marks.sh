#!/usr/bin/env bash
# System V shared memory that is to end with its last attachment (IPC_RMID), or is locked (SHM_LOCK), and a message queue with a
# limit of its own (msg_qbytes). Right: all are so after hibernate and wake, and in a copy; the segment ends when it is detached.
# Needs: python3.
# shellcheck source=testenv/cases/case.bash
. "$(dirname "$0")/case.bash"
cat >"$d/app.py" <<'P'
import ctypes, os, time
libc = ctypes.CDLL(None, use_errno=True)
libc.shmat.restype, libc.shmdt.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
def segment():
    s = libc.shmget(0, 4096, 0o1600)
    return s, libc.shmat(s, None, 0)
plain, removed, locked = segment(), segment(), segment()
ctypes.memmove(removed[1], b"data", 4)
libc.shmctl(removed[0], 0, None); libc.shmctl(locked[0], 11, None)
queue, d = libc.msgget(0, 0o1600), ctypes.create_string_buffer(120)
libc.msgctl(queue, 2, d); d[88:96] = (1000).to_bytes(8, "little"); libc.msgctl(queue, 1, d)
def tell(what):
    modes = {int(l.split()[1]): l.split()[2] for l in list(open("/proc/sysvipc/shm"))[1:]}
    libc.msgctl(queue, 2, d)
    print(what, *(modes.get(s[0]) for s in (plain, removed, locked)), int.from_bytes(d[88:96], "little"), flush=True)
tell("BEFORE")
while not os.path.exists("/go"):
    time.sleep(0.1)
print(ctypes.string_at(removed[1], 4), end=" ")
tell("AFTER"); libc.shmdt(removed[1]); tell("DETACHED")
time.sleep(10000)
P
snapctl run --name $app -- /usr/bin/python3 "$d/app.py" >/dev/null || skip "run"
for _ in {1..150}; do snapctl logs $app 2>/dev/null | grep -q BEFORE && break; sleep 0.1; done
[ "$(snapctl logs $app 2>/dev/null)" = "BEFORE 600 1600 2600 1000" ] || skip "the app does not start: $(snapctl logs $app 2>&1 | tail -1)"
message=$(snapctl snapshot $app --name $app-s 2>&1) && message=$(snapctl hibernate $app 2>&1) || wrong "is not saved: $message"
timeout 15 snapctl wake $app >/dev/null 2>&1 || wrong "does not wake"
message=$(timeout 15 snapctl restore $app-s --as $app-c 2>&1) || wrong "is not restored: $message"
for a in $app $app-c; do
	snapctl exec $a -- touch /go
	for _ in {1..150}; do snapctl logs $a | grep -q DETACHED && break; sleep 0.1; done
	after=$(snapctl logs $a | grep AFTER)
	[ "$after" = "b'data' AFTER 600 1600 2600 1000" ] || wrong "$a: $after"
	[ "$(snapctl logs $a | tail -1)" = "DETACHED 600 None 2600 1000" ] || wrong "$a: $(snapctl logs $a | tail -1)"
done
ok "$after"
