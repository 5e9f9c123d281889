"""Opens one of everything, says so, and waits to be dumped."""
import ctypes, mmap, os, select, signal, socket, subprocess, threading

libc = ctypes.CDLL(None, use_errno=True)
libc.shmat.restype = ctypes.c_void_p
subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
socket.sethostname("snap-test")
PR_SET_NAME = 15

# Listeners, connections with bytes in both directions, and one that nobody has
# accepted.
l4 = socket.create_server(("127.0.0.1", 7001), backlog=64)
l6 = socket.create_server(("::1", 7002), family=socket.AF_INET6, backlog=32)
udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
udp.bind(("127.0.0.1", 7003))
udp2 = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
udp2.connect(("127.0.0.1", 7003))
udp2.send(b"queued datagram")
conns = []
for _ in range(3):
    c = socket.create_connection(("127.0.0.1", 7001))
    conns.append((c, l4.accept()[0]))
c6 = socket.create_connection(("::1", 7002))
a6 = l6.accept()[0]
conns[0][0].send(b"waiting for the server")
conns[1][1].send(b"waiting for the client")
conns[2][0].setblocking(False)
pending = socket.create_connection(("127.0.0.1", 7001))
epoll = select.epoll()
epoll.register(l4, select.EPOLLIN)
epoll.register(conns[0][1], select.EPOLLIN)

# Unix sockets, with descriptors on their way.
pair = socket.socketpair()
pipe = os.pipe()
os.write(pipe[1], b"bytes in a pipe")
socket.send_fds(pair[0], [b"with an fd"], [conns[1][0].fileno(), pipe[0]])
pair[0].send(b"more")
ul = socket.socket(socket.AF_UNIX)
ul.bind("\0snapctl-test")
ul.listen(5)
ud = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
ud.bind("\0snapctl-dgram")

efd = os.eventfd(3)
tfd = libc.timerfd_create(1, 0)
memfd = os.memfd_create("test-memfd")
os.write(memfd, b"memfd data")
ghost = open("/tmp/removed", "w+")
ghost.write("content of a removed file")
ghost.flush()
os.unlink("/tmp/removed")

# System V objects.
libc.shmat(libc.shmget(0x1234, 8192, 0o1600), None, 0)
libc.semget(0x1235, 3, 0o1600)
class Message(ctypes.Structure):
    _fields_ = [("type", ctypes.c_long), ("text", ctypes.c_char * 13)]
libc.msgsnd(libc.msgget(0x1236, 0o1600), ctypes.byref(Message(7, b"hello message")), 13, 0)

# Memory: 3 of 1024 pages, and 1 of 16 shared ones.
big = mmap.mmap(-1, 4 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
big[0:8192] = b"x" * 8192
big[1 << 20:(1 << 20) + 4096] = b"y" * 4096
shared = mmap.mmap(-1, 64 << 10)
shared[0:5] = b"share"

threading.Thread(target=lambda: threading.Event().wait(), daemon=True).start()

def child(name, before):
    if os.fork() == 0:
        libc.prctl(PR_SET_NAME, name, 0, 0, 0)
        before()
        while True:
            signal.pause()

child(b"leader", os.setsid)
child(b"closer", l4.close)
child(b"zombie", lambda: os._exit(3))
child(b"stopped", lambda: os.kill(os.getpid(), signal.SIGSTOP))
os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOWAIT)
os.waitid(os.P_ALL, 0, os.WSTOPPED | os.WNOWAIT)
os.open("/tmp/ready", os.O_CREAT | os.O_WRONLY, 0o600)
while True:
    signal.pause()
