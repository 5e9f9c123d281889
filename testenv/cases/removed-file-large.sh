#!/usr/bin/env bash
# An app has a removed file open that has more bytes on the disk than are saved while an app stands still.
# Right: refused before the freeze, by process, descriptor, path and size, and the app goes on; cut down, it is saved.
# Needs: nothing.
# shellcheck source=testenv/cases/case.bash
. "$(dirname "$0")/case.bash"
snapctl run --name $app -- sh -c 'exec 5>/root/big; fallocate -l 1100M /root/big || exit; rm /root/big; echo READY
	while [ ! -e /go ]; do sleep 0.1; done; truncate -s 1000 /proc/self/fd/5; echo CUT; sleep 1000' >/dev/null || skip "run"
started
message=$(snapctl hibernate $app 2>&1) && wrong "hibernated, or not looked for"
[[ $message == *"/root/big"*1100* && $message != *CRIU:* ]] || wrong "refused, but: ${message:0:300}"
[ "$(snapctl show $app | awk '$1 == "status:" {print $2}')" = running ] || wrong "the app does not run"
snapctl exec $app -- touch /go
for _ in {1..150}; do snapctl logs $app 2>/dev/null | grep -q CUT && break; sleep 0.1; done
snapctl hibernate $app >/dev/null && snapctl wake $app >/dev/null || wrong "cut down, it is not saved"
ok "$message"
