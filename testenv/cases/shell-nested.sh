#!/usr/bin/env bash
# A person has shells in shells open in tmux: bash in bash with a stopped job, dash below a script, su; and a program that
# lives on without the shell that started it.
# Right: after a wake, a snapshot and in a restored copy the inner shells have their terminal: they open /dev/tty, bring jobs to
# the foreground, and their background jobs are stopped when they read it. What lives on without its parent is listed.
# Needs: tmux, bash, dash, util-linux (su), procps.
# shellcheck source=testenv/cases/case.bash
. "$(dirname "$0")/case.bash"
for p in tmux dash su; do command -v $p >/dev/null || skip "no $p"; done
t="tmux -L work"
snapctl run --name $app --env TERM=xterm --env LANG=C.UTF-8 -- sh -c "$t new-session -d -s s -x 100 -y 30 'exec bash --norc'
	$t new-window 'bash --norc -c \"dash -i; true\"'; $t new-window 'exec bash --norc'; echo READY; sleep 1000" >/dev/null || skip "run"
started
at=$app
keys() { snapctl exec $at -- $t send-keys -t s:"$1" "${@:2}"; }
sees() { for _ in {1..80}; do snapctl exec $at -- $t capture-pane -p -t s:"$1" | grep -qE -- "$2" && return; sleep 0.1; done
	wrong "$at, $3: window $1 does not show $2: $(snapctl exec $at -- $t capture-pane -p -t s:"$1" | grep . | tail -5)"; }
# A shell tells what became of a job when it prompts the next time.
tells() { for _ in {1..80}; do keys "$1" "" Enter; sleep 0.2; snapctl exec $at -- $t capture-pane -p -t s:"$1" | grep -qE -- "$2" && return; done
	wrong "$at, $3: window $1 does not tell $2: $(snapctl exec $at -- $t capture-pane -p -t s:"$1" | grep . | tail -5)"; }
runs() { for _ in {1..80}; do snapctl exec $at -- pgrep -f "^$1" >/dev/null && return; sleep 0.1; done; wrong "$at, $2: $1 does not run"; }
keys 0 'bash --norc' Enter; keys 0 'x=41; echo in$((1))ner' Enter; sees 0 in1ner start
keys 0 'sleep 901' Enter; runs 'sleep 901' start; keys 0 C-z; sees 0 Stopped start
keys 1 'y=51; echo in$((1))ner' Enter; sees 1 in1ner start
keys 2 'exec su -s /bin/bash' Enter; keys 2 'PS1="su "; z=61; echo in$((1))ner' Enter; sees 2 in1ner start

check() { # WHEN N
	keys 0 "clear; echo \$((x + $2)) \$(jobs | grep -c Stopped) \$(stty size </dev/tty)" Enter; sees 0 "^$((41 + $2)) 1 30 100\$" "$1"
	keys 0 'clear; fg' Enter; sees 0 '^sleep 901' "$1"; keys 0 C-z; sees 0 'Stopped .*sleep 901' "$1"
	keys 0 'clear; cat </dev/tty &' Enter; tells 0 'Stopped .*cat' "$1" # SIGTTIN
	keys 0 'clear; kill %cat; while jobs %cat 2>&1 | grep -q Stopped; do sleep 0.1; done; echo gone' Enter; sees 0 '^gone$' "$1"
	keys 1 "clear; echo \$((y + $2)) \$(stty size </dev/tty)" Enter; sees 1 "^$((51 + $2)) 30 100\$" "$1"
	keys 2 "clear; echo \$((z + $2)) \$(stty size </dev/tty)" Enter; sees 2 "^$((61 + $2)) 30 100\$" "$1"
}
check start 0
message=$(snapctl hibernate $app 2>&1) || wrong "hibernate is refused: ${message:0:300}"
[[ $message != *"controlling terminal"* ]] || wrong "inner shells are said to lose their terminal: $message"
snapctl wake $app >/dev/null || wrong "does not wake"
check woken 1
keys 0 'clear; (sleep 902 &)' Enter; runs 'sleep 902' "without its parent"
message=$(snapctl snapshot --name $app-s $app 2>&1) || wrong "snapshot is refused: ${message:0:300}"
[[ $message == *"controlling terminal"*"(sleep)"* ]] || wrong "what lives on without its parent is not listed: $message"
check "after a snapshot" 2
message=$(snapctl restore $app-s --as $app-2 --endpoint 10.77.9.9 2>&1) || wrong "restore: ${message:0:300}"
at=$app-2; check restored 3
ok "inner shells have their terminal: woken, after a snapshot, restored"
