/* Locks in memory: those of threads, of processes, and of the dead. */
#include "memory.h"

#include <linux/futex.h>
#include <pthread.h>
#include <time.h>

static struct area a, b;

static long futex(void *at, int op, uint32_t v, const struct timespec *wait, void *at2, uint32_t v3)
{
	return syscall(SYS_futex, at, op, v, wait, at2, v3);
}

static pthread_barrier_t held;
static pthread_mutex_t *mutex; /* in area a, on an untouched page but for itself */
static int got = -1;

static pthread_mutex_t *make(int protocol, bool robust, bool shared)
{
	pthread_mutex_t *m = (pthread_mutex_t *)(a.at + 30 * PAGE + 128);
	pthread_mutexattr_t attr;

	must(!pthread_mutexattr_init(&attr) && !pthread_mutexattr_setprotocol(&attr, protocol), "make attributes");
	if (robust)
		must(!pthread_mutexattr_setrobust(&attr, PTHREAD_MUTEX_ROBUST), "make robust");
	if (shared)
		must(!pthread_mutexattr_setpshared(&attr, PTHREAD_PROCESS_SHARED), "make shared");
	must(!pthread_mutex_init(m, &attr), "make mutex");
	return m;
}

/* holder dies with the lock, or gives it back. */
static void *holder(void *arg)
{
	must(!pthread_mutex_lock(mutex), "lock");
	pthread_barrier_wait(&held);
	pthread_barrier_wait(&held);
	if (arg)
		pthread_mutex_unlock(mutex);
	return NULL;
}

static void *waiter(void *arg)
{
	(void)arg;
	got = pthread_mutex_lock(mutex);
	if (got == EOWNERDEAD)
		must(!pthread_mutex_consistent(mutex), "make consistent");
	if (!got || got == EOWNERDEAD)
		pthread_mutex_unlock(mutex);
	return NULL;
}

/* asleep waits until the other thread of its kind sleeps in the kernel. */
static void asleep(pthread_t t)
{
	/* FUTEX_WAITERS is set before it sleeps, for every kind of mutex but the
	   normal ones, where the word becomes 2. */
	(void)t;
	for (;;) {
		uint32_t v = __atomic_load_n((uint32_t *)&mutex->__data.__lock, __ATOMIC_ACQUIRE);

		if (v & FUTEX_WAITERS || v == 2)
			return;
		sched_yield();
	}
}

static void locked(int protocol, bool robust, bool shared, bool unlock)
{
	pthread_t h, w;

	a = area(PAGES);
	mutex = make(protocol, robust, shared);
	must(!pthread_barrier_init(&held, NULL, 2) && !pthread_create(&h, NULL, holder, unlock ? &held : NULL), "make thread");
	pthread_barrier_wait(&held);
	must(!pthread_create(&w, NULL, waiter, NULL), "make thread");
	asleep(w);
	frozen();
	pthread_barrier_wait(&held);
	pthread_join(h, NULL);
	pthread_join(w, NULL);
	note("waiter", "%s", got ? strerrorname_np(got) : "got it");
	note("lock again", "%d", pthread_mutex_lock(mutex));
	note("unlock", "%d", pthread_mutex_unlock(mutex));
	note("around it", "%s", look(part(a, 31, PAGES - 31)));
}

static void robust(void)
{
	locked(PTHREAD_PRIO_NONE, true, false, false);
}

static void robust_shared(void)
{
	locked(PTHREAD_PRIO_NONE, true, true, false);
}

static void robust_pi(void)
{
	locked(PTHREAD_PRIO_INHERIT, true, true, false);
}

static void pi(void)
{
	locked(PTHREAD_PRIO_INHERIT, false, false, true);
}

static void pi_shared(void)
{
	locked(PTHREAD_PRIO_INHERIT, false, true, true);
}

static void shared(void)
{
	locked(PTHREAD_PRIO_NONE, false, true, true);
}

static void plain(void)
{
	locked(PTHREAD_PRIO_NONE, false, false, true);
}

static int asked;

/* sleeper waits on a word of memory that nobody has written since. */
static void *sleeper(void *arg)
{
	int op = *(int *)arg;
	uint32_t *word = (uint32_t *)(a.at + 20 * PAGE), was = *word;

	__atomic_add_fetch(&asked, 1, __ATOMIC_RELEASE);
	while (__atomic_load_n(word, __ATOMIC_ACQUIRE) == was)
		if (futex(word, op, was, NULL, NULL, 0) && errno != EINTR && errno != EAGAIN)
			return (void *)(intptr_t)errno;
	return NULL;
}

static void sleepers(int op)
{
	pthread_t t[8];
	void *r;
	size_t bad = 0;

	a = area(PAGES);
	b = area(PAGES);
	for (int i = 0; i < 4; i++)
		must(!pthread_create(&t[i], NULL, sleeper, &op), "make thread");
	while (__atomic_load_n(&asked, __ATOMIC_ACQUIRE) < 4)
		sched_yield();
	frozen();
	for (int i = 4; i < 8; i++)
		must(!pthread_create(&t[i], NULL, sleeper, &op), "make thread");
	while (__atomic_load_n(&asked, __ATOMIC_ACQUIRE) < 8)
		sched_yield();
	__atomic_add_fetch((uint32_t *)(a.at + 20 * PAGE), 1, __ATOMIC_RELEASE);
	futex(a.at + 20 * PAGE, FUTEX_WAKE | (op & FUTEX_PRIVATE_FLAG), INT32_MAX, NULL, NULL, 0);
	for (int i = 0; i < 8; i++)
		bad += pthread_join(t[i], &r) || r;
	note("sleepers", "%zu wrong", bad);
	NOTE("compare", futex(b.at, FUTEX_WAIT | (op & FUTEX_PRIVATE_FLAG), *(uint32_t *)b.at + 1, NULL, NULL, 0), strerrorname_np(errno));
	note("requeue", "%ld", futex(b.at, FUTEX_CMP_REQUEUE | (op & FUTEX_PRIVATE_FLAG), 1, (void *)1, b.at + 8 * PAGE, *(uint32_t *)b.at));
	note("the memory", "%s / %s", look(a), look(b));
}

static void futexes(void)
{
	sleepers(FUTEX_WAIT | FUTEX_PRIVATE_FLAG);
}

static void futexes_shared(void)
{
	sleepers(FUTEX_WAIT);
}

const struct which futex_cases[] = {
	{ "mutex", plain },
	{ "mutex-shared", shared },
	{ "mutex-robust", robust },
	{ "mutex-robust-shared", robust_shared },
	{ "mutex-robust-pi", robust_pi },
	{ "mutex-pi", pi },
	{ "mutex-pi-shared", pi_shared },
	{ "futex", futexes },
	{ "futex-shared", futexes_shared },
	{ 0 },
};
