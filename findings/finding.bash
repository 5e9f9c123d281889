# Sourced by each finding: a temporary folder, pinned packages in it, and a comparison.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
[ "$(id -u)" = 0 ] || { echo "needs root" >&2; exit 2; }
tmp=$(mktemp -d /var/tmp/finding.XXXXXX)
trap 'rm -rf "$tmp"' EXIT
want() { # WHAT EXPECTED-TO-BE-SEEN SEEN
	echo "$1: $3"
	[ "$2" = "$3" ] || { echo "changed: it was $2" >&2; exit 1; }
}
# Unpacks Debian 12's packages below $tmp/root, and lets programs find their libraries there.
unpack() { # PACKAGE[=VERSION]...
	mkdir -p "$tmp/debs" "$tmp/root"
	(cd "$tmp/debs" && apt-get -qq -o APT::Sandbox::User=root download "$@")
	for deb in "$tmp"/debs/*.deb; do dpkg -x "$deb" "$tmp/root"; done
	local triplet; triplet=$(uname -m)-linux-gnu
	export LD_LIBRARY_PATH=$tmp/root/usr/lib/$triplet:$tmp/root/lib/$triplet
	PATH=$tmp/root/usr/sbin:$tmp/root/sbin:$tmp/root/usr/bin:$tmp/root/bin:$PATH
}
