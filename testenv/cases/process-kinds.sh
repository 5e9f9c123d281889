#!/usr/bin/env bash
# Threads and processes that CRIU can't save, or saves and can't bring back: a thread with files, a umask, a root directory or
# a host name of its own; a child that shares memory or directories with its parent; a vfork in progress; a process whose
# first thread has ended; a SIGTRAP that waits; a thread of SCHED_DEADLINE; a new mount namespace, with /dev/null of the old.
# Right: each is refused, by name, before the freeze, for hibernate and snapshot, and can be removed. Needs: gcc.
# shellcheck source=testenv/cases/case.bash
. "$(dirname "$0")/case.bash"
cat >"$d/main.c" <<'C'
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>
static const char *what;
static int is(const char *name) { return !strcmp(what, name); }
static int ready(int rc) { if (rc) perror("CANNOT"); else puts("READY"); fflush(stdout); return rc; }
static void *thread(void *none) {
	unsigned attr[12] = {48, 6};
	*(unsigned long *)(attr + 6) = 1000000, *(unsigned long *)(attr + 8) = *(unsigned long *)(attr + 10) = 10000000;
	if (is("files")) ready(unshare(CLONE_FILES));
	if (is("umask")) { int rc = unshare(CLONE_FS); umask(077); ready(rc); }
	if (is("root")) ready(unshare(CLONE_FS) || chroot("/usr"));
	if (is("uts")) ready(unshare(CLONE_NEWUTS));
	if (is("deadline")) ready(syscall(SYS_sched_setattr, 0, attr, 0));
	if (is("leader")) sleep(1), ready(0);
	for (;;) pause();
}
static char stack[65536];
static int child(void *none) { for (;;) pause(); }
int main(int argc, char **argv) {
	pthread_t t;
	what = argv[1];
	if (is("memory")) ready(clone(child, stack + sizeof stack, CLONE_VM | SIGCHLD, 0) < 0);
	else if (is("directories")) ready(clone(child, stack + sizeof stack, CLONE_FS | SIGCHLD, 0) < 0);
	else if (is("mounts")) ready(open("/etc/passwd", 0) < 0 || unshare(CLONE_NEWNS));
	else if (is("vfork")) { ready(0); if (!vfork()) for (;;) pause(); }
	else if (is("trap")) {
		sigset_t s;
		sigemptyset(&s), sigaddset(&s, SIGTRAP), sigprocmask(SIG_BLOCK, &s, 0);
		ready(kill(getpid(), SIGTRAP));
	} else {
		pthread_create(&t, 0, thread, 0);
		if (is("leader")) pthread_exit(0);
	}
	for (;;) pause();
}
C
gcc -pthread -o "$d/main" "$d/main.c" || skip "no compiler"
tried=""
for what in files umask root uts deadline leader memory directories mounts vfork trap; do
	# The root process of the app is another one: CRIU gives it special treatment.
	for below in "" "below"; do
		if [ -n "$below" ]; then set -- sh -c "$d/main $what & wait"; else set -- "$d/main" $what; fi
		snapctl run --name $app -- "$@" >/dev/null || skip "run"
		for _ in {1..150}; do snapctl logs $app 2>/dev/null | grep -qE 'READY|CANNOT' && break; sleep 0.1; done
		snapctl logs $app | grep -q READY || { snapctl rm --force $app >/dev/null; continue; }
		for command in "hibernate" "snapshot --name $app-s"; do
			if message=$(timeout 60 snapctl $command $app 2>&1); then
				# Below the root process a mount namespace is kept, and /dev/null is on a mount of the root process.
				[ "$what $below" = "mounts below" ] || wrong "$what $below: $command: $message"
				snapctl wake $app >/dev/null || wrong "$what $below: does not wake"
				snapctl hibernate $app >/dev/null && snapctl wake $app >/dev/null || wrong "$what $below: does not wake a second time"
				continue
			fi
			[[ $message =~ (process|thread)\ [0-9]+ && $message != *criu* ]] || wrong "$what $below: $command refused, without a name: ${message:0:300}"
		done
		[ "$(snapctl ps | awk -v a=$app '$1 == a {print $2}')" = running ] || wrong "$what $below: no longer runs: $(snapctl ps)"
		snapctl rm --force $app >/dev/null || wrong "$what $below: is not removed"
		tried="$tried $what"
	done
done
[ -n "$tried" ] || skip "this kernel makes none of them"
ok "refused by name:$tried"
