/*
 * churn is an app whose memory changes in every way that memory can, by
 * chance that can be repeated, and that knows what must be in it: each private
 * region has a twin in shared memory, which nobody saves as the region is.
 *
 * It serves one client at a time on port 7000, line by line:
 *
 *	churn SEED COUNT   that many changes; answer: ok REFUSED, how many calls
 *	                   were refused and made up for
 *	check              answer: ok, or what is wrong
 *	evict              asks the kernel to page all of it out; answer: ok
 *	press MIB          uses that much more memory for a moment; answer: ok
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#define PAGE 4096UL
#define SLOTS 48
#define MOST (512 * PAGE) /* of a region */

struct slot {
	char *at;
	size_t len;
	bool block; /* malloc's, not a mapping */
};

static struct slot slots[SLOTS];
static char *twins; /* shared memory: MOST for each slot */
static uint64_t state;
static long refused;
static char wrong[256];

static uint64_t chance(uint64_t n)
{
	uint64_t z = state += 0x9e3779b97f4a7c15;

	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
	z = (z ^ z >> 27) * 0x94d049bb133111eb;
	return (z ^ z >> 31) % n;
}

static void say(const char *format, ...)
{
	va_list args;

	va_start(args, format);
	if (!wrong[0])
		vsnprintf(wrong, sizeof(wrong), format, args);
	va_end(args);
}

static void must(bool ok, const char *what)
{
	if (!ok)
		say("%s: %s", what, strerror(errno));
}

static char *twin(struct slot *s)
{
	return twins + (size_t)(s - slots) * MOST;
}

static void compare(struct slot *s, const char *when)
{
	if (s->at && memcmp(s->at, twin(s), s->len))
		for (size_t i = 0; i < s->len; i++)
			if (s->at[i] != twin(s)[i]) {
				say("%s: slot %d of %zu bytes at %p: byte %zu is %#x, want %#x", when, (int)(s - slots),
				    s->len, (void *)s->at, i, (unsigned char)s->at[i], (unsigned char)twin(s)[i]);
				return;
			}
}

static char *map(size_t len)
{
	char *p = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	must(p != MAP_FAILED, "map");
	return p;
}

static void make(struct slot *s)
{
	s->block = chance(3) == 0;
	s->len = (1 + chance(MOST / PAGE / 2)) * PAGE;
	s->at = s->block ? calloc(1, s->len) : map(s->len);
	must(s->at, "allocate");
	memset(twin(s), 0, MOST);
	compare(s, "new memory");
}

static void release(struct slot *s)
{
	if (s->block)
		free(s->at);
	else
		must(!munmap(s->at, s->len), "unmap");
	s->at = NULL;
}

/* some chooses a run of pages of a slot. */
static size_t some(struct slot *s, size_t *len)
{
	size_t from = chance(s->len / PAGE);

	*len = (1 + chance(s->len / PAGE - from)) * PAGE;
	return from * PAGE;
}

static void scribble(struct slot *s)
{
	size_t from = chance(s->len), len = 1 + chance(s->len - from > 9000 ? 9000 : s->len - from);

	for (size_t i = 0; i < len; i++)
		s->at[from + i] = twin(s)[from + i] = (char)chance(256);
}

/* give gives pages back, and wipes them if that is refused. */
static void give(struct slot *s)
{
	size_t len, from = some(s, &len);

	if (s->block)
		return;
	if (madvise(s->at + from, len, MADV_DONTNEED)) {
		refused++;
		memset(s->at + from, 0, len);
	}
	memset(twin(s) + from, 0, len);
}

/* lazily gives pages back that may stay until the kernel wants them. */
static void lazily(struct slot *s)
{
	size_t len, from = some(s, &len);

	if (s->block)
		return;
	refused += madvise(s->at + from, len, MADV_FREE) != 0;
	for (size_t i = 0; i < len; i += 512)
		s->at[from + i] = (char)i;
	memset(s->at + from, 3, len);
	memset(twin(s) + from, 3, len);
}

