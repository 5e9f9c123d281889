# Sourced: a private CRIU in a temporary folder, and a place to dump to.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
[ "$(id -u)" = 0 ] || { echo "needs root" >&2; exit 2; }
tmp=$(mktemp -d /var/tmp/finding.XXXXXX)
trap 'rm -rf "$tmp"' EXIT
CRIU=$(unset SNAPCTL_CRIU; SNAPCTL_CRIU_PREFIX=$tmp/criu scripts/deps criu)
version=$("$CRIU" --version | sed -n 's/^Version: //p')
echo "CRIU $version, Linux $(uname -r)"
want() { # WHAT EXPECTED-TO-BE-SEEN SEEN
	echo "$1: $3"
	[ "$2" = "$3" ] || { echo "changed: was $2 with CRIU 4.2.1" >&2; exit 1; }
}
mkdir "$tmp/images"
# Dumps and restores the processes of $1, with more options for the dump. In namespaces of
# its own, so that ids are free again.
inside() { # SCRIPT: runs with CRIU, tmp and images in its environment
	env CRIU="$CRIU" tmp="$tmp" unshare --mount --pid --fork --mount-proc --net bash -c "mount -t tmpfs tmpfs /run; ip link set lo up; $1"
}
