# shellcheck shell=bash
# Sourced by cases in which somebody works in a shell of the app over a connection that stays
# open. The case has its client in the background: what the terminal shows comes from
# descriptor 3, and what is typed goes to descriptor 4. A client takes a line
# "\0size ROWS COLUMNS" for a new size of its window.
: "${app:?}"
type_() { # TEXT: with the escapes of printf
	printf '%b' "$1" >&4
}
sees() { # TEXT WHEN
	local got='' part
	for _ in {1..200}; do
		IFS= read -r -t 0.1 -d '' -n 4096 part <&3
		got+=$part
		[[ $got != *"$1"* ]] || return 0
	done
	wrong "$2: the client does not see $1, but: ${got: -300}"
}
asleep() { # WHEN
	for _ in {1..300}; do
		! snapctl ps | grep -w "^$app" | grep -w held >/dev/null || return 0
		sleep 0.1
	done
	wrong "$1: it does not go to sleep: $(snapctl show "$app")"
}
# works is what somebody does in the shell. The app sleeps in between, and a key wakes it.
works() {
	type_ 'x=41; echo st$((1))arted\n'; sees st1arted start
	asleep "the client is silent"
	type_ 'echo $((x + 1)) $(readlink /proc/self/fd/0)\n'; sees '42 /dev/pts/' "after a night"
	type_ 'echo as""ked; read answer </dev/tty; echo "[$answer]"\n'; sees asked "a question"
	type_ ha; sees ha "half a line"
	asleep "half a line is typed"
	type_ 'lf\n'; sees '[half]' "the other half"
	asleep again
	type_ '\0size 40 132\n'; type_ 'stty size\n'; sees '40 132' "the window is larger"
	type_ 'trap "echo resi""zed" WINCH; echo tr$((1))apped\n'; sees tr1apped "trap"; asleep "with a trap"
	# The key is for a bash that got the signal just before it waited again: readline looks for signals after that.
	type_ '\0size 41 133\n\n'; sees resized "SIGWINCH"
	type_ 'sh -c "echo at w""ork; sleep 100"\n'; sees 'at work' job; asleep "with a job in the foreground"
	type_ '\032'; sees Stopped Ctrl-Z; asleep "with a stopped job"
	type_ 'jobs\n'; sees Stopped jobs
	type_ 'fg\n'; sees 'sleep 100' fg; asleep "with a continued job"
	type_ '\003'; type_ 'echo st$((2))atus $?\n'; sees 'st2atus 130' Ctrl-C
	type_ 'echo to"" the terminal >/dev/tty\n'; sees 'to the terminal' /dev/tty
}
