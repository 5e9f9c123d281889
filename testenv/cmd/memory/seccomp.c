/* Programs that confine themselves, before and after. */
#include "memory.h"

#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <sys/prctl.h>

/* confine answers errno e to system call nr, as the app's own filter. */
static long confine(unsigned nr, unsigned e, unsigned flags)
{
	struct sock_filter f[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, nr, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | e),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog p = { sizeof(f) / sizeof(f[0]), f };

	prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
	return syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, &p);
}

static long asks(long nr)
{
	errno = 0;
	return syscall(nr) == -1 ? errno : 0;
}

static pthread_barrier_t turn;

static void *confined_thread(void *arg)
{
	struct area *a = arg;

	must(!confine(SYS_getpgrp, 78, 0), "confine thread"); /* this one only */
	pthread_barrier_wait(&turn);
	pthread_barrier_wait(&turn);
	note("thread", "%ld %ld", asks(SYS_getppid), asks(SYS_getpgrp));
	TRY("dontneed in it", MAY_EINVAL, *a, madvise(a->at, a->len, MADV_DONTNEED));
	return NULL;
}

/* confined has filters of its own before: one of all threads, one of one. */
static void confined(void)
{
	struct area a = area(PAGES), b = area(PAGES);
	pthread_t t;

	must(!confine(SYS_getppid, 77, 0), "confine");
	must(!pthread_barrier_init(&turn, NULL, 2) && !pthread_create(&t, NULL, confined_thread, &b), "make thread");
	pthread_barrier_wait(&turn);
	frozen();
	note("own filter", "%ld %ld", asks(SYS_getppid), asks(SYS_getpgrp));
	TRY("dontneed", MAY_EINVAL, a, madvise(a.at, a.len, MADV_DONTNEED));
	pthread_barrier_wait(&turn);
	pthread_join(t, NULL);
	note("one more filter", "%ld", confine(SYS_getuid, 79, 0));
	note("asked", "%ld %ld", asks(SYS_getppid), asks(SYS_getuid));
}

/* forbidden has a filter that answers advice itself: the app's word counts as
   much as the guard's. */
static void forbidden(void)
{
	struct area a = area(PAGES);

	must(!confine(SYS_madvise, ENOSYS, 0), "confine");
	frozen();
	errno = 0;
	note("dontneed", "%d %s", madvise(a.at, a.len, MADV_DONTNEED) != 0, look(a));
	note("other advice", "%ld", (long)(madvise(a.at, a.len, MADV_WILLNEED) ? errno : 0));
}

static void *asking_thread(void *arg)
{
	(void)arg;
	pthread_barrier_wait(&turn);
	pthread_barrier_wait(&turn);
	note("thread", "%ld", asks(SYS_getppid));
	return NULL;
}

static void strict(void *arg)
{
	(void)arg;
	step("strict", prctl(PR_SET_SECCOMP, SECCOMP_MODE_STRICT, 0, 0, 0), MAY_EINVAL, "", "");
	syscall(SYS_exit, 0); /* all that strict mode lets it do */
}

/* synchronized confines all threads at once, afterwards: they must have the
   same filters for that. */
static void synchronized(void)
{
	struct area a = area(PAGES);
	pthread_t t;

	must(!pthread_barrier_init(&turn, NULL, 2) && !pthread_create(&t, NULL, asking_thread, NULL), "make thread");
	pthread_barrier_wait(&turn);
	frozen();
	note("confine all threads", "%ld", confine(SYS_getppid, 77, SECCOMP_FILTER_FLAG_TSYNC));
	note("itself", "%ld", asks(SYS_getppid));
	pthread_barrier_wait(&turn);
	pthread_join(t, NULL);
	TRY("dontneed", MAY_EINVAL, a, madvise(a.at, a.len, MADV_DONTNEED));
}

/* A process with a filter can't enter strict mode: kernel/seccomp.c,
   seccomp_may_assign_mode. With a guard it has one. */
static void stricter(void)
{
	struct area a = area(PAGES);

	frozen();
	in_child("strict mode", strict, NULL);
	TRY("its parent", NEVER, a, 0);
}

/* no_new_privs says whether it was set behind the program's back. */
static void no_new_privs(void)
{
	struct area a = area(PAGES);

	frozen();
	note("no_new_privs", "%d", prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0));
	TRY("memory", NEVER, a, 0);
}

const struct which seccomp_cases[] = {
	{ "seccomp", confined },
	{ "seccomp-madvise", forbidden },
	{ "seccomp-threads", synchronized },
	{ "seccomp-strict", stricter },
	{ "no-new-privs", no_new_privs },
	{ 0 },
};
