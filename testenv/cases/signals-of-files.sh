#!/usr/bin/env bash
# A program has itself sent a signal when something comes (F_SETOWN, F_SETSIG, O_ASYNC), as emacs does for its terminal and
# servers of the old kind do: by terminals, FIFOs, pipes, sockets and an inotify instance; to the process, a thread or its group.
# Right: the signals come after two nights and in a restored copy; and one tells of what came meanwhile.
# Needs: python3.
# shellcheck source=testenv/cases/case.bash
. "$(dirname "$0")/case.bash"
cat >"$d/app.py" <<'P'
import ctypes, fcntl, os, pty, select, signal, socket, struct, threading, time, tty
THREAD, PROCESS, GROUP = range(3)
SETSIG, SETOWN_EX, RT = 10, 15, signal.SIGRTMIN + 3
libc = ctypes.CDLL(None)
caught = []
signal.signal(signal.SIGIO, lambda *_: caught.append("SIGIO"))
signal.signal(signal.SIGURG, lambda *_: caught.append("SIGURG"))
signal.pthread_sigmask(signal.SIG_BLOCK, [RT])
def pair():
    master, slave = os.openpty()
    tty.setraw(master)
    tty.setraw(slave)
    return master, slave
m1, s1 = pair()
m2, s2 = pair()
a, b = socket.socketpair()
r, w = os.pipe()
os.mkfifo("/fifo")
fifo = os.open("/fifo", os.O_RDWR)
server = socket.create_server(("0.0.0.0", 7000))
client = socket.create_connection(("127.0.0.1", 7000))
served, _ = server.accept()
urgent = socket.create_connection(("127.0.0.1", 7000))
hurried, _ = server.accept()
udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
udp.bind(("127.0.0.1", 0))
os.mkdir("/watched")
watch = libc.inotify_init1(0)
libc.inotify_add_watch(watch, b"/watched", 0x200)  # IN_DELETE
def remove():
    open("/watched/x", "w").close()
    os.unlink("/watched/x")
kinds = {
    "master": (m1, lambda: os.write(s1, b"x"), lambda: os.read(m1, 9), PROCESS),
    "slave": (s2, lambda: os.write(m2, b"x"), lambda: os.read(s2, 9), GROUP),
    "unix": (a.fileno(), lambda: b.send(b"x"), lambda: a.recv(9), PROCESS),
    "pipe": (r, lambda: os.write(w, b"x"), lambda: os.read(r, 9), THREAD),
    "fifo": (fifo, lambda: os.write(fifo, b"x"), lambda: os.read(fifo, 9), PROCESS),
    "tcp": (served.fileno(), lambda: client.send(b"x"), lambda: served.recv(9), PROCESS),
    "udp": (udp.fileno(), lambda: udp.sendto(b"x", udp.getsockname()), lambda: udp.recv(9), THREAD),
    "inotify": (watch, remove, lambda: os.read(watch, 999), PROCESS),
}
def own(fd, kind):
    number = (threading.get_native_id(), os.getpid(), os.getpgrp())[kind]
    fcntl.fcntl(fd, SETOWN_EX, struct.pack("ii", kind, number))
for fd, _, _, kind in kinds.values():
    own(fd, kind)
    fcntl.fcntl(fd, fcntl.F_SETFL, fcntl.fcntl(fd, fcntl.F_GETFL) | os.O_ASYNC)
own(hurried.fileno(), PROCESS)
own(server.fileno(), PROCESS)
fcntl.fcntl(server, fcntl.F_SETFL, fcntl.fcntl(server, fcntl.F_GETFL) | os.O_ASYNC)
def look():
    wrong = []
    for name, (fd, do, undo, _) in kinds.items():
        caught.clear()
        do()
        time.sleep(0.02)
        undo()
        if "SIGIO" not in caught: wrong.append(name)
        # The same by a signal that tells by which descriptor it comes.
        fcntl.fcntl(fd, SETSIG, RT)
        do()
        info = signal.sigtimedwait([RT], 5)
        undo()
        while signal.sigtimedwait([RT], 0): pass
        fcntl.fcntl(fd, SETSIG, 0)
        if info is None: wrong.append(name + " with F_SETSIG")
    caught.clear()
    if os.path.exists("/copy"):  # which has no connection with urgent data
        return " ".join(wrong) or "all"
    urgent.send(b"!", socket.MSG_OOB)
    time.sleep(0.02)
    hurried.recv(1, socket.MSG_OOB)
    if "SIGURG" not in caught: wrong.append("urgent")
    return " ".join(wrong) or "all"
print("READY", look(), flush=True)
caught.clear()
n = 0
while True:
    n += 1
    while not os.path.exists("/go%d" % n): time.sleep(0.02)
    came = list(caught)
    server.settimeout(0)
    try:
        server.accept()
        told = "told" if "SIGIO" in came else "NOT told"
    except BlockingIOError:
        told = "nobody"
    print("AFTER%d" % n, look(), told, flush=True)
    caught.clear()
P
says() { for _ in {1..100}; do got=$(snapctl logs "$1" | grep "^$2 ") && break; sleep 0.1; done; [ "$got" = "$2 $3" ] || wrong "$1: '$got' and not '$2 $3': $(snapctl logs "$1" | tail -3)"; }
snapctl run --name $app --endpoint 10.77.0.72 --wake never -- /usr/bin/python3 "$d/app.py" >/dev/null || skip "run"
started
says $app READY all
for n in 1 2; do
	message=$(snapctl hibernate $app 2>&1) || wrong "hibernate is refused: ${message:0:300}"
	exec 3<>/dev/tcp/10.77.0.72/7000 || wrong "nobody listens while it sleeps"
	message=$(snapctl wake $app 2>&1) || wrong "does not wake: $message"
	snapctl exec $app -- touch /go$n
	says $app AFTER$n "all told"
	exec 3<&-
done
message=$(snapctl snapshot --stop --name $app-s $app 2>&1) || wrong "snapshot is refused: ${message:0:300}"
message=$(snapctl restore $app-s --as $app-2 2>&1); [[ $? == 6 && $message == *"2 sockets reset: "*"urgent data"* ]] || wrong "restore: $message"
snapctl exec $app-2 -- touch /copy /go3
says $app-2 AFTER3 "all nobody"
ok "the signals come"
