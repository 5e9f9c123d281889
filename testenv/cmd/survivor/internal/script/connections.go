package script

// Connections are TCP connections inside the app, in every way that a process can have them: at
// numbers of their own, twice, with and without close-on-exec, shared with a child, and watched by
// epoll in all ways. The check tells what it finds otherwise: a number, a flag, a watch with its word,
// or data.
const Connections = `
import fcntl, select, socket, threading

class Event(ctypes.Structure):
    _pack_ = 1
    _fields_ = [("events", ctypes.c_uint32), ("data", ctypes.c_uint64)]

def watch(ep, fd, events, op=1):
    e = Event(events, fd << 33 | 1)
    libc_ok(libc.epoll_ctl(ep, op, fd, ctypes.byref(e)))

def events(ep, timeout=0):
    out = (Event * 100)()
    while (n := libc.epoll_wait(ep, out, 100, timeout)) == -1 and ctypes.get_errno() == errno.EINTR: pass
    libc_ok(n)
    return sorted(e.data >> 33 for e in out[:n])

listener = socket.create_server(("127.0.0.1", 0), backlog=100)
near, far = [], []
for i in range(60):
    near.append(socket.create_connection(listener.getsockname()))
    far.append(listener.accept()[0])

ep = libc_ok(libc.epoll_create1(0))
for s in near[:10]: watch(ep, s.fileno(), select.EPOLLIN)
for s in near[10:20]: watch(ep, s.fileno(), select.EPOLLIN | select.EPOLLET)
for s in near[20:30]: watch(ep, s.fileno(), select.EPOLLIN | select.EPOLLONESHOT)
for s in near[30:40]: watch(ep, s.fileno(), select.EPOLLIN | (1 << 28))  # EPOLLEXCLUSIVE
for s in far[20:30:2]: s.send(b"x")
fired = events(ep, 1000)  # these are not watched any more
must("what fired", fired, sorted(s.fileno() for s in near[20:30:2]))
twice = [os.dup2(s.fileno(), 600 + 7 * i, inheritable=i % 2 == 0) for i, s in enumerate(near[:4])]
for fd in twice: watch(ep, fd, select.EPOLLIN)
for s in near[40:45]: s.set_inheritable(True)
for s in near[45:50]: s.setblocking(False)
libc_ok(libc.fcntl(near[50].fileno(), 8, os.getpid()))  # F_SETOWN
gone = os.dup2(near[51].fileno(), 700)
watch(ep, gone, select.EPOLLIN)
above = os.dup2(near[52].fileno(), 1000)

def tell(ep):
    names = {}
    for line in open("/proc/net/tcp").readlines()[1:]:
        f = line.split()
        names[f[9]] = f[1] + f[2]
    out = []
    for fd in sorted(map(int, os.listdir("/proc/self/fd"))):
        try:
            link = os.readlink("/proc/self/fd/%d" % fd)
            if link[:8] != "socket:[": continue
            out.append("%d %s %d %d" % (fd, names.get(link[8:-1], "?"), fcntl.fcntl(fd, fcntl.F_GETFD), fcntl.fcntl(fd, fcntl.F_GETFL)))
        except FileNotFoundError:
            pass
    for line in sorted(open("/proc/self/fdinfo/%d" % ep)):
        if line[:4] == "tfd:":
            f = line.split()
            if int(f[3], 16) & ~0x18 == 1 << 30: f[3] = "over"  # whoever adds it adds EPOLLERR and EPOLLHUP, too
            out.append(" ".join(f[:6] + [names.get(str(int(f[7][4:], 16)), "?")]))
    return out

# A child shares all connections, the instance, and has one of its own.
to_child, from_child = os.pipe(), os.pipe()
child = os.fork()
if child == 0:
    os.close(to_child[1])
    near[55].close()
    own = libc_ok(libc.epoll_create1(0))
    for s in near[53:60]:
        if s.fileno() >= 0: watch(own, s.fileno(), select.EPOLLIN)
    before = None
    while os.read(to_child[0], 1):
        now = tell(own)
        answer = "same" if before in (None, now) else "otherwise: %s" % sorted(set(before) ^ set(now))
        before = now
        os.write(from_child[1], answer.encode()[:4000])
    os._exit(0)

def ask():
    os.write(to_child[1], b"?")
    return os.read(from_child[0], 4096)

# Threads wait for what will come.
got = []
def waiting(s): got.append(s.recv(100))
def polling(): got.append(events(ep, -1))
wait = [threading.Thread(target=waiting, args=(near[59],), daemon=True), threading.Thread(target=polling, daemon=True)]
for t in wait: t.start()

must("the child", ask(), b"same")
before = tell(ep)
copy = ready() == "copy"
after = tell(ep)
if not copy: must("what is otherwise", sorted(set(before) ^ set(after)), [])
must("numbers", [l.split()[0] for l in after], [l.split()[0] for l in before])
if not copy: must("the child", ask(), b"same")
far[59].send(b"waited for")
wait[0].join(60)
far[0].send(b"x")
wait[1].join(60)
must("what threads waited for", sorted(map(str, got)), sorted(map(str, [b"waited for", [near[0].fileno(), twice[0]]])))
near[0].recv(1)
for s in far[:20] + far[21:30:2] + far[30:40]: s.send(b"x")
want = sorted([s.fileno() for s in near[:20] + near[21:30:2] + near[30:40]] + twice)
must("what is ready", events(ep, 1000), want)
must("what is ready again", events(ep), sorted([s.fileno() for s in near[:10] + near[30:40]] + twice))
for i, (a, b) in enumerate(zip(near, far)):
    a.setblocking(True)
    if i < 40: a.recv(1)
    a.send(b"there")
    must("from near %d" % i, b.recv(100), b"there")
    b.send(b"back")
    must("from far %d" % i, a.recv(100), b"back")
must("the other number", os.fstat(above).st_ino, os.fstat(near[52].fileno()).st_ino)
os.close(to_child[1])
must("the child's end", os.waitpid(child, 0), (child, 0))
ok()
`
