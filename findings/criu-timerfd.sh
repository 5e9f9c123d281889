#!/usr/bin/env bash
# CRIU 4.2.1 brings two kinds of timerfd back otherwise than they were, and reports success.
#
# Expected: a restored timerfd goes on as it was.
# Seen: of a repeating one that has expired, and was not read yet, the count that waits can
# be read, and then it stops: whoever waits for the next one waits for ever. One with an
# absolute time that has expired, and was read, expires once more.
#
# Why: the kernel stops a repeating timer until somebody reads it, and shows 0 as what is
# left (fs/timerfd.c, timerfd_tmrproc and timerfd_show); criu/pie/restorer.c, timerfd_arm,
# sets that 0, which disarms. To an absolute time of 0, which means disarmed, it adds the
# time of now.
#
# What snapctl does: snapshot/image/timing/clocks.go edits the images before a restore.
# shellcheck source=findings/criu.bash
. "$(dirname "$0")/criu.bash"
cat >"$tmp/app.py" <<'P'
import ctypes, os, sys, time
libc = ctypes.CDLL(None, use_errno=True)
MONOTONIC, NONBLOCK, ABSTIME = 1, 0o4000, 1
class Spec(ctypes.Structure):  # struct itimerspec
    _fields_ = [(name, ctypes.c_long) for name in ("every", "every_ns", "value", "value_ns")]
def timer(flags, spec):
    fd = libc.timerfd_create(MONOTONIC, NONBLOCK)
    assert fd >= 0 and libc.timerfd_settime(fd, flags, ctypes.byref(spec), None) == 0
    return fd
def read(fd):
    try:
        return int.from_bytes(os.read(fd, 8), sys.byteorder)
    except BlockingIOError:
        return 0
repeating = timer(0, Spec(0, 100_000_000, 0, 100_000_000))
absolute = timer(ABSTIME, Spec(0, 0, int(time.monotonic()) + 1, 0))
while read(absolute) == 0:
    time.sleep(0.05)
open(sys.argv[1] + "/ready", "w").close()
while not os.path.exists(sys.argv[1] + "/go"):
    time.sleep(0.05)
time.sleep(2)  # all that is to expire has expired by then
waited = read(repeating) > 0
time.sleep(1)
with open(sys.argv[1] + "/seen.part", "w") as f:
    print("repeating, unread:", "count kept," if waited else "count lost,", "goes on" if read(repeating) else "stops", file=f)
    print("absolute, read:", "expires again" if read(absolute) else "has expired once", file=f)
os.rename(sys.argv[1] + "/seen.part", sys.argv[1] + "/seen")
P
for way in "never frozen" restored; do
	rm -f "$tmp/ready" "$tmp/go" "$tmp/seen"
	# shellcheck disable=SC2016 # for the shell inside
	inside '
		start python3 "$tmp/app.py" "$tmp"
		[ "'"$way"'" = "never frozen" ] || { dump; restore; }
		touch "$tmp/go"
		until_file "$tmp/seen"'
	sed "s/^/$way: /" "$tmp/seen" >>"$tmp/all"
done
want "timerfds" "never frozen: repeating, unread: count kept, goes on
never frozen: absolute, read: has expired once
restored: repeating, unread: count kept, stops
restored: absolute, read: expires again" "$(cat "$tmp/all")"
