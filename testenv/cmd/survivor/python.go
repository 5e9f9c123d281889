package main

import "fmt"

// The scripts below are for what Go's runtime gets in the way of: fork without
// exec, signals of the whole process, libc's own semaphores and queues.

const pythonStart = `
import ctypes, errno, mmap, os, signal, struct, sys, time
libc = ctypes.CDLL(None, use_errno=True)
def ready():
    print("ready", flush=True)
    return sys.stdin.readline().strip()
def must(what, got, want):
    if got != want:
        print("%s is %r, want %r" % (what, got, want), flush=True)
        sys.stdin.read()
def ok():
    print("ok", flush=True)
    sys.stdin.read()
def libc_ok(r):
    if r == -1: raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return r
`

// queuedSignals are pending for a whole process, in order and with values; one
// is ignored and one has a handler.
const queuedSignals = `
seen = []
signal.signal(signal.SIGUSR2, lambda s, f: seen.append(s))
signal.signal(signal.SIGWINCH, signal.SIG_IGN)
blocked = {signal.SIGUSR1, signal.SIGUSR2, signal.SIGRTMIN + 3}
signal.pthread_sigmask(signal.SIG_BLOCK, blocked)
os.kill(os.getpid(), signal.SIGUSR1)
os.kill(os.getpid(), signal.SIGUSR2)
libc.sigqueue.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_void_p]
for value in 11, 22, 33:
    libc_ok(libc.sigqueue(os.getpid(), signal.SIGRTMIN + 3, value))
ready()
must("the mask", signal.pthread_sigmask(signal.SIG_BLOCK, []), blocked)
must("what is pending", signal.sigpending(), blocked)
must("the ignored one", signal.getsignal(signal.SIGWINCH), signal.SIG_IGN)
libc.sigwaitinfo.argtypes = [ctypes.c_void_p, ctypes.c_void_p]
want = (ctypes.c_ulong * 16)(1 << (signal.SIGRTMIN + 3 - 1))
for value in 11, 22, 33:
    info = ctypes.create_string_buffer(128)
    must("signal", libc.sigwaitinfo(want, info), signal.SIGRTMIN + 3)
    must("its value", struct.unpack_from("i", info, 24)[0], value)
    must("its sender", struct.unpack_from("i", info, 16)[0], os.getpid())
signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGUSR2})
must("handled", seen, [signal.SIGUSR2])
ok()
`

// sysv are shared memory (attached, and marked for removal), semaphores with
// values, one of which a child waits for, and a queue with messages.
const sysv = `
libc.shmat.restype = ctypes.c_void_p
libc.shmat.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_int]
shm = libc_ok(libc.shmget(4711, 8192, 0o1600))
gone = libc_ok(libc.shmget(0, 4096, 0o1600))
at, gone_at = libc.shmat(shm, None, 0), libc.shmat(gone, None, 0)
ctypes.memmove(at + 5000, b"shared", 6)
ctypes.memmove(gone_at, b"marked", 6)
libc_ok(libc.shmctl(gone, 0, None))
sem = libc_ok(libc.semget(4712, 2, 0o1600))
libc_ok(libc.semctl(sem, 0, 16, 5))
msg = libc_ok(libc.msgget(4713, 0o1600))
for kind, text in (7, b"first."), (8, b"second"):
    libc_ok(libc.msgsnd(msg, struct.pack("l", kind) + text, 6, 0))
child = os.fork()
if child == 0:
    libc.semop(sem, struct.pack("Hhh", 1, -1, 0), 1)
    ctypes.memmove(at + 6000, b"woken", 5)
    os._exit(3)
ready()
must("its id", libc.shmget(4711, 8192, 0o600), shm)
must("content", ctypes.string_at(at + 5000, 6), b"shared")
must("content of the removed one", ctypes.string_at(gone_at, 6), b"marked")
must("semaphore", libc.semctl(sem, 0, 12, 0), 5)
libc_ok(libc.semop(sem, struct.pack("Hhh", 1, 1, 0), 1))
must("the child", os.waitpid(child, 0), (child, 3 << 8))
must("what the child wrote", ctypes.string_at(at + 6000, 5), b"woken")
buf = ctypes.create_string_buffer(100)
for kind, text in (8, b"second"), (7, b"first."):
    must("size of the message", libc.msgrcv(msg, buf, 50, kind, 0o4000), 6)
    must("message", buf.raw[8:14], text)
ok()
`

