#!/usr/bin/env bash
# A snapctld keeps its state, and its run directory, in different places of the host: below scratch space, in a home, behind a
# symbolic link, behind a bind mount, one in the other.
# Right: everywhere apps see the host's scratch space and the daemon's directories empty, and can write to their own scratch space.
# Needs: iproute2, snapctld on PATH (others are started, in a network namespace of their own).
# shellcheck source=testenv/cases/case.bash
. "$(dirname "$0")/case.bash"
ns=$app; mark=case-mark-$$; daemon=
marks=("/tmp/$mark" "/var/tmp/$mark" "/run/$mark")
stop() { # the daemon of this place, and its holder
	[ -n "$daemon" ] || return
	"${x[@]}" snapctl rm --force a b; kill $daemon; wait $daemon
	for p in /proc/[0-9]*; do grep -qz "^$run/holder.sock" $p/cmdline && kill ${p#/proc/} && while [ -e $p/exe ]; do sleep 0.05; done; done
	umount -R "$run/stubs"; daemon=
}
places=("/tmp/$mark.d" "/var/tmp/$mark.d" "/run/$mark.d" "/home/$mark.d")
end() { stop; umount "$d/bound"; ip netns del $ns; umount /run/netns; rmdir /run/netns; rm -rf "${marks[@]}" "${places[@]}"; }
command -v snapctld >/dev/null || skip "no snapctld on PATH"
ip netns add $ns && ip -n $ns link set lo up || skip "no network namespace"
touch "${marks[@]}"
mkdir -p "$d/real/deep" "$d/bound" "$d/behind"; ln -s real "$d/link"; mount --bind "$d/behind" "$d/bound" || skip "no bind mount"

try() { # STATE RUN REAL: apps must not see REAL either
	local state=$1 seen; run=$2
	mkdir -p "$run"
	x=(nsenter "--net=/run/netns/$ns" env "SNAPCTL_SOCKET=$run/snapctl.sock")
	"${x[@]}" snapctld --state-dir "$state" --run-dir "$run" >"$d/log" 2>&1 & daemon=$!
	for _ in {1..100}; do "${x[@]}" snapctl ps >/dev/null 2>&1 && break; sleep 0.1; done
	"${x[@]}" snapctl ps >/dev/null 2>&1 || skip "a second snapctld does not start with $state: $(tail -1 "$d/log")"
	for a in a b; do
		"${x[@]}" snapctl run --name $a -- sh -c "for f in ${marks[*]}; do [ -e \$f ] && echo SEES \$f; done
			for f in $state $run $3; do [ -z \"\$(ls -A \$f 2>/dev/null)\" ] || echo SEES what is in \$f; done
			for f in /tmp /var/tmp /run; do touch \$f/own || echo CANNOT write to \$f; done
			[ \$(stat -c %a /tmp)\$(stat -c %a /var/tmp) = 17771777 ] || echo CANNOT: not everybody may write to scratch space
			echo READY; sleep 1000" >/dev/null 2>&1 || skip "run with $state"
	done
	for a in a b; do
		for _ in {1..100}; do seen=$("${x[@]}" snapctl logs $a); grep -q READY <<<"$seen" && break; sleep 0.1; done
		grep -q READY <<<"$seen" || skip "an app with $state did not run: $seen"
		seen=$(grep -E '^(SEES|CANNOT)' <<<"$seen") && wrong "state directory $state: an app $(head -3 <<<"$seen" | tr '\n' ';')"
	done
	stop >/dev/null 2>&1
}
try /tmp/$mark.d/state /tmp/$mark.d/run /tmp
try /var/tmp/$mark.d/state /run/$mark.d/run /var/tmp
try /run/$mark.d/a/b/state /run/$mark.d/a/b/run /run/$mark.d
try /home/$mark.d/state /home/$mark.d/run /home/$mark.d/state
try "$d/link/state" "$d/link/run" "$d/real/state"
try "$d/real/deep" "$d/real/deep/run" "$d/real/deep"
try "$d/bound/state" "$d/bound/run" "$d/behind/state"
ok "in none of 7 places"
