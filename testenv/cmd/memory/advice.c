/* Advice of every kind, by every entry, for memory at every edge. */
#include "memory.h"

#include <linux/mman.h>
#include <pthread.h>
#include <sys/uio.h>

#ifndef MADV_GUARD_INSTALL
#define MADV_GUARD_INSTALL 102 /* Linux 6.13 */
#define MADV_GUARD_REMOVE 103
#endif
#ifndef MADV_DONTNEED_LOCKED
#define MADV_DONTNEED_LOCKED 24 /* Linux 5.18 */
#endif
#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25 /* Linux 6.1 */
#endif

#define X32 0x40000000 /* __X32_SYSCALL_BIT */

/* All but HWPOISON and SOFT_OFFLINE, which spoil pages of the machine. */
static const struct {
	const char *name;
	int advice;
	enum may may;
} advices[] = {
	{ "normal", MADV_NORMAL, NEVER },
	{ "random", MADV_RANDOM, NEVER },
	{ "sequential", MADV_SEQUENTIAL, NEVER },
	{ "willneed", MADV_WILLNEED, NEVER },
	{ "dontneed", MADV_DONTNEED, MAY_EINVAL },
	{ "free", MADV_FREE, MAY_EINVAL },
	{ "remove", MADV_REMOVE, MAY_EINVAL },
	{ "dontfork", MADV_DONTFORK, NEVER },
	{ "dofork", MADV_DOFORK, NEVER },
	{ "mergeable", MADV_MERGEABLE, MAY_EINVAL },
	{ "unmergeable", MADV_UNMERGEABLE, NEVER },
	{ "hugepage", MADV_HUGEPAGE, NEVER },
	{ "nohugepage", MADV_NOHUGEPAGE, NEVER },
	{ "dontdump", MADV_DONTDUMP, NEVER },
	{ "dodump", MADV_DODUMP, NEVER },
	{ "wipeonfork", MADV_WIPEONFORK, MAY_EINVAL },
	{ "keeponfork", MADV_KEEPONFORK, NEVER },
	{ "cold", MADV_COLD, NEVER },
	{ "pageout", MADV_PAGEOUT, NEVER },
	{ "populate_read", MADV_POPULATE_READ, NEVER },
	{ "populate_write", MADV_POPULATE_WRITE, NEVER },
	{ "dontneed_locked", MADV_DONTNEED_LOCKED, MAY_EINVAL },
	{ "collapse", MADV_COLLAPSE, MAY_EINVAL },
	{ "guard_install", MADV_GUARD_INSTALL, MAY_EINVAL },
	{ "guard_remove", MADV_GUARD_REMOVE, NEVER },
	{ "unknown", 77, NEVER },
};
#define ADVICES (sizeof(advices) / sizeof(advices[0]))

/* The ways to give advice for an area. */
static long whole(struct area a, int advice)
{
	return madvise(a.at, a.len, advice);
}

static long middle(struct area a, int advice)
{
	return madvise(a.at + a.len / 4, a.len / 2, advice);
}

static long rewritten(struct area a, int advice)
{
	fill(a);
	return madvise(a.at, a.len, advice);
}

static long last_byte(struct area a, int advice)
{
	return madvise(a.at + a.len - PAGE, 1, advice);
}

static long across(struct area a, int advice)
{
	return madvise(a.at - PAGE, a.len + 2 * PAGE, advice);
}

/* The kernel takes the advice as an int and drops what is above. */
static long high_bits(struct area a, int advice)
{
	return syscall(SYS_madvise, a.at, a.len, (unsigned long)advice | 1UL << 32);
}

static long self(struct area a, int advice)
{
	struct iovec v = { a.at, a.len };
	int fd = (int)syscall(SYS_pidfd_open, getpid(), 0);
	long r;
	int e;

	must(fd >= 0, "open pidfd");
	r = syscall(SYS_process_madvise, fd, &v, 1UL, (unsigned long)advice, 0UL);
	e = errno;
	close(fd);
	errno = e;
	return r;
}

