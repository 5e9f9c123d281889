package script

// blocked starts children that each wait in one system call, and tells what it
// answered them: 0, or the error. The calls are libc's own: Python repeats
// interrupted ones.
const blocked = `
import socket
def start(name, call):
    pid = os.fork()
    if pid == 0:
        r = call()
        os._exit(ctypes.get_errno() if r == -1 else 0)
    while open("/proc/%d/stat" % pid).read().split(") ")[1][0] != "S": time.sleep(0.001)
    return name, pid
def results(children):
    return {name: os.strerror(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])) for name, pid in children}
`

// BlockedCalls have no end of their own and must not notice anything.
const BlockedCalls = blocked + `
r, w = os.pipe()
l = socket.socket()
l.bind(("127.0.0.1", 7200))
l.listen()
udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
udp.bind(("127.0.0.1", 7200))
lock = open("/tmp/blocked", "w")
libc.flock(lock.fileno(), 2)
msg = libc_ok(libc.msgget(0, 0o1600))
buf = ctypes.create_string_buffer(100)
children = [
    start("read", lambda: libc.read(r, buf, 1)),
    start("accept", lambda: libc.accept(l.fileno(), None, None)),
    start("recv", lambda: libc.recv(udp.fileno(), buf, 100, 0)),
    start("flock", lambda: libc.flock(os.open("/tmp/blocked", os.O_RDONLY), 2)),
    start("msgrcv", lambda: libc.msgrcv(msg, buf, 50, 0, 0)),
]
ready()
os.write(w, b"x")
client = socket.create_connection(("127.0.0.1", 7200))
udp.sendto(b"x", ("127.0.0.1", 7200))
libc.flock(lock.fileno(), 8)
libc_ok(libc.msgsnd(msg, struct.pack("l", 1) + b"x", 1, 0))
must("answers", results(children), {name: "Success" for name, pid in children})
ok()
`

// TimedCalls end after a time, or with EINTR: compel puts that into a thread that
// was in a call which the kernel restarts by restart_syscall(2) (its x86
// infect.c: "Will restore %d with interrupted system call"), even poll(2) without
// a limit; and semop(2) and epoll_wait(2) do so themselves, signal(7).
const TimedCalls = blocked + `
t = struct.pack("qq", 1, 0)
poll = struct.pack("ihh", -1, 1, 0)
import select
epoll = select.epoll()
buf = ctypes.create_string_buffer(100)
children = [
    start("nanosleep", lambda: libc.nanosleep(t, None)),
    start("poll", lambda: libc.poll(poll, 1, 1000)),
    start("epoll_wait", lambda: libc.epoll_wait(epoll.fileno(), buf, 1, 1000)),
    start("select", lambda: libc.select(0, None, None, None, ctypes.create_string_buffer(t))),
    start("semop", lambda: libc.semtimedop(libc.semget(0, 1, 0o1600), struct.pack("Hhh", 0, -1, 0), 1, t)),
]
ready()
got = results(children)
print("survivor: timed calls:", got, file=sys.stderr, flush=True)
must("answers", set(got.values()) <= {"Success", "Interrupted system call", "Resource temporarily unavailable"}, True)
ok()
`
