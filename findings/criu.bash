# Sourced by findings about CRIU: a private CRIU, a place to dump to, and what most of them do.
# shellcheck source=findings/finding.bash
. "$(dirname "${BASH_SOURCE[0]}")/finding.bash"
CRIU=$(unset SNAPCTL_CRIU; SNAPCTL_CRIU_PREFIX=$tmp/criu scripts/deps criu)
version=$("$CRIU" --version | sed -n 's/^Version: //p')
echo "CRIU $version, Linux $(uname -r)"
mkdir "$tmp/images"
# Runs a script that uses the functions below. In namespaces of its own, so that ids are
# free again for the restore.
inside() { # SCRIPT: has CRIU, tmp and images in its environment
	env CRIU="$CRIU" tmp="$tmp" unshare --mount --pid --fork --kill-child --mount-proc --net bash -c \
		"$(declare -f start dump restore until_file); set -euo pipefail; mount -t tmpfs tmpfs /run; ip link set lo up; $1"
}
until_file() { # FILE
	local i; for ((i = 0; i < 600; i++)); do [ ! -e "$1" ] || return 0; sleep 0.05; done
	echo "no ${1##*/} after half a minute" >&2; return 1
}
# Starts a program in a session of its own, with no descriptor but 0, 1 and 2, and waits
# until it has made the file $tmp/ready. Its id is in $pid.
start() { # COMMAND...
	# shellcheck disable=SC2016 # for the shell inside
	setsid bash -c 'for fd in /proc/$$/fd/*; do [ "${fd##*/}" -lt 3 ] || eval "exec ${fd##*/}>&-"; done; exec "$@"' \
		start "$@" </dev/null >/dev/null 2>&1 &
	pid=$!
	until_file "$tmp/ready"
}
dump() { # OPTION...: the process $pid, which ends by it
	"$CRIU" dump "$@" -t "$pid" -D "$tmp/images" -o log >/dev/null 2>&1 || { grep Error "$tmp/images/log" >&2; return 1; }
	while [ -e "/proc/$pid" ]; do sleep 0.05; wait || true; done 2>/dev/null
}
restore() { # OPTION...
	"$CRIU" restore -d "$@" -D "$tmp/images" -o log >/dev/null 2>&1 || { grep Error "$tmp/images/log" >&2; return 1; }
}
