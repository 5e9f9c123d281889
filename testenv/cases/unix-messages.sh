#!/usr/bin/env bash
# Messages wait in unix sockets inside an app: empty ones, of named senders, by a name that is abstract, to a server with several
# clients, and with a descriptor in transit. Right: after hibernate and wake all are there, in order, with their senders, and new
# clients reach the server; they do not wake the app; what can't be kept is listed by the command, by snapshot too. Needs: python3.
# shellcheck source=testenv/cases/case.bash
. "$(dirname "$0")/case.bash"
cat >"$d/app.py" <<'P'
import os, socket, sys, time
kind = sys.argv[1]
def make(name=None, to=None, kind=socket.SOCK_DGRAM):
    s = socket.socket(socket.AF_UNIX, kind)
    s.settimeout(2)
    if name:
        s.bind(name)
    if to:
        s.connect(to)
    return s
server = make("/dev/log-x" if kind == "dev" else "\0abstract" if kind == "abstract" else "/run/server")
at = server.getsockname()
clients = [make(to=at), make(), make(name="/run/named", to=at), make(name="\0client")]
clients[0].send(b"zero"); clients[0].send(b""); clients[2].send(b"two"); clients[3].sendto(b"three", at); clients[3].close()
a, b = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
if kind != "rights":
    for m in b"", b"one", b"", b"two":
        a.send(m)
else:
    r, w = os.pipe()
    socket.send_fds(a, [b"pipe"], [w])
    os.close(w)
print("READY", flush=True)
while not os.path.exists("/go"):
    time.sleep(0.1)
def get(f):
    try:
        return f()
    except OSError as e:
        return e.strerror or "timeout"
b.settimeout(2)
got = [get(lambda: server.recvfrom(9)) for _ in "1234"], [get(lambda: b.recv(9)) for _ in "1234" if kind != "rights"]
new = make(name="/run/new")
got += get(lambda: new.sendto(b"new", at)), get(lambda: server.recvfrom(9)), get(lambda: clients[2].send(b"old")), get(lambda: server.recvfrom(9))
if kind == "rights":
    message, fds, _, _ = socket.recv_fds(b, 9, 1)
    os.write(fds[0], b"!")
    got += os.read(r, 1),
print("READ", *got, flush=True)
time.sleep(1000)
P
server="[(b'zero', None), (b'', None), (b'two', '/run/named'), (b'three', b'\\x00client')]"
later="3 (b'new', '/run/new') 3 (b'old', '/run/named')"
for kind in file dev abstract rights; do
	snapctl run --name $app -- /usr/bin/python3 "$d/app.py" $kind >/dev/null || skip "run"
	started
	message=$(snapctl snapshot $app --name $app-s 2>&1) || wrong "$kind: snapshot: $message"
	[[ $message == *messages\ wait* ]] || wrong "$kind: the snapshot does not list what its copies don't have: $message"
	snapctl snapshots rm $app-s >/dev/null
	message=$(snapctl hibernate $app 2>&1) || wrong "$kind: hibernate: $message"
	[ "$kind" = rights ] || [[ $message != *messages\ wait* ]] || wrong "$kind: listed: $message"
	[ "$kind" != rights ] || [[ $message == *messages\ wait* ]] || wrong "$kind: not listed: $message"
	snapctl snapshot $app --name $app-s 2>&1 | grep -q "messages wait" || wrong "$kind: the snapshot of the sleeping app lists nothing"
	snapctl snapshots rm $app-s >/dev/null
	[ "$(snapctl ps | awk -v a=$app '$1 == a {print $2}')" = held ] || wrong "$kind: woken by its own messages: $(snapctl ps)"
	timeout 15 snapctl wake $app >/dev/null 2>&1 || wrong "$kind: does not wake"
	snapctl exec $app -- touch /go
	for _ in {1..150}; do snapctl logs $app | grep -q '^READ ' && break; sleep 0.1; done
	read=$(snapctl logs $app | grep '^READ '); want="READ $server [b'', b'one', b'', b'two'] $later"
	[ "$kind" != rights ] || want="READ $server [] $later b'!'"
	[ "$read" = "$want" ] || wrong "$kind: after the wake: $read; before: $want"
	snapctl rm --force $app >/dev/null || wrong "$kind: is not removed"
done
ok "all messages are there, or listed"