// sysvUndo takes a semaphore that its end gives back.
const sysvUndo = `
sem = libc_ok(libc.semget(4712, 1, 0o1600))
libc_ok(libc.semctl(sem, 0, 16, 5))
go, wait = os.pipe()
child = os.fork()
if child == 0:
    os.close(wait)
    libc_ok(libc.semop(sem, struct.pack("Hhh", 0, -2, 0o10000), 1))
    os.read(go, 1)
    os._exit(0)
os.close(go)
while libc.semctl(sem, 0, 12, 0) != 3: os.sched_yield()
ready()
must("semaphore", libc.semctl(sem, 0, 12, 0), 3)
os.close(wait)
os.waitpid(child, 0)
must("semaphore after undo", libc.semctl(sem, 0, 12, 0), 5)
ok()
`

// posixSem are a named semaphore and an unlinked one that a child waits for.
const posixSem = `
libc.sem_open.restype = ctypes.c_void_p
for f in libc.sem_post, libc.sem_wait: f.argtypes = [ctypes.c_void_p]
libc.sem_getvalue.argtypes = [ctypes.c_void_p, ctypes.c_void_p]
named = libc.sem_open(b"/named", os.O_CREAT, 0o600, 4)
unlinked = libc.sem_open(b"/unlinked", os.O_CREAT, 0o600, 0)
libc_ok(libc.sem_unlink(b"/unlinked"))
child = os.fork()
if child == 0:
    libc.sem_wait(unlinked)
    os._exit(3)
ready()
value = ctypes.c_int()
libc_ok(libc.sem_getvalue(named, ctypes.byref(value)))
must("value", value.value, 4)
libc_ok(libc.sem_post(named))
libc_ok(libc.sem_post(unlinked))
must("the child", os.waitpid(child, 0), (child, 3 << 8))
again = libc.sem_open(b"/named", 0)
libc_ok(libc.sem_getvalue(again, ctypes.byref(value)))
must("value by name", value.value, 5)
ok()
`

const mqueueStart = `
libc.mq_open.argtypes = [ctypes.c_char_p, ctypes.c_int, ctypes.c_uint, ctypes.c_void_p]
R, W, RW, CREATE, NONBLOCK = os.O_RDONLY, os.O_WRONLY, os.O_RDWR, os.O_CREAT, os.O_NONBLOCK
def mq(name, flags, attr=None):
    return libc_ok(libc.mq_open(name, flags, 0o640, struct.pack("llll32x", 0, *attr, 0) if attr else None))
def attributes(q):
    buf = ctypes.create_string_buffer(64)
    libc_ok(libc.mq_getattr(q, buf))
    return struct.unpack_from("llll", buf)
def send(q, *messages):
    for priority, text in messages: libc_ok(libc.mq_send(q, text, len(text), priority))
def receive(q):
    buf, priority = ctypes.create_string_buffer(8192), ctypes.c_uint()
    n = libc_ok(libc.mq_receive(q, buf, 8192, ctypes.byref(priority)))
    return priority.value, buf.raw[:n]
`

