#!/usr/bin/env bash
# Linux 6.18: adding or removing a clsact or ingress qdisc loses packets that others send by the device.
#
# Expected: a clsact qdisc queues nothing, it is only what filters hang on, so a device that gets
# or loses an empty one goes on sending as before.
# Seen: while it is added or removed, datagrams that are sent by the device vanish: send(2) succeeds
# and no counter of the device tells (noop_qdisc counts none). What arrives by the device is not lost.
#
# Why: net/sched/sch_api.c, qdisc_graft, calls dev_deactivate for a device that is up also if the
# qdisc is one of ingress. Until dev_activate, an RCU grace period later, the queues to send have
# noop_qdisc, which drops everything. (Programs attached by tcx, Linux 6.6, need no qdisc.)
#
# What snapctl does: it attaches by tcx where it can, and never removes a clsact qdisc, only its
# filters (vem/fabric/tcx).
# shellcheck source=findings/finding.bash
. "$(dirname "$0")/finding.bash"
echo "Linux $(uname -r)"
unpack iproute2=6.1.0-3 libbpf1 libmnl0 libcap2 libelf1 libtirpc3
cat >"$tmp/main.py" <<'P'
import socket, subprocess, sys, threading
def run(*command): subprocess.run(command, check=True)
run("ip", "link", "add", "one", "type", "veth", "peer", "name", "two")
for name in "one", "two": run("ip", "link", "set", name, "up")
raw = lambda name: (lambda s: (s.bind((name, 0x88b5)), s)[1])(socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x88b5)))
frame = b"\xff" * 6 + b"\x02" * 6 + b"\x88\xb5" + b"x" * 46
def lost(device, kind):
    out, into, ended, count = raw("one"), raw("two"), threading.Event(), [0, 0]
    into.settimeout(0.2)
    def send():
        while not ended.is_set():
            out.send(frame)
            try: into.recv(100)
            except TimeoutError: count[0] += 1
            count[1] += 1
    t = threading.Thread(target=send)
    t.start()
    for _ in range(20):
        if kind:
            run("tc", "qdisc", "add", "dev", device, kind)
            run("tc", "qdisc", "del", "dev", device, kind)
    ended.wait(1)
    ended.set()
    t.join()
    assert count[1] > 50, count
    return "some" if count[0] else "none"
for device, kind in ("one", None), ("one", "clsact"), ("one", "ingress"), ("two", "clsact"):
    where = {"one": "the device that sends", "two": "the device that receives"}[device]
    print(f"{kind or 'nothing'} comes and goes at {where}: {lost(device, kind)} lost", flush=True)
P
want "packets" "nothing comes and goes at the device that sends: none lost
clsact comes and goes at the device that sends: some lost
ingress comes and goes at the device that sends: some lost
clsact comes and goes at the device that receives: none lost" "$(timeout 120 unshare -n python3 "$tmp/main.py")"
