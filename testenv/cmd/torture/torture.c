/*
 * torture is an app whose threads allocate, resize, fill, check and free memory
 * without a pause, by chance that can be repeated. It knows what must be in
 * each block: what was written to it, and zeros where calloc says so. It runs
 * on whatever malloc it is linked or preloaded with. With the argument unaligned
 * it does not check that aligned memory is aligned.
 *
 * It serves one client at a time on port 7000, line by line:
 *
 *	check   answer: ok STEPS, the steps of all threads so far, or what is wrong
 *	stop    ends the threads, checks and frees all; answer: as check
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define THREADS 4
#define BLOCKS 400 /* of a thread */
#define SHARED 64  /* that threads hand to each other */

struct block {
	unsigned char *at;
	size_t len;
	uint64_t seed; /* of its content */
};

struct thread {
	pthread_t id;
	uint64_t state;
	unsigned long steps;
	struct block blocks[BLOCKS];
};

static struct thread threads[THREADS];
static struct block shared[SHARED];
static pthread_mutex_t shared_mu = PTHREAD_MUTEX_INITIALIZER, wrong_mu = PTHREAD_MUTEX_INITIALIZER;
static char wrong[256];
static volatile bool stop;
static bool unaligned;

/* What gives memory back to the kernel, where there is such a thing. */
extern int malloc_trim(size_t pad) __attribute__((weak));
extern void MallocExtension_ReleaseFreeMemory(void) __attribute__((weak));
extern void mi_collect(bool force) __attribute__((weak));

static uint64_t chance(struct thread *t, uint64_t n)
{
	uint64_t z = t->state += 0x9e3779b97f4a7c15;

	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
	z = (z ^ z >> 27) * 0x94d049bb133111eb;
	return (z ^ z >> 31) % n;
}

static void say(const char *format, ...)
{
	va_list args;

	va_start(args, format);
	pthread_mutex_lock(&wrong_mu);
	if (!wrong[0])
		vsnprintf(wrong, sizeof(wrong), format, args);
	pthread_mutex_unlock(&wrong_mu);
	va_end(args);
}

/* content is what byte i of a block must be. Long blocks are looked at in
   samples, of which each page has some. */
static unsigned char content(uint64_t seed, size_t i)
{
	return (unsigned char)((seed + i) * 0x9e3779b1 >> 13);
}

static size_t stride(size_t len)
{
	return len > 16384 ? 61 : 1;
}

static void fill(struct block *b)
{
	size_t by = stride(b->len);

	for (size_t i = 0; i < b->len; i += by)
		b->at[i] = content(b->seed, i);
}

static void check(struct block *b, size_t len, size_t by, const char *when)
{
	for (size_t i = 0; i < len; i += by)
		if (b->at[i] != content(b->seed, i)) {
			say("%s: block of %zu bytes at %p: byte %zu is %#x, want %#x", when, b->len, (void *)b->at, i, b->at[i], content(b->seed, i));
			return;
		}
}

static size_t size(struct thread *t)
{
	switch (chance(t, 40)) {
	case 0:
		return 1 + chance(t, 4 << 20);
	case 1:
	case 2:
	case 3:
		return 1 + chance(t, 200 << 10);
	case 4:
	case 5:
	case 6:
	case 7:
	case 8:
	case 9:
		return 1 + chance(t, 8 << 10);
	}
	return 1 + chance(t, 600);
}

static void allocate(struct thread *t, struct block *b)
{
	size_t align = 0;

	b->len = size(t);
	b->seed = chance(t, 1UL << 40);
	switch (chance(t, 4)) {
	case 0:
		b->at = malloc(b->len);
		break;
	case 1:
		align = 16UL << chance(t, 9);
		b->len = (b->len + align - 1) / align * align;
		b->at = aligned_alloc(align, b->len);
		break;
	case 2:
		align = 64UL << chance(t, 11);
		if (posix_memalign((void **)&b->at, align, b->len))
			b->at = NULL;
		break;
	default:
		b->at = calloc(1, b->len);
		for (size_t i = 0; b->at && i < b->len; i++)
			if (b->at[i]) {
				say("calloc of %zu bytes: byte %zu is %#x", b->len, i, b->at[i]);
				break;
			}
	}
	if (!b->at) {
		say("no memory for %zu bytes", b->len);
		b->at = malloc(b->len = 1);
	}
	if (align && !unaligned && (uintptr_t)b->at % align)
		say("block at %p is not aligned to %zu", (void *)b->at, align);
	fill(b);
}

