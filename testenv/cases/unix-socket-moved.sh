#!/usr/bin/env bash
# A program binds unix listeners (and a datagram socket) and then renames the file, or links it and removes the first name
# (supervisord), or gives it a second name, or moves its directory.
# Right: new clients connect by the names that are there, after two sleeps, in a restored snapshot and in a clone.
# Needs: python3.
# shellcheck source=testenv/cases/case.bash
. "$(dirname "$0")/case.bash"
cat >"$d/app.py" <<'P'
import os, select, socket
def listener(path):
    s = socket.socket(socket.AF_UNIX)
    s.bind(path)
    s.listen(9)
    return s
os.mkdir("/run/x"); os.mkdir("/run/y")
all = [listener("/run/x/1.tmp"), listener("/run/x/2.tmp"), listener("/run/x/3"), listener("/run/y/4"), listener("/run/x/5")]
os.rename("/run/x/1.tmp", "/run/x/1")
os.link("/run/x/2.tmp", "/run/x/2"); os.unlink("/run/x/2.tmp")
os.link("/run/x/3", "/run/x/3b")
os.rename("/run/y", "/run/z")
d = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
d.bind("/run/x/6.tmp"); os.rename("/run/x/6.tmp", "/run/x/6")
print("READY", flush=True)
while True:
    for s in select.select(all + [d], [], [])[0]:
        if s is d:
            _, who = d.recvfrom(9)
            d.sendto(b"hello", who)
        else:
            c, _ = s.accept()
            c.sendall(b"hello")
            c.close()
P
cat >"$d/ask.py" <<'P'
import os, socket, sys
bad = []
for name in sys.argv[1:]:
    try:
        s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM if name.endswith("6") else socket.SOCK_STREAM)
        s.settimeout(5)
        if name.endswith("6"):
            s.bind("\0ask%d" % os.getpid()); s.sendto(b"?", name)
        else:
            s.connect(name)
        if s.recv(9) != b"hello":
            bad.append(name)
    except OSError as e:
        bad.append("%s: %s" % (name, e))
print(bad or "all")
P
ask() { snapctl exec $1 -- /usr/bin/python3 "$d/ask.py" /run/x/1 /run/x/2 $2 /run/z/4 /run/x/5 /run/x/6 2>&1 | tail -1; }
snapctl run --name $app -- /usr/bin/python3 "$d/app.py" >/dev/null || skip "run"
started
got=$(ask $app "/run/x/3 /run/x/3b"); [ "$got" = all ] || skip "does not work before: $got"
for round in 1 2; do
	message=$(snapctl hibernate $app 2>&1) || wrong "round $round: refused: ${message:0:200}"
	message=$(timeout 15 snapctl wake $app 2>&1) || wrong "round $round: does not wake: ${message:0:200}"
	got=$(ask $app "/run/x/3 /run/x/3b"); [ "$got" = all ] || wrong "round $round: $got"
done
message=$(snapctl snapshot $app --name $app-s 2>&1) || wrong "no snapshot: ${message:0:300}"
snapctl rm --force $app >/dev/null
message=$(snapctl restore $app-s --as $app-r 2>&1) || wrong "does not restore: ${message:0:300}"
got=$(ask $app-r /run/x/3); [ "$got" = all ] || wrong "restored: $got"
snapctl rm --force $app-r >/dev/null
message=$(snapctl template create $app-t --from $app-s 2>&1) || wrong "no template: ${message:0:300}"
message=$(snapctl clone $app-t --name $app-c 2>&1) || wrong "no clone: ${message:0:300}"
got=$(ask $app-c /run/x/3); [ "$got" = all ] || wrong "clone: $got"
ok "new clients connect everywhere"
