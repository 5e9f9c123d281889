#!/usr/bin/env bash
# Open and mapped files, directories and programs whose paths lead elsewhere: something was mounted over them, the name is taken,
# or they are below /proc and would not be there. Right: before the freeze all of them are refused, in one pass, by process,
# descriptor and path, for hibernate and snapshot; what can be kept, as renamed, removed and made-again files, is as it was after
# the wake; a bound directory that was moved on the host is refused. Needs: python3.
# shellcheck source=testenv/cases/case.bash
. "$(dirname "$0")/case.bash"
cat >"$d/app.py" <<'P'
import ctypes, mmap, os, sys, threading, time
libc = ctypes.CDLL(None, use_errno=True)
def mount(what, at, fs=None, flags=0):
    if libc.mount(what.encode(), at.encode(), fs and fs.encode(), flags, None):
        raise OSError(ctypes.get_errno(), "mount " + at)
def at(name):
    os.makedirs("/srv/w/" + os.path.dirname(name), exist_ok=True)
    return "/srv/w/" + name
def opened(name):
    return os.open(at(name) if name[0] != "/" else name, os.O_RDWR | os.O_CREAT)
def child(do=lambda: None):
    pid = os.fork()
    if not pid:
        do()
        time.sleep(10000)
    return pid
if sys.argv[1] == "bad":
    opened("over-directory/f"); mount("tmpfs", at("over-directory"), "tmpfs")
    opened("over-file"); mount("/etc/passwd", at("over-file"), flags=4096)
    opened("over-itself/f"); mount(at("over-itself"), at("over-itself"), flags=4096)
    mount("tmpfs", at("twice/"), "tmpfs"); opened("twice/f"); mount("tmpfs", at("twice"), "tmpfs")
    fd = opened("mapped/f"); os.ftruncate(fd, 4096); m = mmap.mmap(fd, 4096); os.close(fd); mount("tmpfs", at("mapped"), "tmpfs")
    opened("linked/f"); os.link(at("linked/f"), at("link")); os.unlink(at("linked/f")); mount("tmpfs", at("linked"), "tmpfs")
    opened("taken"); os.link(at("taken"), at("other")); os.unlink(at("taken")); opened("taken (deleted)")
    child(lambda: (os.chdir(at("workdir/")), mount("tmpfs", at("workdir"), "tmpfs")))
    child(lambda: (mount("tmpfs", at("detached/"), "tmpfs"), os.chdir(at("detached")), libc.umount2(b"/srv/w/detached", 2)))
    child(lambda: os.chdir("/proc/self"))
    os.open("/proc/self/fdinfo/1", os.O_RDONLY)
    ended = os.fork()
    if not ended:
        time.sleep(0.2), os._exit(0)
    os.open("/proc/%d/statm" % ended, os.O_RDONLY); os.waitpid(ended, 0)
    open("/proc/sys/kernel/ns_last_pid", "w").write(str(ended - 1))
    child()
    thread = threading.Thread(target=time.sleep, args=(10000,), daemon=True); thread.start()
    os.open("/proc/%d/status" % thread.native_id, os.O_RDONLY)
    print("READY", flush=True)
    last = time.monotonic()
    while True:
        time.sleep(0.05)
        if time.monotonic() - last > 2:
            print("GAP", flush=True)
        last = time.monotonic()
files = {}
for name in "renamed/f", "again", "again-linked", "link-removed", "/dev/shm/f", "a b\\c\nd", "same":
    files[name] = opened(name); os.write(files[name], name.encode())
os.rename(at("renamed"), at("new"))
os.unlink(at("again")); opened("again")
os.link(at("again-linked"), at("l1")); os.unlink(at("again-linked")); opened("again-linked")
os.link(at("link-removed"), at("l2")); os.unlink(at("link-removed"))
os.unlink("/dev/shm/f")
files["memfd"] = os.memfd_create("x"); os.write(files["memfd"], b"memfd")
other = child(lambda: (os.chdir(at("gone/")), os.rmdir(at("gone"))))
status = os.open("/proc/%d/status" % other, os.O_RDONLY)
child(lambda: (os.chroot("/srv/w"), os.open("/same", os.O_RDONLY)))
print("READY", flush=True)
while not os.path.exists("/go"):
    time.sleep(0.1)
wrong = [n for n, fd in files.items() if os.pread(fd, 99, 0) != n.encode()]
if os.stat(at("new/f")).st_ino != os.fstat(files["renamed/f"]).st_ino or os.stat(at("l2")).st_ino != os.fstat(files["link-removed"]).st_ino:
    wrong.append("inode")
if ("Pid:\t%d\n" % other).encode() not in os.pread(status, 9999, 0):
    wrong.append("process")
print("KEPT", wrong, sorted(n for n in os.listdir("/srv/w") if "remap" in n or "ghost" in n), flush=True)
time.sleep(10000)
P
start() {
	snapctl run --name $app "$@" >/dev/null || skip "run"
	for _ in {1..150}; do snapctl logs $app 2>/dev/null | grep -q "READY\|Error" && break; sleep 0.1; done
	snapctl logs $app | grep -q READY || skip "the app does not start: $(snapctl logs $app | tail -1)"
}
start -- /usr/bin/python3 "$d/app.py" bad
for how in "hibernate $app" "snapshot $app --name $app-s"; do
	message=$(snapctl $how 2>&1) && wrong "$how succeeds"
	[[ $message != *CRIU:* ]] || wrong "$how is refused when the app stands still: $message"
	for name in over-directory/f over-file over-itself/f twice/f mapped/f linked/f taken workdir "/proc/[0-9]*\\)" fdinfo/1 statm status; do
		grep -Eq "process [0-9]+ \(python3\) .*$name" <<<"$message" || wrong "$how does not name $name: $message"
	done
done
snapctl logs $app | grep GAP && wrong "the app stood still"
[ "$(snapctl ps | awk -v a=$app '$1 == a {print $2}')" = running ] || wrong "the app does not go on"
snapctl rm --force $app >/dev/null

mkdir "$d/bound"; echo "data" >"$d/bound/f"
start --bind "$d/bound:/data" -- /usr/bin/python3 "$d/app.py" good
mv "$d/bound" "$d/moved"
message=$(snapctl hibernate $app 2>&1) && wrong "hibernates without what is bound"
[[ $message == *$d/bound* && $message != *CRIU:* ]] || wrong "the bound directory is not named: $message"
mkdir "$d/bound"
message=$(snapctl snapshot $app --name $app-s 2>&1) && wrong "a snapshot with another directory at the place of what is bound"
[[ $message == *$d/bound* && $message != *CRIU:* ]] || wrong "the other directory is not named: $message"
rmdir "$d/bound"; mv "$d/moved" "$d/bound"
message=$(snapctl hibernate $app 2>&1) || wrong "hibernate: $message"
timeout 15 snapctl wake $app >/dev/null 2>&1 || wrong "does not wake: $(snapctl show $app | grep -i error)"
snapctl exec $app -- touch /go
for _ in {1..100}; do snapctl logs $app | grep -q '^KEPT' && break; sleep 0.1; done
[ "$(snapctl logs $app | grep '^KEPT')" = "KEPT [] []" ] || wrong "$(snapctl logs $app | tail -3)"
ok "what leads elsewhere is refused in one pass, the rest is as it was"
