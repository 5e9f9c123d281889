#!/usr/bin/env bash
# Linux 6.18: a seccomp supervisor can't give a program a descriptor of O_PATH.
#
# Expected: SECCOMP_IOCTL_NOTIF_ADDFD takes each descriptor that dup, SCM_RIGHTS and
# pidfd_getfd take, so that a supervisor can answer the program's open(path, O_PATH).
# Seen: EBADF for O_PATH, as if the supervisor had no such descriptor. seccomp_unotify(2)
# names no such limit. All other ways to hand a descriptor over take it.
#
# Why: kernel/seccomp.c, seccomp_notify_addfd, gets the file with fget, which does not see
# files of O_PATH (fs/file.c: FMODE_PATH); the others use fget_raw or the like.
#
# What snapctl does: it hands descriptors over by pidfd_getfd and SCM_RIGHTS.
# shellcheck source=findings/finding.bash
. "$(dirname "$0")/finding.bash"
echo "Linux $(uname -r)"
cat >"$tmp/main.py" <<'P'
import array, ctypes, os, socket, struct, sys
libc = ctypes.CDLL(None, use_errno=True)
x86 = os.uname().machine == "x86_64"
SECCOMP, GETPPID = (317, 110) if x86 else (277, 173)
ours, theirs = socket.socketpair()
child = os.fork()
if child == 0:
    libc.prctl(38, 1, 0, 0, 0) # PR_SET_NO_NEW_PRIVS
    code = struct.pack("HBBIHBBIHBBIHBBI", 0x20, 0, 0, 0, 0x15, 0, 1, GETPPID, # getppid asks the supervisor
                       0x06, 0, 0, 0x7fc00000, 0x06, 0, 0, 0x7fff0000)
    filters = ctypes.create_string_buffer(code)
    program = ctypes.create_string_buffer(struct.pack("HxxxxxxQ", 4, ctypes.addressof(filters)))
    listener = libc.syscall(SECCOMP, 1, 8, program) # SECCOMP_FILTER_FLAG_NEW_LISTENER
    theirs.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [listener]))])
    os.getppid()
    os._exit(0)
_, rights, _, _ = ours.recvmsg(1, 64)
listener = struct.unpack("i", rights[0][2][:4])[0]
request = ctypes.create_string_buffer(80)
assert libc.ioctl(listener, ctypes.c_ulong(0xc0502100), request) == 0 # SECCOMP_IOCTL_NOTIF_RECV
cookie = struct.unpack_from("Q", request)[0]
def said(result):
    return "taken" if result >= 0 else os.strerror(ctypes.get_errno())
for name, flags in ("O_RDONLY", os.O_RDONLY), ("O_PATH", os.O_PATH):
    fd = os.open("/", flags)
    add = ctypes.create_string_buffer(struct.pack("QIIII", cookie, 0, fd, 0, 0))
    print(name, "SECCOMP_IOCTL_NOTIF_ADDFD:", said(libc.ioctl(listener, ctypes.c_ulong(0x40182103), add)))
    pidfd = os.pidfd_open(os.getpid())
    print(name, "pidfd_getfd:", said(libc.syscall(438, pidfd, fd, 0)))
    print(name, "dup:", said(libc.dup(fd)))
    try:
        ours.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))])
        print(name, "SCM_RIGHTS: taken")
    except OSError as e:
        print(name, "SCM_RIGHTS:", e.strerror)
os.kill(child, 9)
os.waitpid(child, 0)
P
want "ways to hand over a descriptor" "O_RDONLY SECCOMP_IOCTL_NOTIF_ADDFD: taken
O_RDONLY pidfd_getfd: taken
O_RDONLY dup: taken
O_RDONLY SCM_RIGHTS: taken
O_PATH SECCOMP_IOCTL_NOTIF_ADDFD: Bad file descriptor
O_PATH pidfd_getfd: taken
O_PATH dup: taken
O_PATH SCM_RIGHTS: taken" "$(timeout 20 python3 "$tmp/main.py")"
