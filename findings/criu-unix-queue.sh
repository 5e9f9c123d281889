#!/usr/bin/env bash
# CRIU 4.2.1 restores what waits unread in a unix socket of messages only up to the first
# empty message, and without all senders' addresses.
#
# Expected: "one", "" and "three", as they were sent; recvfrom tells who sent them.
# Seen: of SOCK_DGRAM and SOCK_SEQPACKET alike "one" is there, and "" and "three" are lost. A
# message of a sender that was not connected comes from nobody. A byte that was sent out of
# band (MSG_OOB) is an ordinary one. Dump and restore succeed and log nothing.
#
# Why: criu/sk-queue.c, dump_sk_queue, takes a read of 0 bytes for the end of the queue.
#
# What snapctl does: vem/hold/collect (messages.go) lists sockets in which such messages wait.
# shellcheck source=findings/criu.bash
. "$(dirname "$0")/criu.bash"
cat >"$tmp/app.py" <<'P'
import os, socket, sys, time
def pair(kind):
    out, into = socket.socketpair(socket.AF_UNIX, kind)
    for message in b"one", b"", b"three":
        out.send(message)
    return out, into
datagrams, packets = pair(socket.SOCK_DGRAM), pair(socket.SOCK_SEQPACKET)
receiver, sender = [socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) for _ in range(2)]
receiver.bind("\0finding-receiver")
sender.bind("\0finding-sender")
sender.sendto(b"one", "\0finding-receiver")
stream = socket.socketpair()
stream[0].send(b"ab")
stream[0].send(b"!", socket.MSG_OOB)
stream[0].send(b"cd")
open(sys.argv[1] + "/ready", "w").close()
while not os.path.exists(sys.argv[1] + "/go"):
    time.sleep(0.05)
def read(s):
    s.setblocking(False)
    got = []
    try:
        while len(got) < 3:
            got.append(s.recv(99).decode())
    except BlockingIOError:
        pass
    return got
with open(sys.argv[1] + "/read", "w") as f:
    print("datagrams", read(datagrams[1]), file=f)
    print("packets", read(packets[1]), file=f)
    print("sender", receiver.recvfrom(99)[1], file=f)
    print("stream", read(stream[1]), file=f)
os.rename(sys.argv[1] + "/read", sys.argv[1] + "/done")
P
# shellcheck disable=SC2016 # for the shell inside
inside '
	start python3 "$tmp/app.py" "$tmp"; touch "$tmp/go"; until_file "$tmp/done"; mv "$tmp/done" "$tmp/before"; rm "$tmp/go" "$tmp/ready"
	start python3 "$tmp/app.py" "$tmp"; dump; touch "$tmp/go"; restore; until_file "$tmp/done"'
want "without CRIU" "datagrams ['one', '', 'three']
packets ['one', '', 'three']
sender b'\\x00finding-sender'
stream ['ab', 'cd']" "$(cat "$tmp/before")"
want "after the restore" "datagrams ['one']
packets ['one']
sender None
stream ['ab!cd']" "$(cat "$tmp/done")"
