package script

// QueuedSignals are pending for a whole process, in order and with values; one
// is ignored and one has a handler.
const QueuedSignals = `
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

// CopyOnWrite is memory that a parent and its children share until one of them writes.
const CopyOnWrite = `
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

// Privileges are fewer than those of root: no_new_privs, dropped capabilities,
// a seccomp filter, groups, a scheduling policy and a personality.
const Privileges = `
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

// DeletedCWD is a working directory that is gone.
const DeletedCWD = `
os.mkdir("/tmp/gone")
os.chdir("/tmp/gone")
os.rmdir("/tmp/gone")
ready()
must("the directory", os.readlink("/proc/self/cwd"), "/tmp/gone (deleted)")
ok()
`

// Traced is a child that is debugged.
const Traced = `
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
