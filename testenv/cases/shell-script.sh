#!/usr/bin/env bash
# A shell is recorded by script(1), which waits in poll(2) for what is typed and shown.
# Right: after two nights and in a restored copy script goes on, and the shell in it has its variables and its terminal.
# Needs: util-linux (script), bash, procps.
# shellcheck source=testenv/cases/case.bash
. "$(dirname "$0")/case.bash"
command -v script >/dev/null || skip "no script"
snapctl run --name $app --env TERM=xterm -- sh -c 'mkfifo /in; exec 3<>/in; script -qfc "bash --norc -i" /typescript </in >/shown 2>&1; echo ended >>/shown; sleep 1000' >/dev/null || skip "run"
types() { snapctl exec "$1" -- sh -c 'echo "$1" >/in' sh "$2"; }
sees() { for _ in {1..100}; do snapctl exec "$1" -- grep -qs -- "$2" /shown && return; sleep 0.1; done
	wrong "$1, $3: $2 is not shown, but $(snapctl exec "$1" -- tail -3 /shown 2>&1)"; }
for _ in {1..100}; do snapctl exec $app -- test -e /shown && break; sleep 0.1; done
types $app 'x=41; echo st$((1))arted'; sees $app st1arted start
for n in 1 2; do
	message=$(snapctl hibernate $app 2>&1) || wrong "hibernate is refused: ${message:0:300}"
	snapctl wake $app >/dev/null || wrong "does not wake"
	types $app "echo w\$((x + $n))oken \$(tty </dev/tty)"; sees $app "w$((41 + n))oken /dev/tty" "night $n"
done
message=$(snapctl snapshot --stop --name $app-s $app 2>&1) || wrong "snapshot is refused: ${message:0:300}"
message=$(snapctl restore $app-s --as $app-2 2>&1) || wrong "restore: ${message:0:300}"
types $app-2 'echo r$((x + 3))estored'; sees $app-2 r44estored restored
ok "script goes on"
