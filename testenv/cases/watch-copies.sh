#!/usr/bin/env bash
# An app watches (inotify) a directory, a file of the host's that it shares, and one on a bind. It is hibernated, saved and
# restored twice, the second time from layers; then it watches a file that it has deleted.
# Right: none of it takes seconds, and every watch reports in the copies; what has no path is refused by descriptor.
# Needs: python3.
# shellcheck source=testenv/cases/case.bash
. "$(dirname "$0")/case.bash"
mkdir "$d/data"
cat >"$d/app.py" <<'P'
import ctypes, os, select, struct, time
libc = ctypes.CDLL(None)
os.makedirs("/somewhere/else")
fd = libc.inotify_init1(0x800)
names = {}
for name in ("/somewhere/else", "/etc/hostname", "/data"):
    names[libc.inotify_add_watch(fd, name.encode(), 0x104)] = name  # IN_CREATE, IN_ATTRIB
print("READY", flush=True)
last = time.monotonic()
while True:
    if select.select([fd], [], [], 0.05)[0]:
        b = os.read(fd, 4096)
        while b:  # several events are read at once: watch, mask, cookie, length of the name
            watch, _, _, length = struct.unpack("iIII", b[:16])
            b = b[16 + length:]
            print("EVENT", names[watch], flush=True)
    if time.monotonic() - last > 3:
        print("GAP of %.1f s" % (time.monotonic() - last), flush=True)
    last = time.monotonic()
    if os.path.exists("/watch-deleted"):
        os.remove("/watch-deleted")
        f = open("/deleted", "w")
        libc.inotify_add_watch(fd, b"/deleted", 0x2)
        os.remove("/deleted")
        print("DELETED", flush=True)
P
until_log() { for _ in {1..150}; do snapctl logs $1 2>/dev/null | tail -n +$((${3:-0} + 1)) | grep -q "$2" && return 0; sleep 0.1; done; return 1; }
stir() {
	local seen; seen=$(snapctl logs $1 | wc -l)
	snapctl exec $1 -- sh -c 'touch /somewhere/else/$$; chmod 0644 /etc/hostname; touch /data/$$'
	for name in /somewhere/else /etc/hostname /data; do until_log $1 "EVENT $name" $seen || wrong "$2: no event of $name"; done
}
snapctl run --name $app --bind "$d/data:/data" -- /usr/bin/python3 "$d/app.py" >/dev/null || skip "run"
started
stir $app "before"
message=$(snapctl hibernate $app 2>&1) || wrong "hibernate: ${message:0:200}"
message=$(snapctl wake $app 2>&1) || wrong "wake: ${message:0:200}"
stir $app "after the wake"
message=$(snapctl snapshot $app --name $app-1 2>&1) || wrong "snapshot: ${message:0:200}"
snapctl rm --force $app >/dev/null 2>&1
message=$(snapctl restore $app-1 --as $app-1 2>&1) || wrong "restore: ${message:0:200}"
stir $app-1 "restored"
message=$(snapctl hibernate $app-1 2>&1) && message=$(snapctl wake $app-1 2>&1) || wrong "hibernate and wake of the restored: ${message:0:200}"
stir $app-1 "restored and woken"
message=$(snapctl snapshot $app-1 --name $app-2 2>&1) || wrong "snapshot of the restored: ${message:0:200}"
snapctl rm --force $app-1 >/dev/null 2>&1
message=$(snapctl restore $app-2 --as $app-2 2>&1) || wrong "restore from layers: ${message:0:200}"
stir $app-2 "restored from layers"
snapctl exec $app-2 -- touch /watch-deleted
until_log $app-2 DELETED || wrong "it does not watch a deleted file"
message=$(snapctl hibernate $app-2 2>&1) && wrong "hibernated with a watch on what has no path"
[[ $message == *inotify*descriptor* && $message != *criu* ]] || wrong "not refused by name: ${message:0:300}"
snapctl logs $app-2 | grep GAP && wrong "stood still"
ok "watched in all copies, and refused where there is no path: ${message:0:160}"
