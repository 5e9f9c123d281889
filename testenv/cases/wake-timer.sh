#!/usr/bin/env bash
# A program sets alarms (timerfd, ITIMER_REAL) and is hibernated. Right: without --wake-timers hibernate says when which
# timer would expire, or that nothing can wake the app; with it the app wakes by itself, show tells when, and it rings once.
# Needs: python3.
# shellcheck source=testenv/cases/case.bash
. "$(dirname "$0")/case.bash"
cat >"$d/app.py" <<'P'
import ctypes, os, signal, struct, sys
seconds = int(sys.argv[2])
if sys.argv[1] == "itimer":
    signal.signal(signal.SIGALRM, lambda *_: print("RING", flush=True))
    signal.setitimer(signal.ITIMER_REAL, seconds)
print("READY", flush=True)
if sys.argv[1] == "timerfd":
    libc = ctypes.CDLL(None)
    fd = libc.timerfd_create(7, 0) # CLOCK_BOOTTIME
    libc.timerfd_settime(fd, 0, struct.pack("llll", 0, 0, seconds, 0), None)
    os.read(fd, 8)
    print("RING", flush=True)
while True:
    signal.pause()
P
start() {
	snapctl run --name "$1" "${@:2}" >/dev/null || skip "run"
	started "$1"
}
start $app-deaf -- /usr/bin/python3 "$d/app.py" itimer 3600
said=$(snapctl hibernate $app-deaf 2>&1) || wrong "hibernate: $said"
[[ $said == *"ITIMER_REAL of process "*" would expire at "*"--wake-timers"* ]] || wrong "hibernate does not tell of the timer: $said"
[[ $said == *"nothing but \`snapctl wake $app-deaf\` can wake it"* ]] || wrong "hibernate does not tell that nothing can wake the app: $said"

for kind in itimer timerfd; do
	start $app --wake-timers -- /usr/bin/python3 "$d/app.py" $kind 8
	said=$(snapctl hibernate $app 2>&1) || wrong "hibernate: $said"
	[[ $said != *note:* ]] || wrong "hibernate tells of what will happen: $said"
	snapctl show $app | grep -q "wakes by its timer at " || wrong "show does not tell when it wakes: $(snapctl show $app)"
	for _ in {1..250}; do snapctl ps | grep -q "^$app .* running" && break; sleep 0.1; done
	for _ in {1..50}; do [ "$(snapctl logs $app | grep -c RING)" = 1 ] && break; sleep 0.1; done
	[ "$(snapctl logs $app | grep -c RING)" = 1 ] || wrong "$kind: rang $(snapctl logs $app | grep -c RING) times; $(snapctl ps | grep "^$app ")"
	snapctl show $app | grep -q "woken by: *its timer" || wrong "$kind: show does not tell what woke it: $(snapctl show $app)"
	snapctl rm --force $app >/dev/null || wrong "rm"
done
ok "each alarm woke its app, and rang once"
