package script

import "fmt"

// MountNamespace is a child with mounts of its own.
const MountNamespace = `
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

// PIDNamespace is a child that has process ids of its own.
const PIDNamespace = `
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

// NamespaceOf is a child with one other namespace of its own.
func NamespaceOf(flag int) string { return fmt.Sprintf(namespace, flag) }

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
