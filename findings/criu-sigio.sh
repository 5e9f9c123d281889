#!/usr/bin/env bash
# CRIU 4.2.1 restores pseudo-terminals and FIFOs with O_ASYNC so that they send no signal.
#
# Expected: the owner of a file (F_SETOWN, O_ASYNC) gets SIGIO when there is something to read.
# Seen: of a pipe and a unix socket it does. Of both ends of a terminal and of a FIFO it does
# not, though F_GETFL shows O_ASYNC and F_GETOWN the owner. Dump and restore succeed.
#
# Why: CRIU opens these with the saved flags. open(2) takes O_ASYNC and does nothing for it
# (see open(2), BUGS), and F_SETFL does nothing for a flag that is there (fs/fcntl.c, setfl).
#
# What snapctl does: snapshot/owner sets owner and O_ASYNC, which CRIU is not told of.
# shellcheck source=findings/criu.bash
. "$(dirname "$0")/criu.bash"
cat >"$tmp/app.py" <<'P'
import fcntl, os, signal, socket, sys, time, tty
signals = []
signal.signal(signal.SIGIO, lambda *_: signals.append(1))
master, slave = os.openpty()
for fd in master, slave:
    tty.setraw(fd)
other, far = os.openpty()
for fd in other, far:
    tty.setraw(fd)
one, two = socket.socketpair()
out, into = os.pipe()
os.mkfifo(sys.argv[1] + "/fifo")
fifo = os.open(sys.argv[1] + "/fifo", os.O_RDWR)
files = {
    "master": (master, slave), "slave": (far, other), "FIFO": (fifo, fifo),
    "pipe": (out, into), "unix socket": (one.fileno(), two.fileno()),
}
for fd, _ in files.values():
    fcntl.fcntl(fd, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(fd, fcntl.F_SETFL, fcntl.fcntl(fd, fcntl.F_GETFL) | os.O_ASYNC)
open(sys.argv[1] + "/ready", "w").close()
while not os.path.exists(sys.argv[1] + "/go"):
    time.sleep(0.05)
with open(sys.argv[1] + "/seen.part", "w") as f:
    for name, (fd, end) in files.items():
        signals.clear()
        os.write(end, b"x")
        until = time.monotonic() + 2
        while not signals and time.monotonic() < until:
            time.sleep(0.05)
        print(name + ":", "SIGIO" if signals else "nothing", "O_ASYNC" if fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ASYNC else "-", file=f)
        os.read(fd, 9)
os.rename(sys.argv[1] + "/seen.part", sys.argv[1] + "/seen")
P
# shellcheck disable=SC2016 # for the shell inside
inside '
	touch "$tmp/go"; start python3 "$tmp/app.py" "$tmp"; until_file "$tmp/seen"; mv "$tmp/seen" "$tmp/before"; rm "$tmp/go" "$tmp/ready" "$tmp/fifo"
	start python3 "$tmp/app.py" "$tmp"; dump; touch "$tmp/go"; restore; until_file "$tmp/seen"'
want "never frozen" "master: SIGIO O_ASYNC
slave: SIGIO O_ASYNC
FIFO: SIGIO O_ASYNC
pipe: SIGIO O_ASYNC
unix socket: SIGIO O_ASYNC" "$(cat "$tmp/before")"
want "restored" "master: nothing O_ASYNC
slave: nothing O_ASYNC
FIFO: nothing O_ASYNC
pipe: SIGIO O_ASYNC
unix socket: SIGIO O_ASYNC" "$(cat "$tmp/seen")"
