#!/usr/bin/env bash
# A program has tuned its listener, and has joined multicast groups. It is saved, and restored, cloned, and saved again
# from a copy and while it sleeps. Right: every copy's sockets have the same options, groups and owner.
# Needs: python3.
# shellcheck source=testenv/cases/case.bash
. "$(dirname "$0")/case.bash"
cat >"$d/app.py" <<'P'
import os, socket, struct, time
S, I, T, U, I6 = socket.SOL_SOCKET, socket.IPPROTO_IP, socket.IPPROTO_TCP, socket.IPPROTO_UDP, socket.IPPROTO_IPV6
eth = socket.if_nametoindex("eth0")
listener = socket.socket(); listener.setsockopt(S, socket.SO_REUSEADDR, 1)
for level, name, value in (T, 13, b"reno"), (T, 9, 7), (T, 23, 5), (T, 18, 4321), (T, 25, 9999), (T, 7, 3), (T, 8, 11), (T, 10, 33333), (T, 27, 1), (T, 2, 1000), (S, 46, 50), (S, 60, 1), (S, 47, 99999):
    listener.setsockopt(level, name, value)
listener.bind(("0.0.0.0", 7000)); listener.listen(5)
six = socket.socket(socket.AF_INET6); six.setsockopt(I6, 26, 1)
six.setsockopt(I6, socket.IPV6_TCLASS, 0x28); six.setsockopt(I6, socket.IPV6_UNICAST_HOPS, 12)
six.bind(("::", 7001)); six.listen(5)
udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
for level, name, value in (I, 11, 1), (I, 13, 1), (I, 12, 1), (I, 10, 3), (U, 103, 1200), (U, 104, 1), (U, 100, 2), (S, 11, 1), (S, 37, 0x18), (S, 40, 1), (I, 19, 1), (I, 33, 9), (I, 34, 0), (I, 49, 0), (I, 50, struct.pack("!I", eth)):
    udp.setsockopt(level, name, value)
udp.setsockopt(I, 32, socket.inet_aton("127.0.0.1"))
udp.bind(("0.0.0.0", 7002))
udp.setsockopt(I, socket.IP_ADD_MEMBERSHIP, struct.pack("4s4si", socket.inet_aton("224.0.0.251"), b"", eth))
udp.setsockopt(I, 39, struct.pack("4s4s4s", socket.inet_aton("232.1.2.3"), socket.inet_aton("127.0.0.1"), socket.inet_aton("10.99.0.9")))
udp6 = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM); udp6.bind(("::", 7003))
udp6.setsockopt(I6, socket.IPV6_JOIN_GROUP, struct.pack("16si", socket.inet_pton(socket.AF_INET6, "ff02::fb"), eth))
udp6.setsockopt(I6, socket.IPV6_MULTICAST_IF, eth); udp6.setsockopt(I6, socket.IPV6_MULTICAST_HOPS, 9)
nl = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0); nl.setsockopt(270, 11, 1); nl.setsockopt(270, 5, 1)
for s in listener, udp:
    os.chown(s.fileno(), 33, 34)
def options():
    out = []
    for name, s in ("listener", listener), ("six", six), ("udp", udp), ("udp6", udp6), ("netlink", nl):
        for level in S, I, T, U, I6, 270:
            for o in range(0, 110):
                # What passes: errors, the time of a packet, TCP_INFO, TCP_TIMESTAMP, queue lengths, cookies, numbers of namespaces, the port range.
                if (level, o) in ((S, 4), (S, 57), (S, 71), (S, 56), (S, 55), (S, 49), (T, 11), (T, 24), (T, 26), (S, 2), (S, 7), (S, 8), (S, 15), (S, 72)) or level == T and o in (19, 28, 35): continue
                try: v = s.getsockopt(level, o, 64)
                except OSError: continue
                out.append("%s %d/%d=%s" % (name, level, o, v.hex()))
        out.append("%s owner %d:%d" % (name, os.fstat(s.fileno()).st_uid, os.fstat(s.fileno()).st_gid))
    out += ["group " + " ".join(l.split()[0:2]) for l in open("/proc/net/igmp") if l.startswith("\t")]
    out += ["group6 " + l.split()[2] for l in open("/proc/net/igmp6") if l.split()[1] == "eth0" and l.split()[2].startswith("ff02" + "0" * 26)]
    out += ["source " + " ".join(l.split()[2:4]) for l in open("/proc/net/mcfilter").readlines()[1:]]
    return sorted(out)
i = 0
print("READY", flush=True)
while True:
    if os.path.exists("/go"):
        os.unlink("/go")
        with open("/out.tmp", "w") as f: f.write("\n".join(options()) + "\n")
        os.rename("/out.tmp", "/out")
    time.sleep(0.05)
P
snapctl run --name $app -- /usr/bin/python3 "$d/app.py" >/dev/null || skip "run"
started
options() { # of an app, as it tells itself
	snapctl exec $1 -- rm -f /out; snapctl exec $1 -- touch /go
	for _ in {1..100}; do snapctl exec $1 -- test -e /out && break; sleep 0.1; done
	snapctl exec $1 -- cat /out
}
options $app >"$d/before"
[ "$(wc -l <"$d/before")" -gt 100 ] || skip "the app tells nothing: $(head -3 "$d/before")"
same() { options $1 >"$d/after"; cmp -s "$d/before" "$d/after" || wrong "$2: $(diff "$d/before" "$d/after" | head -20 | tr '\n' ';')"; }
snapctl snapshot --name $app-s $app >/dev/null || wrong "snapshot fails"
snapctl restore $app-s --as $app-2 --endpoint 10.77.9.2 2>"$d/said" >/dev/null || wrong "restore fails: $(cat "$d/said")"
grep note "$d/said" | grep -qv 'random numbers' && wrong "restore says: $(cat "$d/said")"
same $app-2 "restored"
snapctl snapshot --name $app-s2 $app-2 >/dev/null && snapctl restore $app-s2 --as $app-3 --endpoint 10.77.9.3 >/dev/null || wrong "the copy can't be copied"
same $app-3 "restored from a snapshot of a copy"
snapctl template create $app-t --from $app >/dev/null && snapctl clone $app-t >/dev/null || wrong "clone fails"
same $app-t-1 "cloned"
snapctl hibernate $app >/dev/null && snapctl snapshot --name $app-s3 $app >/dev/null && snapctl restore $app-s3 --as $app-4 --endpoint 10.77.9.4 >/dev/null || wrong "it can't be saved while it sleeps"
same $app-4 "saved while it slept"
snapctl wake $app >/dev/null || wrong "wake fails"
same $app "woken"
ok "all copies have what $(wc -l <"$d/before") lines tell"
