#!/usr/bin/env bash
# CRIU 4.2.1 lets some system calls fail with EINTR in a process that it restores, though no
# signal has come.
#
# Expected: as after SIGSTOP and SIGCONT, poll, nanosleep and futex go on waiting. (epoll_wait,
# semtimedop and recv with SO_RCVTIMEO do not even then, see signal(7).)
# Seen: poll, with and without a time limit, nanosleep, and futex with a limit return EINTR.
# ppoll and pselect go on. util-linux 2.38.1's script ends by it: its loop takes no error of
# poll but EAGAIN (lib/pty-session.c, ul_pty_proxy_master).
#
# Why: what the kernel would continue by restart_syscall(2) (ERESTART_RESTARTBLOCK) CRIU ends
# with EINTR (compel/arch/x86/src/lib/infect.c, get_task_regs), since how long is left of the
# time is known to the kernel alone. A poll without a limit could be made anew.
#
# What snapctl does: snapshot/image/timing/poll.go has polls without a limit made anew after a restore.
# shellcheck source=findings/criu.bash
. "$(dirname "$0")/criu.bash"
cat >"$tmp/app.c" <<'C'
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/select.h>
#include <sys/sem.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
static const char *names[] = {"poll", "poll with a limit", "ppoll", "pselect", "epoll_wait", "nanosleep", "futex", "semtimedop", "recv"};
enum { N = sizeof names / sizeof *names };
static int ended[N];
static void *call(void *arg) {
	int n = (long)arg, r = 0, word = 0, pair[2];
	struct timespec t = {1000, 0};
	struct pollfd none;
	struct epoll_event e;
	struct sembuf b = {0, -1, 0};
	struct timeval limit = {1000, 0};
	char c;
	switch (n) {
	case 0: r = poll(&none, 0, -1); break;
	case 1: r = poll(&none, 0, 1000000); break;
	case 2: r = ppoll(&none, 0, &t, 0); break;
	case 3: r = pselect(0, 0, 0, 0, &t, 0); break;
	case 4: r = epoll_wait(epoll_create1(0), &e, 1, 1000000); break;
	case 5: r = nanosleep(&t, 0); break;
	case 6: r = syscall(SYS_futex, &word, FUTEX_WAIT, 0, &t, 0, 0); break;
	case 7: r = semtimedop(semget(IPC_PRIVATE, 1, 0600), &b, 1, &t); break;
	case 8:
		socketpair(AF_UNIX, SOCK_STREAM, 0, pair);
		setsockopt(pair[0], SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
		r = recv(pair[0], &c, 1, 0);
	}
	ended[n] = r < 0 ? errno : -1;
	return 0;
}
int main(int argc, char **argv) {
	pthread_t t;
	char path[300], part[300];
	for (long n = 0; n < N; n++) pthread_create(&t, 0, call, (void *)n);
	sleep(2); /* by then all wait */
	snprintf(path, sizeof path, "%s/ready", argv[1]);
	close(open(path, O_CREAT, 0600));
	snprintf(path, sizeof path, "%s/go", argv[1]);
	while (access(path, F_OK)) usleep(50000);
	sleep(2);
	snprintf(path, sizeof path, "%s/seen", argv[1]);
	snprintf(part, sizeof part, "%s.part", path);
	FILE *f = fopen(part, "w");
	for (int n = 0; n < N; n++) fprintf(f, "%s: %s\n", names[n], ended[n] ? strerror(ended[n]) : "waits");
	fclose(f);
	rename(part, path);
	pause();
}
C
gcc -pthread -o "$tmp/app" "$tmp/app.c"
# shellcheck disable=SC2016 # for the shell inside
inside '
	start "$tmp/app" "$tmp"; kill -STOP $pid; until grep -q "^State:.T" /proc/$pid/task/*/status; do sleep 0.05; done; sleep 1; kill -CONT $pid; touch "$tmp/go"; until_file "$tmp/seen"; mv "$tmp/seen" "$tmp/stopped"; rm "$tmp/go" "$tmp/ready"
	start "$tmp/app" "$tmp"; dump; touch "$tmp/go"; restore; until_file "$tmp/seen"'
want "after SIGSTOP and SIGCONT" "poll: waits
poll with a limit: waits
ppoll: waits
pselect: waits
epoll_wait: Interrupted system call
nanosleep: waits
futex: waits
semtimedop: Interrupted system call
recv: Interrupted system call" "$(cat "$tmp/stopped")"
want "after the restore" "poll: Interrupted system call
poll with a limit: Interrupted system call
ppoll: waits
pselect: waits
epoll_wait: Interrupted system call
nanosleep: Interrupted system call
futex: Interrupted system call
semtimedop: Interrupted system call
recv: Interrupted system call" "$(cat "$tmp/seen")"
