package script

// SysV are shared memory (attached, and marked for removal), semaphores with
// values, one of which a child waits for, and a queue with messages.
const SysV = `
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

// SysVUndo takes a semaphore that its end gives back.
const SysVUndo = `
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

// PosixSem are a named semaphore and an unlinked one that a child waits for.
const PosixSem = `
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

// MQueue are queues with messages: one that is open twice, with different
// flags, and seen by a poller; one that has no name any more; one that nobody
// has open; and one that a child waits at.
const MQueue = mqueueStart + `
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

// MQueueNotify is an empty queue that is to send a signal.
const MQueueNotify = mqueueStart + `
q = mq(b"/notify", CREATE | RW)
libc_ok(libc.mq_notify(q, struct.pack("Pii48x", 0, signal.SIGWINCH, 0)))
ready()
libc_ok(libc.mq_notify(q, None))
ok()
`

// MQueueSysV is a queue beside a System V semaphore.
const MQueueSysV = mqueueStart + `
q = mq(b"/beside", CREATE | RW)
sem = libc_ok(libc.semget(4712, 1, 0o1600))
ready()
libc_ok(libc.semctl(sem, 0, 0, 0)) # IPC_RMID
ok()
`
