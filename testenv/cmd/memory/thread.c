/* The stacks of threads, of signals, and what belongs to a thread. */
#include "memory.h"

#include <pthread.h>

#define THREADS 100

static pthread_barrier_t filled, go;
static __thread char local[2 * PAGE];
static int bad;

static int dig(int n)
{
	volatile char pad[2000];

	memset((char *)pad, n, sizeof(pad));
	return (n ? dig(n - 1) : 0) + (pad[99] != (char)n);
}

static void *worker(void *arg)
{
	char room[17 * PAGE], *at = room + (PAGE - (uintptr_t)room % PAGE) % PAGE;
	struct area a = { at, 16 * PAGE, (uintptr_t)arg };

	fill(a);
	memset(local, (int)(uintptr_t)arg, sizeof(local));
	pthread_barrier_wait(&filled);
	pthread_barrier_wait(&go);
	/* look is for one thread at a time. */
	for (size_t i = 0; i < a.len; i += PAGE) {
		struct area copy = { malloc(PAGE), PAGE, 0 };

		memcpy(copy.at, a.at + i, PAGE);
		fill(part(a, i / PAGE, 1));
		if (memcmp(copy.at, a.at + i, PAGE))
			__atomic_add_fetch(&bad, 1, __ATOMIC_RELAXED);
		free(copy.at);
	}
	for (size_t i = 0; i < sizeof(local); i++)
		if (local[i] != (char)(uintptr_t)arg)
			__atomic_add_fetch(&bad, 1, __ATOMIC_RELAXED);
	if (dig(200))
		__atomic_add_fetch(&bad, 1, __ATOMIC_RELAXED);
	return NULL;
}

/* later gets the stack of a thread that ended, and zeros of its own. */
static void *later(void *arg)
{
	(void)arg;
	for (size_t i = 0; i < sizeof(local); i++)
		if (local[i])
			__atomic_add_fetch(&bad, 1, __ATOMIC_RELAXED);
	if (dig(200))
		__atomic_add_fetch(&bad, 1, __ATOMIC_RELAXED);
	memset(local, 1, sizeof(local));
	return NULL;
}

static void threads(void)
{
	pthread_t t[THREADS];
	pthread_attr_t small;

	must(!pthread_attr_init(&small) && !pthread_attr_setstacksize(&small, 1 << 20), "make attributes");
	must(!pthread_barrier_init(&filled, NULL, THREADS + 1) && !pthread_barrier_init(&go, NULL, THREADS + 1), "make barriers");
	for (uintptr_t i = 0; i < THREADS; i++)
		must(!pthread_create(&t[i], &small, worker, (void *)i), "make thread");
	pthread_barrier_wait(&filled);
	frozen();
	pthread_barrier_wait(&go);
	for (int i = 0; i < THREADS; i++)
		must(!pthread_join(t[i], NULL), "join");
	note("stacks", "%d wrong", bad);
	for (int round = 0; round < 3; round++) {
		for (int i = 0; i < THREADS; i++)
			must(!pthread_create(&t[i], &small, later, NULL), "make thread");
		for (int i = 0; i < THREADS; i++)
			must(!pthread_join(t[i], NULL), "join");
	}
	note("new threads", "%d wrong", bad);
}

/* A stack that the program gave. */
static void *on_own(void *arg)
{
	struct area a = *(struct area *)arg;

	pthread_barrier_wait(&filled);
	pthread_barrier_wait(&go);
	note("above its depth", "%s", kept(part(a, 0, 8)) ? "kept" : look(part(a, 0, 8)));
	note("depth", "%d", dig(50));
	return NULL;
}

static void own_stack(void)
{
	struct area a = area(2 * PAGES);
	pthread_attr_t attr;
	pthread_t t;

	must(!pthread_attr_init(&attr) && !pthread_attr_setstack(&attr, a.at, a.len), "make attributes");
	must(!pthread_barrier_init(&filled, NULL, 2) && !pthread_barrier_init(&go, NULL, 2), "make barriers");
	must(!pthread_create(&t, &attr, on_own, &a), "make thread");
	pthread_barrier_wait(&filled);
	frozen();
	pthread_barrier_wait(&go);
	pthread_join(t, NULL);
	note("after", "%s", look(part(a, 0, 8)));
}

static struct area alternate;
static volatile int on_it, nested;

static void handle(int sig)
{
	volatile char here;

	on_it += &here > alternate.at && &here < alternate.at + alternate.len;
	if (sig == SIGUSR1) {
		dig(20);
		raise(SIGUSR2);
	} else {
		nested++;
	}
}

static void altstack(void)
{
	struct sigaction act = { .sa_handler = handle, .sa_flags = SA_ONSTACK };
	stack_t s, now;

	alternate = area(PAGES);
	s = (stack_t){ .ss_sp = alternate.at, .ss_size = alternate.len };
	must(!sigaltstack(&s, NULL) && !sigaction(SIGUSR1, &act, NULL) && !sigaction(SIGUSR2, &act, NULL), "set up");
	frozen();
	must(!sigaltstack(NULL, &now), "ask for it");
	note("still there", "%d", now.ss_sp == alternate.at && now.ss_size == alternate.len && !(now.ss_flags & SS_DISABLE));
	for (int i = 0; i < 100; i++)
		raise(SIGUSR1);
	note("handled on it", "%d %d", on_it, nested);
	note("below", "%s", look(part(alternate, 0, 16)));
}

/* waiting is a signal frame on a stack that is frozen. */
static void wait_in_handler(int sig)
{
	(void)sig;
	frozen();
	note("in the handler", "%s", look(part(alternate, 0, 16)));
}

static void handler_frozen(void)
{
	struct sigaction act = { .sa_handler = wait_in_handler, .sa_flags = SA_ONSTACK };
	double d[4] = { 1.5, 2.5, 3.5, 4.5 };
	stack_t s;

	alternate = area(2 * PAGES);
	s = (stack_t){ .ss_sp = alternate.at, .ss_size = alternate.len };
	must(!sigaltstack(&s, NULL) && !sigaction(SIGUSR1, &act, NULL), "set up");
	raise(SIGUSR1);
	note("back", "%g", d[0] + d[1] + d[2] + d[3]);
}

const struct which thread_cases[] = {
	{ "threads", threads },
	{ "own-stack", own_stack },
	{ "altstack", altstack },
	{ "handler", handler_frozen },
	{ 0 },
};
