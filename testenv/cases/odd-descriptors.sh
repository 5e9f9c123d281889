#!/usr/bin/env bash
# Open files that CRIU refuses when the app stands still already, or saves by a name that is wrong after the wake.
# Right: each is kept, or refused by process and descriptor before the freeze, by hibernate and by snapshot, and the app goes on.
# Needs: python3.
# shellcheck source=testenv/cases/case.bash
. "$(dirname "$0")/case.bash"
cat >"$d/app.py" <<'P'
import ctypes, os, socket, struct, sys, threading, time
kind, libc = sys.argv[1], ctypes.CDLL(None, use_errno=True)
def sleep():
    while True:
        time.sleep(100)
keep = []
if kind == "thread-directory":
    t = threading.Thread(target=sleep); t.start()
    fd = os.open("/proc/self/task/%d/fd" % t.native_id, os.O_RDONLY)
elif kind == "process-directory":
    fd = os.open("/proc/self", os.O_RDONLY)
elif kind == "alarm-clock":
    fd = libc.timerfd_create(9, 0)
elif kind == "thread-pidfd":
    t = threading.Thread(target=sleep); t.start()
    fd = libc.syscall(434, t.native_id, os.O_EXCL)
elif kind == "bpf-map":
    attr = ctypes.create_string_buffer(struct.pack("IIIII", 2, 4, 8, 4, 0) + bytes(100))
    fd = libc.syscall(321, 0, attr, 72)
elif kind == "packet-pipe":
    r, fd = os.pipe2(os.O_DIRECT)
elif kind == "signed-messages":
    a, b = socket.socketpair()
    b.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
    a.send(b"waits")
    keep, fd = [a, b], b.fileno()
elif kind == "main-thread":
    fd = os.open("/proc/self/task/%d/stat" % os.getpid(), os.O_RDONLY)
print("NONE" if fd < 0 else "READY", flush=True)
last = time.monotonic()
while True:
    time.sleep(0.05)
    if time.monotonic() - last > 2:
        print("GAP", flush=True)
    last = time.monotonic()
P
start() {
	snapctl rm --force $app >/dev/null 2>&1
	snapctl run --name $app -- /usr/bin/python3 "$d/app.py" $1 >/dev/null || skip "run"
	for _ in {1..150}; do snapctl logs $app 2>/dev/null | grep -q "READY\|NONE" && break; sleep 0.1; done
	snapctl logs $app | grep -q READY
}
tried=0
for kind in thread-directory process-directory alarm-clock thread-pidfd bpf-map packet-pipe signed-messages; do
	start $kind || continue # this kernel has none
	tried=$((tried + 1))
	for how in "hibernate $app" "snapshot $app --name $app-s"; do
		message=$(snapctl $how 2>&1) && wrong "$kind: ${how%% *} succeeds; does it come back?"
		[[ $message =~ process\ [0-9]+.*descriptor && $message != *criu* ]] || wrong "$kind: $how does not name it: ${message:0:300}"
	done
	snapctl ps | grep -q "$app.*running" || wrong "$kind: the app does not go on"
	snapctl logs $app | grep GAP && wrong "$kind: it stood still"
done
[ $tried -ge 4 ] || skip "this kernel has only $tried of them"
start main-thread || wrong "no file of the main thread"
snapctl hibernate $app >/dev/null 2>&1 && snapctl wake $app >/dev/null 2>&1 || wrong "a file of the main thread does not come back"
ok "$tried kinds are refused by name"