// mqueue are queues with messages: one that is open twice, with different
// flags, and seen by a poller; one that has no name any more; one that nobody
// has open; and one that a child waits at.
const mqueue = mqueueStart + `
import select
r, w = mq(b"/jobs", CREATE | R | NONBLOCK, (7, 100)), mq(b"/jobs", W)
send(w, (1, b"low"), (9, b"high"), (1, b"low too"))
poll = select.epoll()
poll.register(r, select.EPOLLIN)
nameless = mq(b"/nameless", CREATE | RW | NONBLOCK)
send(nameless, (3, b"kept"))
libc_ok(libc.mq_unlink(b"/nameless"))
later = mq(b"/later", CREATE | RW)
send(later, (2, b"second"), (5, b"first"))
libc_ok(libc.mq_close(later))
waited = mq(b"/waited", CREATE | RW)
child = os.fork()
if child == 0:
    os._exit(3 if receive(waited) == (4, b"come") else 4)
while open("/proc/%d/stat" % child).read().split(") ")[1][0] != "S": time.sleep(0.001)
if ready() == "lost":
    must("attributes", attributes(r), (NONBLOCK, 7, 100, 0))
    must("attributes of the nameless one", attributes(nameless)[3], 0)
    send(w, (1, b"low"), (9, b"high"), (1, b"low too"))
    send(nameless, (3, b"kept"))
    send(mq(b"/later", W), (2, b"second"), (5, b"first"))
must("attributes", attributes(r), (NONBLOCK, 7, 100, 3))
must("attributes of the other one", attributes(w), (0, 7, 100, 3))
must("close on exec", os.get_inheritable(r), False)
must("events", poll.poll(0), [(r, select.EPOLLIN)])
must("the writer's receiving", libc.mq_receive(w, ctypes.create_string_buffer(100), 100, None), -1)
must("messages", [receive(r) for _ in range(3)], [(9, b"high"), (1, b"low"), (1, b"low too")])
must("events", poll.poll(0), [])
send(w, (1, b"new"))
must("by name", receive(mq(b"/jobs", R)), (1, b"new"))
must("the nameless one", receive(nameless), (3, b"kept"))
must("opening it", libc.mq_open(b"/nameless", R, 0, None), -1)
later = mq(b"/later", RW | NONBLOCK)
must("messages that nobody had", [receive(later), receive(later)], [(5, b"first"), (2, b"second")])
send(mq(b"/waited", W), (4, b"come"))
must("the child", os.waitpid(child, 0), (child, 3 << 8))
must("names", sorted(os.listdir("/dev/mqueue")), ["jobs", "later", "waited"])
must("mode", os.stat("/dev/mqueue/jobs").st_mode & 0o777, 0o640)
for name in b"/jobs", b"/later", b"/waited": libc_ok(libc.mq_unlink(name))
poll.close()
os.closerange(3, 64)
ok()
`

// mqueueNotify is an empty queue that is to send a signal.
const mqueueNotify = mqueueStart + `
q = mq(b"/notify", CREATE | RW)
libc_ok(libc.mq_notify(q, struct.pack("Pii48x", 0, signal.SIGWINCH, 0)))
ready()
libc_ok(libc.mq_notify(q, None))
ok()
`

// mqueueSysV is a queue beside a System V semaphore.
const mqueueSysV = mqueueStart + `
q = mq(b"/beside", CREATE | RW)
sem = libc_ok(libc.semget(4712, 1, 0o1600))
ready()
libc_ok(libc.semctl(sem, 0, 0, 0)) # IPC_RMID
ok()
`

const ptyStart = `
import pty, select
def until(text):
    got = b""
    while text not in got:
        if not select.select([master], [], [], 5)[0]:
            must("the terminal", got, text)
        got += os.read(master, 4096)
    return got
`

