#!/usr/bin/env bash
# CRIU 4.2.1 can't restore a POSIX timer that signals a program's first thread
# (SIGEV_THREAD_ID), if the program has a pid namespace of its own.
#
# Expected: a program with such a timer is restored, inside a pid namespace as outside.
# Seen: outside it is. Inside one the dump succeeds too, but every restore fails with "Can't
# create posix timer - 0: -22". Such timers at other threads are right.
#
# Why: criu/timer.c, encode_notify_thread_id, looks for the thread among those of the process
# before anybody has filled in the first one's id inside (criu/cr-dump.c, dump_task_threads).
#
# What snapctl does: snapshot/image/timing/timers.go puts the right id into the image.
# shellcheck source=findings/criu.bash
. "$(dirname "$0")/criu.bash"
cat >"$tmp/app.py" <<'P'
import ctypes, os, sys, threading, time
libc = ctypes.CDLL(None, use_errno=True)
class Event(ctypes.Structure): # struct sigevent
    _fields_ = [("value", ctypes.c_void_p), ("signo", ctypes.c_int), ("notify", ctypes.c_int), ("tid", ctypes.c_int), ("pad", ctypes.c_int * 11)]
def timer():
    event = Event(None, 10, 4, threading.get_native_id()) # SIGUSR1, SIGEV_THREAD_ID
    assert libc.syscall(222 if os.uname().machine == "x86_64" else 107, 1, ctypes.byref(event), ctypes.byref(ctypes.c_int())) == 0
if sys.argv[2] == "first":
    timer()
else:
    threading.Thread(target=lambda: (timer(), time.sleep(1000)), daemon=True).start()
    time.sleep(0.2)
open(sys.argv[1] + "/ready", "w").close()
time.sleep(1000)
P
# shellcheck disable=SC2016 # for the shell inside
inside '
	for namespace in "" "unshare --pid --fork setsid"; do for thread in first other; do
		rm -rf "$tmp/images" "$tmp/ready"; mkdir "$tmp/images"
		start $namespace python3 "$tmp/app.py" "$tmp" $thread
		outer=$pid
		[ -z "$namespace" ] || { pid=$(cat "/proc/$outer/task/$outer/children"); pid=${pid% }; }
		dump
		restore --pidfile "$tmp/pid-$thread" 2>"$tmp/why" && state=restored || state=$(grep -o "Can.t create posix timer.*" "$tmp/why")
		echo "${namespace:+inside }$thread: $state" >>"$tmp/seen"
		[ "$state" != restored ] || kill -9 "$(cat "$tmp/pid-$thread")"
		rm -f "$tmp/pid-$thread"
		while [ -e "/proc/$outer" ]; do sleep 0.05; done
	done; done'
want "timers" "first: restored
other: restored
inside first: Can't create posix timer - 0: -22
inside other: restored" "$(cat "$tmp/seen")"
