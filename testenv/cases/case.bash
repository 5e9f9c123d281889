# shellcheck shell=bash
# Sourced by each case: how it ends, a name for its app, a directory of its own, and what is
# removed afterwards. A case has names that begin with $app for all that it makes. If it has
# more to undo, it defines the function `end`.
set -u
app=case-$$; d=$(mktemp -d "${place:-/srv}/case.XXXXXX")
ok() { echo "ok: $*"; exit 0; }
wrong() { echo "wrong: $*"; exit 1; }
skip() { echo "skip: $*"; exit 77; }
# own prints the names in a table of snapctl that are the case's.
own() { # COMMAND...
	"$@" | awk -v app="$app" '$1 == app || index($1, app "-") == 1 { print $1 }'
}
clean() {
	local name
	! declare -F end || end
	for name in $(own snapctl ps); do timeout 20 snapctl rm --force "$name"; done
	for name in $(own snapctl template ls); do snapctl template rm "$name"; done
	for name in $(own snapctl snapshots); do timeout 20 snapctl snapshots rm "$name"; done
	rm -rf "$d"
}
trap 'clean >/dev/null 2>&1' EXIT
# started waits until an app has logged READY.
started() { # [APP]
	local name=${1:-$app}
	for _ in {1..150}; do
		! snapctl logs "$name" 2>/dev/null | grep READY >/dev/null || return 0
		sleep 0.1
	done
	skip "$name does not start: $(snapctl logs "$name" 2>&1 | tail -1)"
}
snapctl ps >/dev/null 2>&1 || skip "no snapctld answers"
