#!/usr/bin/env bash
# Linux 6.18: of a POSIX message queue, F_GETFL and /proc/PID/fdinfo tell O_CLOEXEC for ever.
#
# Expected: F_GETFL returns "the file access mode and the file status flags" (fcntl(2)). That a
# descriptor is closed by an exec is a flag of the descriptor, which F_GETFD tells. Whoever opens
# a queue anew with what F_GETFL says gets the queue as it was. The line "flags" of fdinfo has
# the descriptor's flag too (proc_pid_fdinfo(5)), as it is now.
# Seen: a queue that was opened with O_CLOEXEC tells it in both places when FD_CLOEXEC was taken
# from the descriptor. Files and eventfds do not. From outside of the process nothing tells
# which it is: whoever goes by fdinfo closes the queue in the next program that the app executes.
#
# Why: ipc/mqueue.c, do_mq_open, hands all of its flags to dentry_open, where fs/open.c,
# build_open_flags, takes O_CLOEXEC out for open(2). fs/proc/fd.c, seq_show, adds the descriptor's
# flag to those of the file, and takes none away.
#
# What snapctl does: it makes a queue that is gone anew with the access mode alone
# (runtime/checkpoint/queues.go), and hands queues to CRIU as descriptors.
# shellcheck source=findings/finding.bash
. "$(dirname "$0")/finding.bash"
echo "Linux $(uname -r)"
cat >"$tmp/main.py" <<'P'
import ctypes, fcntl, os, re
libc = ctypes.CDLL(None, use_errno=True)
def queue(flags):
    name = f"/finding-{os.getpid()}".encode()
    fd = libc.mq_open(name, flags | os.O_CREAT, 0o600, None)
    assert fd >= 0, os.strerror(ctypes.get_errno())
    libc.mq_unlink(name)
    return fd
def file(flags):
    return os.open("/dev/null", flags)
def eventfd(flags):
    return libc.eventfd(0, flags & os.O_CLOEXEC)
for what in queue, file, eventfd:
    fd = what(os.O_RDWR | os.O_CLOEXEC)
    fcntl.fcntl(fd, fcntl.F_SETFD, 0)
    told = fcntl.fcntl(fd, fcntl.F_GETFL)
    info = int(re.search("flags:\\s*(\\d+)", open(f"/proc/self/fdinfo/{fd}").read())[1], 8)
    print(what.__name__, "F_GETFL", bool(told & os.O_CLOEXEC), "fdinfo", bool(info & os.O_CLOEXEC))
P
want "close-on-exec, taken away" "queue F_GETFL True fdinfo True
file F_GETFL False fdinfo False
eventfd F_GETFL False fdinfo False" "$(python3 "$tmp/main.py")"
