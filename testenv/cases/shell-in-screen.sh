#!/usr/bin/env bash
# A bash and a dash in screen.
# Right: after a wake and in a restored copy each shell has its variables and can open /dev/tty.
# Needs: screen, bash, dash, procps.
# shellcheck source=testenv/cases/case.bash
. "$(dirname "$0")/case.bash"
for p in screen dash; do command -v $p >/dev/null || skip "no $p"; done
s="screen -S work"
snapctl run --name $app --env TERM=xterm --env SCREENDIR=/tmp/screen --env LANG=C.UTF-8 -- sh -c "mkdir -m 700 /tmp/screen; screen -d -m -S work -t zero bash --norc
	$s -X screen 1 dash -i; echo READY; sleep 1000" >/dev/null || skip "run"
started
keys() { snapctl exec "$1" -- $s -p "$2" -X stuff "${3//\$/\\$}^M"; } # screen would take $x for its own
seen() { for _ in {1..80}; do [ "$(snapctl exec "$1" -- cat "$2" 2>/dev/null)" = "$3" ] && return; sleep 0.1; done
	wrong "$4: $(snapctl exec "$1" -- cat "$2" 2>&1), wanted $3"; }
# What is typed before a shell reads may be lost.
reads() { for _ in {1..80}; do keys $app "$1" "echo >/reads$1"; sleep 0.2; snapctl exec $app -- test -e "/reads$1" && return; done
	wrong "start, window $1: its shell does not read"; }
for w in 0 1; do reads $w; keys $app $w "x=4$w; tty </dev/tty >/tty$w; echo \$x >/out$w"; done
for w in 0 1; do seen $app /out$w 4$w "start, window $w"; done
check() { # APP WHEN N
	for w in 0 1; do keys "$1" $w "echo \$((x + $3)) \$(tty </dev/tty) >/out$w"; done
	for w in 0 1; do seen "$1" /out$w "$((40 + w + $3)) /dev/tty" "$2, window $w"; done
}
message=$(snapctl hibernate $app 2>&1) || wrong "hibernate is refused: ${message:0:300}"
snapctl wake $app >/dev/null || wrong "does not wake"
check $app woken 1
message=$(snapctl snapshot --name $app-s $app 2>&1) || wrong "snapshot is refused: ${message:0:300}"
check $app "after a snapshot" 2
message=$(snapctl restore $app-s --as $app-2 --endpoint 10.77.9.9 2>&1) || wrong "restore: ${message:0:300}"
check $app-2 restored 3
ok "the shells go on"
