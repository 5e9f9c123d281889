#!/bin/bash
# Makes the dumps in this folder anew, with CRIU 4.2 ($CRIU or the one in the
# path). Needs root and Python 3.9. Memory pages are left out, but for their
# size.
#
#   plain    pid, net, ipc and uts namespaces; connections not saved (--tcp-close)
#   sandbox  mount and time namespaces too; connections saved
set -eu
criu=${CRIU:-criu}
here=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d /tmp/example.XXXXXX)
trap 'rm -rf "$work"' EXIT
mkfifo "$work/started"

# dump NAME PIDFILE-NAMESPACES... -- CRIU-OPTIONS...
dump() {
	local name=$1 unshare=() up pid net
	shift
	while [ "$1" != -- ]; do unshare+=("$1"); shift; done
	shift
	rm -rf "${here:?}/$name"
	mkdir "$here/$name"
	SANDBOX=$work/root APP=$here/app.py NAME=$name setsid unshare -n -p -i -u "${unshare[@]}" --fork bash -c '
		set -e
		if [ "$NAME" = sandbox ]; then
			mkdir -p "$SANDBOX"
			mount -t tmpfs tmpfs "$SANDBOX"
			mkdir "$SANDBOX"/{upper,work,root}
			mount -t overlay -o "lowerdir=/,upperdir=$SANDBOX/upper,workdir=$SANDBOX/work" overlay "$SANDBOX/root"
			cp "$APP" "$SANDBOX/root/srv/app.py"
			cd "$SANDBOX/root"
			mount -t proc proc proc
			mount -t tmpfs tmpfs tmp
			touch dev/null
			mount --bind /dev/null dev/null
			mkdir -p mnt/old
			pivot_root . mnt/old
			umount -l /mnt/old
			APP=/srv/app.py
		fi
		cd /
		echo "in a file" >/tmp/output
		exec setsid /usr/bin/python3 -S "$APP" </dev/null >>/tmp/output 2>&1
	' &
	up=$!
	until pid=$(cat "/proc/$up/task/$up/children") && pid=${pid% } && [ -n "$pid" ] &&
		[ -e "/proc/$pid/root/tmp/ready" ]; do
		kill -0 "$up" || return
		read -rt 0.1 <>"$work/started" || true
	done
	net=$(stat -Lc %i "/proc/$pid/ns/net")
	"$criu" dump -t "$pid" -D "$here/$name" -o "$work/log" -v4 --skip-in-flight --network-lock skip \
		--manage-cgroups=ignore --external "net[$net]:app-net" "$@" ||
		{ tail -30 "$work/log"; kill -9 "$pid"; }
	wait "$up" || true
	rm -f /tmp/ready /tmp/output
	(
		cd "$here/$name"
		stat -c '%n %s' pages-*.img >pages.txt
		rm pages-*.img
	)
}

dump plain -- --tcp-close
dump sandbox -m -T -- --tcp-established --external "mnt[/dev/null]:dev-null"