static const struct {
	const char *name;
	long (*give)(struct area, int);
} ways[] = {
	{ "whole", whole }, { "middle", middle }, { "rewritten", rewritten },
	{ "last byte", last_byte }, { "across", across }, { "high bits", high_bits },
	{ "process_madvise", self },
};
#define WAYS (sizeof(ways) / sizeof(ways[0]))

static void advice(void)
{
	static struct area at[ADVICES][WAYS];
	char name[64];

	for (size_t i = 0; i < ADVICES; i++)
		for (size_t w = 0; w < WAYS; w++)
			at[i][w] = area(PAGES);
	frozen();
	for (size_t i = 0; i < ADVICES; i++)
		for (size_t w = 0; w < WAYS; w++) {
			enum may may = advices[i].may;

			/* The pages around an area are anonymous: the whole is
			   answered as its middle is, but for what the kernel
			   does to the first of them. */
			sprintf(name, "%s %s", advices[i].name, ways[w].name);
			TRY(name, may, at[i][w], ways[w].give(at[i][w], advices[i].advice));
		}
}

/* other_entries is what 32-bit programs use, which any program can. */
static void other_entries(void)
{
	struct area low = area_at(0x30000000, PAGES), low2 = area_at(0x38000000, PAGES),
		    low3 = area_at(0x3c000000, PAGES), x = area(PAGES);
	struct { uint32_t at, len; } *v = (void *)area_at(0x3f000000, 1).at;

	unclaim(low); /* v is no area */
	frozen();
	*v = (typeof(*v)){ (uint32_t)(uintptr_t)low3.at, (uint32_t)low3.len };
	TRY("i386 dontneed", MAY_EINVAL, low, i386(219, (long)low.at, (long)low.len, MADV_DONTNEED, 0, 0));
	TRY("i386 free after a write", MAY_EINVAL, low2,
	    (fill(low2), i386(219, (long)low2.at + 4096, 8192, MADV_DONTNEED, 0, 0)));
	TRY("i386 mremap grow", MAY_ENOMEM, low2,
	    i386(163, (long)low2.at, (long)low2.len, (long)low2.len * 2, MREMAP_MAYMOVE, 0) == -1 ? -1 : (munmap(low2.at + low2.len, low2.len), 0));
	TRY("i386 process_madvise", MAY_EINVAL, low3,
	    i386(440, (int)syscall(SYS_pidfd_open, getpid(), 0), (long)v, 1, MADV_DONTNEED, 0));
	TRY("x32 madvise", MAY_EINVAL, x, syscall(X32 | SYS_madvise, x.at, x.len, MADV_DONTNEED));
	TRY("x32 mremap", MAY_ENOMEM, x, syscall(X32 | SYS_mremap, x.at, x.len, x.len * 2, MREMAP_MAYMOVE, 0));
}

/* holes spans areas and what is not mapped: the kernel advises what there is,
   and says ENOMEM in the end. */
static void holes(void)
{
	struct area a = area(PAGES), b = area_at((uintptr_t)a.at - (1UL << 33), PAGES);

	frozen();
	TRY("dontneed to the hole after", MAY_EINVAL, b, madvise(b.at, b.len + (1UL << 20), MADV_DONTNEED));
	TRY("dontneed from the hole before", MAY_EINVAL, b, madvise(b.at - (1UL << 20), b.len + (1UL << 20), MADV_DONTNEED));
	TRY("length that wraps", NEVER, a, madvise(a.at, (size_t)-4096, MADV_DONTNEED));
	TRY("length that is rounded to 0", NEVER, a, madvise(a.at, (size_t)-1, MADV_DONTNEED));
	TRY("no length", NEVER, a, madvise(a.at, 0, MADV_DONTNEED));
	TRY("unaligned", NEVER, a, madvise(a.at + 8, a.len - PAGE, MADV_DONTNEED));
}