// ptySession is a program on its controlling terminal, with data on the way to
// it, which the terminal's keys reach.
const ptySession = ptyStart + `
program = """
import os, select, signal
signal.signal(signal.SIGINT, lambda *a: os.write(1, b"interrupted"))
# A signal right before a blocking read would be handled only after it.
woken, wake = os.pipe()
os.set_blocking(wake, False)
signal.set_wakeup_fd(wake)
print("started", flush=True)
while True:
    if woken in select.select([0, woken], [], [])[0]:
        os.read(woken, 100)
        continue
    line = os.read(0, 100).decode()
    if not line:
        break
    print("read", line.strip(), os.ttyname(0), os.tcgetpgrp(0) == os.getpgrp(), os.get_terminal_size().columns, flush=True)
"""
pid, master = pty.fork()
if pid == 0:
    os.execlp("python3", "python3", "-c", program)
import fcntl, termios
fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack("HHHH", 33, 99, 0, 0))
until(b"started")
ready()
os.write(master, b"hello\n")
must("the terminal's line", b"read hello /dev/pts/0 True 99" in until(b"99"), True)
os.write(master, b"\x03")
until(b"interrupted")
os.write(master, b"\x04")
must("the program's end", os.waitpid(pid, 0), (pid, 0))
ok()
`

// ptyShell is an interactive shell, which has /dev/tty open for its jobs.
const ptyShell = ptyStart + `
pid, master = pty.fork()
if pid == 0:
    os.execlp("sh", "sh", "-i")
os.write(master, b"x=kept; echo up$((1+1))\n")
until(b"up2")
ready()
os.write(master, b"echo $x $((6*7)); echo end$((3+4))\n")
must("the shell's variable", b"kept 42" in until(b"end7"), True)
os.write(master, b"exit\n")
must("the shell", os.waitpid(pid, 0)[0], pid)
ok()
`

// cow is memory that a parent and its children share until one of them writes.
const cow = `
SIZE = 64 << 20
mem = mmap.mmap(-1, SIZE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
for page in range(0, SIZE, 4096):
    mem[page:page + 8] = struct.pack("Q", page)
children = []
for i in range(3):
    r, w = os.pipe()
    r2, w2 = os.pipe()
    pid = os.fork()
    if pid == 0:
        for page in range(i * 4096, SIZE, 64 * 4096):
            mem[page + 8:page + 16] = struct.pack("Q", i + 1)
        os.write(w2, b"r")
        os.read(r, 1)
        good = all(mem[page:page + 8] == struct.pack("Q", page) for page in range(0, SIZE, 4096))
        for k in range(3):
            want = struct.pack("Q", k + 1 if k == i else 0)
            good = good and all(mem[page + 8:page + 16] == want for page in range(k * 4096, SIZE, 64 * 4096))
        os._exit(0 if good else 1)
    os.read(r2, 1)
    children.append((pid, w))
ready()
for pid, w in children:
    os.write(w, b"g")
    must("child", os.waitpid(pid, 0), (pid, 0))
must("parent", all(mem[page:page + 16] == struct.pack("QQ", page, 0) for page in range(0, SIZE, 4096)), True)
ok()
`

// privileges are fewer than those of root: no_new_privs, dropped capabilities,
// a seccomp filter, groups, a scheduling policy and a personality.
const privileges = `
libc.prctl.argtypes = [ctypes.c_int] + [ctypes.c_ulong] * 4
libc_ok(libc.prctl(24, 21, 0, 0, 0)) # PR_CAPBSET_DROP CAP_SYS_ADMIN
libc_ok(libc.prctl(38, 1, 0, 0, 0)) # PR_SET_NO_NEW_PRIVS
os.setgroups([4711, 4712])
os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
libc_ok(libc.prctl(15, ctypes.cast(b"privileged", ctypes.c_void_p).value, 0, 0, 0)) # PR_SET_NAME
filter = struct.pack("HBBI" * 4, 0x20, 0, 0, 0, 0x15, 0, 1, 169, 6, 0, 0, 0x50000 | 77, 6, 0, 0, 0x7fff0000) # reboot: errno 77
buf = ctypes.create_string_buffer(filter)
prog = ctypes.create_string_buffer(struct.pack("HxxxxxxQ", 4, ctypes.addressof(buf)))
libc_ok(libc.prctl(22, 2, ctypes.addressof(prog), 0, 0)) # PR_SET_SECCOMP
def state():
    lines = open("/proc/self/status").read().splitlines()
    keep = "Name", "Uid", "Gid", "Groups", "Cap", "NoNewPrivs", "Seccomp:" # not their number: memory that is mapped has a guard
    return [l for l in lines if l.startswith(keep)] + [os.sched_getscheduler(0), libc.prctl(39, 0, 0, 0, 0)]
before = state()
ready()
must("the privileges", state(), before)
must("reboot", libc.syscall(169, 0, 0, 0, 0), -1)
must("its error", ctypes.get_errno(), 77)
ok()
`