static void again(struct slot *s)
{
	size_t len, from = some(s, &len);

	if (s->block)
		return;
	must(!munmap(s->at + from, len), "unmap");
	must(mmap(s->at + from, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == s->at + from, "map again");
	memset(twin(s) + from, 0, len);
}

static void resize(struct slot *s)
{
	size_t len = (1 + chance(MOST / PAGE)) * PAGE;
	char *p;

	if (s->block) {
		p = realloc(s->at, len);
		must(p, "reallocate");
		if (len > s->len)
			memset(p + s->len, 0, len - s->len);
	} else {
		p = mremap(s->at, s->len, len, MREMAP_MAYMOVE);
		if (p == MAP_FAILED) {
			refused++;
			p = map(len);
			memcpy(p, s->at, len < s->len ? len : s->len);
			must(!munmap(s->at, s->len), "unmap");
		}
	}
	if (len > s->len)
		memset(twin(s) + s->len, 0, len - s->len);
	s->at = p;
	s->len = len;
}

static void protect(struct slot *s)
{
	size_t len, from = some(s, &len);

	if (s->block)
		return;
	must(!mprotect(s->at + from, len, chance(2) ? PROT_NONE : PROT_READ) &&
	     !mprotect(s->at, s->len, PROT_READ | PROT_WRITE), "protect");
}

/* beget forks a child that sees the same and changes it for itself. */
static void beget(struct slot *s)
{
	int status;
	pid_t pid;

	madvise(s->at, s->len, MADV_DOFORK);
	madvise(s->at, s->len, MADV_KEEPONFORK);
	pid = fork();

	if (!pid) {
		compare(s, "in a child");
		if (chance(2))
			memset(s->at, 0x77, s->len);
		else if (!s->block)
			madvise(s->at, s->len, MADV_DONTNEED);
		_exit(wrong[0] != 0);
	}
	must(pid > 0 && waitpid(pid, &status, 0) == pid, "fork");
	if (status)
		say("a child saw other memory in slot %d", (int)(s - slots));
	compare(s, "after a child");
}

/* through has the kernel write the memory. */
static void through(struct slot *s)
{
	struct slot *from = &slots[chance(SLOTS)];
	size_t len = from->len < s->len ? from->len : s->len;
	struct iovec v = { from->at, len }, to = { s->at, len };
	int p[2];

	if (from == s)
		return;
	if (chance(2)) {
		must(process_vm_writev(getpid(), &v, 1, &to, 1, 0) == (ssize_t)len, "write own memory");
	} else {
		len = len > 8 * PAGE ? 8 * PAGE : len;
		must(!pipe(p) && write(p[1], from->at, len) == (ssize_t)len && read(p[0], s->at, len) == (ssize_t)len, "pipe");
		close(p[0]);
		close(p[1]);
	}
	memcpy(twin(s), twin(from), len);
}

static void replace(struct slot *s)
{
	release(s);
	make(s);
}

static void lock(struct slot *s)
{
	must(!mlock(s->at, s->len) && !munlock(s->at, s->len), "lock");
}

/* advise leaves memory in a state that a restore has to bring back, or at least
   must not stumble over. Some of it is refused, here or there. */
static void advise(struct slot *s)
{
	static const int advice[] = {
		MADV_NORMAL, MADV_RANDOM, MADV_SEQUENTIAL, MADV_WILLNEED, MADV_DONTFORK, MADV_DOFORK, MADV_MERGEABLE,
		MADV_UNMERGEABLE, MADV_HUGEPAGE, MADV_NOHUGEPAGE, MADV_DONTDUMP, MADV_WIPEONFORK, MADV_KEEPONFORK,
		MADV_COLD, MADV_PAGEOUT, MADV_POPULATE_WRITE,
	};
	size_t len, from = some(s, &len);

	if (s->block)
		return;
	switch (chance(6)) {
	case 0:
		mlock(s->at + from, len);
		break;
	case 1:
		munlock(s->at, s->len);
		break;
	case 2:
		must(!mprotect(s->at + from, len, PROT_READ | PROT_WRITE | PROT_EXEC), "make executable");
		break;
	default:
		madvise(s->at + from, len, advice[chance(sizeof(advice) / sizeof(advice[0]))]);
	}
}

static void (*const changes[])(struct slot *) = {
	scribble, scribble, scribble, scribble, scribble, give, give, lazily, again,
	resize, protect, beget, through, replace, lock, advise, advise,
};

static void check(const char *when)
{
	for (int i = 0; i < SLOTS; i++)
		compare(&slots[i], when);
}

static void churn(uint64_t seed, long count)
{
	state = seed;
	refused = 0;
	for (; count && !wrong[0]; count--) {
		struct slot *s = &slots[chance(SLOTS)];
		size_t what = chance(sizeof(changes) / sizeof(changes[0]));
		char when[32];

		changes[what](s);
		sprintf(when, "change %zu", what);
		compare(s, when);
	}
	check("after churn");
}

static void press(size_t mib)
{
	char *p = map(mib << 20);

	for (size_t i = 0; i < mib << 20; i += PAGE)
		p[i] = 1;
	must(!munmap(p, mib << 20), "unmap");
}

static void evict(void)
{
	for (int i = 0; i < SLOTS; i++)
		if (!slots[i].block)
			madvise(slots[i].at, slots[i].len, MADV_PAGEOUT);
}

static void serve(FILE *in, FILE *out)
{
	char line[256];
	uint64_t seed;
	size_t mib;
	long count;

	while (fgets(line, sizeof(line), in)) {
		refused = 0;
		if (sscanf(line, "churn %lu %ld", &seed, &count) == 2)
			churn(seed, count);
		else if (!strncmp(line, "check", 5))
			check("check");
		else if (!strncmp(line, "evict", 5))
			evict();
		else if (sscanf(line, "press %zu", &mib) == 1)
			press(mib);
		else
			say("no such command");
		if (wrong[0])
			fprintf(out, "error: %s\n", wrong);
		else
			fprintf(out, "ok %ld\n", refused);
		fflush(out);
	}
}

int main(void)
{
	struct sockaddr_in at = { .sin_family = AF_INET, .sin_port = htons(7000) };
	int yes = 1, l = socket(AF_INET, SOCK_STREAM, 0);

	twins = mmap(NULL, SLOTS * MOST, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (twins == MAP_FAILED || setsockopt(l, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof(yes)) ||
	    bind(l, (struct sockaddr *)&at, sizeof(at)) || listen(l, 16)) {
		perror("churn: error");
		return 1;
	}
	signal(SIGPIPE, SIG_IGN);
	state = 1;
	for (int i = 0; i < SLOTS; i++) {
		make(&slots[i]);
		for (int k = 0; k < 100; k++)
			scribble(&slots[i]);
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