/* halves is about addresses whose upper and lower 32 bits compare differently. */
static void halves(void)
{
	const uintptr_t gib4 = 1UL << 32;
	struct area across = area_at(2 * gib4 - PAGES / 2 * PAGE, PAGES), low = area_at(3 * gib4 + (1UL << 20), PAGES),
		    high = area_at(6 * gib4 - (1UL << 20), PAGES);
	char *block = mmap(NULL, 1UL << 34, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	struct area inside;

	must(block != MAP_FAILED, "reserve");
	must(!mprotect(block + (5UL << 30), PAGES * PAGE, PROT_READ | PROT_WRITE), "open area");
	inside = claim(block + (5UL << 30), PAGES * PAGE);
	frozen();
	TRY("first half", MAY_EINVAL, across, madvise(across.at, across.len / 2, MADV_DONTNEED));
	TRY("second half", MAY_EINVAL, across, madvise(across.at + across.len / 2, across.len / 2, MADV_DONTNEED));
	TRY("from far below", MAY_EINVAL, low, madvise((void *)(2 * gib4 + (1UL << 30)), low.at + PAGE - (char *)(2 * gib4 + (1UL << 30)), MADV_DONTNEED));
	TRY("to far above", MAY_EINVAL, high, madvise(high.at, 3 * gib4, MADV_DONTNEED));
	TRY("16 GiB around", MAY_EINVAL, inside, madvise(block, 1UL << 34, MADV_DONTNEED));
	TRY("5 GiB before and a page", MAY_EINVAL, inside, madvise(block, (5UL << 30) + 1, MADV_DONTNEED));
}

/* neighbours proves that memory beside an area is served in full. */
static void neighbours(void)
{
	struct area a = area(PAGES), before, after;

	frozen();
	must(mmap(a.at - PAGE, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) != MAP_FAILED &&
	     mmap(a.at + a.len, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) != MAP_FAILED, "map beside");
	before = (struct area){ a.at - PAGE, PAGE, 77 };
	after = (struct area){ a.at + a.len, PAGE, 78 };
	fill(before);
	fill(after);
	TRY("dontneed before", NEVER, before, madvise(before.at, PAGE, MADV_DONTNEED));
	TRY("dontneed after", NEVER, after, madvise(after.at, PAGE, MADV_DONTNEED));
	TRY("and an area between them", NEVER, a, 0);
	fill(after);
	TRY("mremap after", NEVER, after, mremap(after.at, PAGE, PAGE, 0));
}

static void *dontneed(void *arg)
{
	struct area *a = arg;

	TRY("dontneed in a thread", MAY_EINVAL, *a, madvise(a->at, a->len, MADV_DONTNEED));
	return NULL;
}

static pthread_barrier_t freeze;

static void *dontneed_later(void *arg)
{
	pthread_barrier_wait(&freeze);
	return dontneed(arg);
}

static void dontneed_child(void *arg)
{
	dontneed(arg);
}

static void everywhere(void)
{
	struct area a[4] = { area(PAGES), area(PAGES), area(PAGES), area(PAGES) };
	pthread_t early, late;

	must(!pthread_barrier_init(&freeze, NULL, 2) &&
	     !pthread_create(&early, NULL, dontneed_later, &a[0]), "make thread");
	frozen();
	pthread_barrier_wait(&freeze);
	pthread_join(early, NULL);
	must(!pthread_create(&late, NULL, dontneed, &a[1]), "make thread");
	pthread_join(late, NULL);
	in_child("a child", dontneed_child, &a[2]);
	in_child("another child", dontneed_child, &a[2]);
	TRY("after the children", NEVER, a[2], 0);
	dontneed(&a[3]);
}

const struct which advice_cases[] = {
	{ "advice", advice },
	{ "advice-other-entries", other_entries },
	{ "advice-holes", holes },
	{ "advice-halves", halves },
	{ "advice-neighbours", neighbours },
	{ "advice-everywhere", everywhere },
	{ 0 },
};
