#!/usr/bin/env bash
# A person has an editor, a pager, top, a shell with jobs and programs that read /dev/tty open in tmux; the app sleeps, is
# saved, restored and cloned.
# Right: each goes on where it was, in the terminal's size and settings, and can open /dev/tty again; new jobs obey Ctrl-C
# and Ctrl-Z. Programs below a shell have the terminal, too; what lives on without its parent is listed.
# Needs: tmux, bash, dash, vim-tiny (vi), less, procps.
# shellcheck source=testenv/cases/case.bash
. "$(dirname "$0")/case.bash"
for p in tmux dash vi less top; do command -v $p >/dev/null || skip "no $p"; done
t="tmux -L work"
snapctl run --name $app --env TERM=xterm --env LANG=C.UTF-8 -- sh -c "seq 1 500 >/lines
	$t new-session -d -s s -x 100 -y 30 'exec bash --norc'; $t new-window 'exec dash -i'; $t new-window 'bash --norc -c \"cat </dev/tty\"'
	$t new-window 'less /lines'; $t new-window 'cat /lines | less'; $t new-window top; $t new-window 'vi /text'; echo READY; sleep 1000" >/dev/null || skip "run"
started
at=$app
keys() { snapctl exec $at -- $t send-keys -t s:"$1" "${@:2}"; }
sees() { for _ in {1..80}; do snapctl exec $at -- $t capture-pane -p -t s:"$1" | grep -qE -- "$2" && return; sleep 0.1; done
	wrong "$at, $3: window $1 does not show $2: $(snapctl exec $at -- $t capture-pane -p -t s:"$1" | grep . | tail -5)"; }
sees 3 '^29$' start; sees 4 '^29$' start; sees 5 '^Tasks:' start; sees 6 '^~' start
keys 0 'x=41; sleep 900 &' Enter; keys 0 'stty -echoctl; sleep 901' Enter; keys 1 'y=51' Enter; keys 6 'ihello'
sees 6 hello start
for _ in {1..50}; do snapctl exec $app -- pgrep -f '^sleep 901' >/dev/null && break; sleep 0.1; done
keys 0 C-z; sees 0 Stopped start

check() { # WHEN N
	keys 0 "clear; echo \$((x + $2)) \$(jobs | grep -c Stopped) \$(jobs | grep -c Running) \$(stty size </dev/tty) \$(stty -a | grep -o -- '-echoctl')" Enter
	sees 0 "^$((41 + $2)) 1 1 30 100 -echoctl\$" "$1"
	keys 0 'clear; sleep 50' Enter; for _ in {1..50}; do snapctl exec $at -- pgrep -f '^sleep 50' >/dev/null && break; sleep 0.1; done
	keys 0 C-c; keys 0 "echo in\$((100 + $2))terrupted" Enter; sees 0 "in$((100 + $2))terrupted" "$1"
	keys 1 "clear; echo \$((y + $2)) \$(stty size </dev/tty)" Enter; sees 1 "^$((51 + $2)) 30 100\$" "$1"
	keys 2 "typed$2" Enter; [ "$(for _ in {1..50}; do snapctl exec $at -- $t capture-pane -p -t s:2 | grep -c "^typed$2" | grep -x 2 && break; sleep 0.1; done)" = 2 ] || wrong "$1: cat does not read /dev/tty"
	keys 3 G; sees 3 '^500$' "$1"; keys 3 g; sees 3 '^29$' "$1"
	keys 4 G; sees 4 '^500$' "$1"; keys 4 g; sees 4 '^29$' "$1"
	keys 6 " again$2"; sees 6 "^hello.* again$2" "$1"
	keys 5 q # top reads it from its terminal; tmux closes the window
	closed() { ! snapctl exec $at -- $t list-windows | grep -q '^5:'; }
	for _ in {1..50}; do closed && break; sleep 0.1; done
	closed || wrong "$1: top does not end on q"
	snapctl exec $at -- $t new-window -t s:5 top; sees 5 '^Tasks:' "$1"
}
message=$(snapctl hibernate $app 2>&1) || wrong "hibernate is refused: ${message:0:300}"
[[ $message != *"controlling terminal"* ]] || wrong "programs are said to lose their controlling terminal: $message"
snapctl wake $app >/dev/null || wrong "does not wake"
check woken 1
message=$(snapctl snapshot --name $app-s $app 2>&1) || wrong "snapshot is refused: ${message:0:300}"
check "after a snapshot" 2
message=$(snapctl restore $app-s --as $app-2 --endpoint 10.77.9.9 2>&1) || wrong "restore: ${message:0:300}"
at=$app-2; check restored 3
at=$app
message=$(snapctl template create $app-t --from $app-s 2>&1) || wrong "template: ${message:0:300}"
message=$(snapctl clone $app-t --name $app-3 2>&1) || wrong "clone: ${message:0:300}"
at=$app-3; check cloned 4
ok "editor, pagers, top, shells and jobs go on: woken, after a snapshot, restored, cloned"