// deletedCwd is a working directory that is gone.
const deletedCwd = `
os.mkdir("/tmp/gone")
os.chdir("/tmp/gone")
os.rmdir("/tmp/gone")
ready()
must("the directory", os.readlink("/proc/self/cwd"), "/tmp/gone (deleted)")
ok()
`

// mountNamespace is a child with mounts of its own.
const mountNamespace = `
r, w = os.pipe()
r2, w2 = os.pipe()
pid = os.fork()
if pid == 0:
    libc_ok(libc.unshare(0x20000)) # CLONE_NEWNS
    libc_ok(libc.mount(b"none", b"/", None, 0x44000, None)) # MS_PRIVATE | MS_REC
    os.mkdir("/tmp/own")
    libc_ok(libc.mount(b"own", b"/tmp/own", b"tmpfs", 0, None))
    open("/tmp/own/file", "w").write("kept")
    os.write(w2, b"r")
    os.read(r, 1)
    os._exit(0 if open("/tmp/own/file").read() == "kept" else 1)
os.read(r2, 1)
ready()
must("its parent's view", os.listdir("/tmp/own"), [])
os.write(w, b"g")
must("the child", os.waitpid(pid, 0), (pid, 0))
ok()
`

// traced is a child that is debugged.
const traced = `
pid = os.fork()
if pid == 0:
    libc.ptrace(0, 0, 0, 0) # PTRACE_TRACEME
    os.kill(os.getpid(), signal.SIGSTOP)
    os._exit(3)
os.waitpid(pid, os.WUNTRACED)
ready()
libc_ok(libc.ptrace(17, pid, 0, 0)) # PTRACE_DETACH
os.kill(pid, signal.SIGCONT)
must("the child", os.waitpid(pid, 0), (pid, 3 << 8))
ok()
`

// pidNamespace is a child that has process ids of its own.
const pidNamespace = `
r, w = os.pipe()
libc_ok(libc.unshare(0x20000000)) # CLONE_NEWPID
pid = os.fork()
if pid == 0:
    os.close(w)
    os.read(r, 1)
    os._exit(3 if os.getpid() == 1 else 4)
ready()
os.close(w)
must("the child", os.waitpid(pid, 0), (pid, 3 << 8))
ok()
`

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

// blockedCalls have no end of their own and must not notice anything.
const blockedCalls = blocked + `
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

// timedCalls end after a time, or with EINTR: compel puts that into a thread that
// was in a call which the kernel restarts by restart_syscall(2) (its x86
// infect.c: "Will restore %d with interrupted system call"), even poll(2) without
// a limit; and semop(2) and epoll_wait(2) do so themselves, signal(7).
const timedCalls = blocked + `
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

// namespaceOf is a child with one other namespace of its own.
func namespaceOf(flag int) string { return fmt.Sprintf(namespace, flag) }

const namespace = `
r, w = os.pipe()
r2, w2 = os.pipe()
pid = os.fork()
if pid == 0:
    os.close(w)
    libc_ok(libc.unshare(%#x))
    os.write(w2, b"r")
    os.read(r, 1)
    os._exit(3)
os.read(r2, 1)
ready()
os.close(w)
must("the child", os.waitpid(pid, 0), (pid, 3 << 8))
ok()
`