static void release(struct block *b)
{
	check(b, b->len, stride(b->len), "before free");
	free(b->at);
	b->at = NULL;
}

static void resize(struct thread *t, struct block *b)
{
	size_t len = size(t), by = stride(b->len), old = b->len;
	unsigned char *p = realloc(b->at, len);

	if (!p) {
		say("no memory for %zu bytes", len);
		return;
	}
	b->at = p;
	b->len = len;
	check(b, old < len ? old : len, by, "after realloc");
	fill(b);
}

/* hand swaps a block with one that another thread made. */
static void hand(struct thread *t, struct block *b)
{
	struct block *s = &shared[chance(t, SHARED)], was;

	pthread_mutex_lock(&shared_mu);
	was = *s;
	*s = *b;
	*b = was;
	pthread_mutex_unlock(&shared_mu);
}

static void give_back(void)
{
	if (malloc_trim)
		malloc_trim(0);
	if (MallocExtension_ReleaseFreeMemory)
		MallocExtension_ReleaseFreeMemory();
	if (mi_collect)
		mi_collect(true);
}

static void *work(void *arg)
{
	struct thread *t = arg;

	while (!stop && !wrong[0]) {
		struct block *b = &t->blocks[chance(t, BLOCKS)];

		if (!b->at)
			allocate(t, b);
		else
			switch (chance(t, 8)) {
			case 0:
				check(b, b->len, stride(b->len), "now");
				break;
			case 1:
				resize(t, b);
				break;
			case 2:
				hand(t, b);
				break;
			default:
				release(b);
			}
		if (chance(t, 20000) == 0) { /* the load goes, and comes again */
			for (int i = 0; i < BLOCKS; i++)
				if (t->blocks[i].at)
					release(&t->blocks[i]);
			give_back();
		}
		__atomic_add_fetch(&t->steps, 1, __ATOMIC_RELAXED);
	}
	return NULL;
}

static void end(void)
{
	stop = true;
	for (int i = 0; i < THREADS; i++) {
		pthread_join(threads[i].id, NULL);
		for (int k = 0; k < BLOCKS; k++)
			if (threads[i].blocks[k].at)
				release(&threads[i].blocks[k]);
	}
	for (int i = 0; i < SHARED; i++)
		if (shared[i].at)
			release(&shared[i]);
}

static void serve(FILE *in, FILE *out)
{
	char line[256];

	while (fgets(line, sizeof(line), in)) {
		unsigned long steps = 0;

		if (!strncmp(line, "stop", 4))
			end();
		for (int i = 0; i < THREADS; i++)
			steps += __atomic_load_n(&threads[i].steps, __ATOMIC_RELAXED);
		if (wrong[0])
			fprintf(out, "error: %s\n", wrong);
		else
			fprintf(out, "ok %lu\n", steps);
		fflush(out);
	}
}

int main(int argc, char **argv)
{
	struct sockaddr_in at = { .sin_family = AF_INET, .sin_port = htons(7000) };
	int yes = 1, l = socket(AF_INET, SOCK_STREAM, 0);

	if (setsockopt(l, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof(yes)) || bind(l, (struct sockaddr *)&at, sizeof(at)) || listen(l, 16)) {
		perror("torture: error");
		return 1;
	}
	signal(SIGPIPE, SIG_IGN);
	unaligned = argc == 2 && !strcmp(argv[1], "unaligned");
	for (int i = 0; i < THREADS; i++) {
		threads[i].state = 1000 + i;
		if (pthread_create(&threads[i].id, NULL, work, &threads[i])) {
			perror("torture: error");
			return 1;
		}
	}
	for (;;) {
		int c = accept(l, NULL, NULL);

		if (c < 0)
			continue;
		FILE *in = fdopen(c, "r"), *out = fdopen(dup(c), "w");

		serve(in, out);
		fclose(in);
		fclose(out);
	}
}
