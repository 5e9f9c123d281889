#!/usr/bin/env bash
# Somebody is at work in an app by `snapctl exec --tty`, and leaves programs running there.
# Right: hibernate says which session is in the way and how to end it, --end-sessions ends it; a program that was left
# with the session's terminal is named, with its descriptor; one that was started apart from it sleeps and wakes.
# Needs: util-linux (script, setsid), procps.
# shellcheck source=testenv/cases/case.bash
. "$(dirname "$0")/case.bash"
snapctl run --name $app -- sleep 1000 >/dev/null || skip "run"
until_ok() { for _ in {1..100}; do "$@" >/dev/null 2>&1 && return; sleep 0.1; done; return 1; }
inside() { snapctl exec $app -- "$@"; }

# A session that is going on, with a job of its own.
script -qc "snapctl exec -it $app -- sh -c 'sleep 701 & sleep 702'" /dev/null </dev/null >/dev/null 2>&1 &
until_ok inside pgrep -f '^sleep 702' || skip "no session"
message=$(snapctl hibernate $app 2>&1) && wrong "hibernated with a session going on"
[[ $message == *"sleep 702"*"by \`snapctl exec\`"* && $message == *--end-sessions* ]] || wrong "the session is not named: $message"
message=$(snapctl hibernate --end-sessions $app 2>&1) || wrong "--end-sessions: $message"
snapctl wake $app >/dev/null || wrong "does not wake"
inside pgrep -f '^sleep 70' >/dev/null && wrong "the session's programs are still there"


# A program that was left running with the terminal of a session that is over.
script -qc "snapctl exec -it $app -- sh -c 'trap \"\" HUP; sleep 703 & sleep 0.2'" /dev/null </dev/null >/dev/null 2>&1
until_ok inside pgrep -f '^sleep 703' || skip "nothing was left running"
message=$(snapctl hibernate $app 2>&1) && wrong "hibernated with a terminal of the host"
[[ $message == *terminal*"as descriptor"*setsid* ]] || wrong "what was left is not named: $message"
inside pkill -f '^sleep 703'
gone() { ! inside pgrep -f '^sleep 703'; }
until_ok gone

# One that was started apart.
inside sh -c 'setsid sleep 704 </dev/null >/tmp/log 2>&1 &'
message=$(snapctl hibernate $app 2>&1) || wrong "a program that was started apart is in the way: $message"
snapctl wake $app >/dev/null || wrong "does not wake"
inside pgrep -f '^sleep 704' >/dev/null || wrong "the program that was started apart is gone"

# An app that is to sleep when it is idle stays awake while somebody is at work in it, and show says so.
snapctl run --name $app-i --hibernate-after 1s -- python3 -m http.server 8000 >/dev/null || skip "run"
status() { snapctl show $app-i | awk '$1 == "status:" {print $2}'; }
listens() { snapctl exec $app-i -- python3 -c 'import socket; socket.create_connection(("127.0.0.1", 8000))'; }
until_ok listens || skip "no server"
snapctl exec $app-i -- sh -c 'until test -e /stop; do sleep 0.1; done' &
said() { snapctl show $app-i | grep -q 'snapctl exec.*/stop'; }
until_ok said || wrong "show does not say why it is awake: $(snapctl show $app-i)"
sleep 3; [ "$(status)" = running ] || wrong "it was hibernated with a session going on"
snapctl exec $app-i -- touch /stop
asleep() { [ "$(status)" = held ]; }
until_ok asleep || wrong "it does not sleep after the session: $(snapctl show $app-i)"
ok "sessions are named and ended, what is left is named, what is apart survives"
