/* Memory that is huge, sparse, guarded, or in very many pieces. */
#include "memory.h"

#include <alloca.h>
#include <sys/resource.h>

#ifndef MADV_GUARD_INSTALL
#define MADV_GUARD_INSTALL 102
#define MADV_GUARD_REMOVE 103
#endif
#define HUGE (2UL << 20)

static void huge(void)
{
	char *p = mmap(NULL, 5 * HUGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct area a;

	must(p != MAP_FAILED, "map");
	p += HUGE - (uintptr_t)p % HUGE;
	must(!madvise(p, 4 * HUGE, MADV_HUGEPAGE), "ask for huge pages");
	a = unclaim(claim(p, 4 * HUGE));
	frozen();
	TRY("huge pages", NEVER, a, 0);
	TRY("dontneed of a part of one", MAY_EINVAL, a, madvise(p + HUGE - PAGE, 3 * PAGE, MADV_DONTNEED));
	fill(a);
	TRY("close half of one", NEVER, a, mprotect(p + HUGE / 2, HUGE / 2, PROT_READ));
	TRY("dontneed of all", MAY_EINVAL, a, madvise(p, a.len, MADV_DONTNEED));
}

/* guards were installed over written pages before: the pages are gone, and
   below the guards is nothing. */
static void guards(void)
{
	struct area a = unclaim(area(PAGES)), b = area(PAGES);
	bool able = !madvise(a.at + 16 * PAGE, 8 * PAGE, MADV_GUARD_INSTALL);

	frozen();
	TRY("guards", NEVER, a, 0);
	TRY("remove some", NEVER, a, madvise(a.at + 18 * PAGE, 2 * PAGE, MADV_GUARD_REMOVE));
	fill(part(a, 18, 2));
	TRY("fill them", NEVER, a, 0);
	TRY("remove all", NEVER, a, madvise(a.at, a.len, MADV_GUARD_REMOVE));
	if (madvise(b.at, PAGE, MADV_GUARD_INSTALL) && able) {
		/* What libraries fall back on. */
		must(mmap(b.at, PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == b.at, "map over");
	}
	note("a new guard", "%s", look(b));
}

/* Data of the program, of which its file has other content. Some of it is closed, as the
   dynamic linker does it once it has made addresses absolute. */
static char data[PAGES * PAGE] __attribute__((aligned(4096))) = { 1 };

static void write_data(void *of)
{
	struct area a = *(struct area *)of;

	must(!mprotect(a.at, a.len, PROT_READ | PROT_WRITE), "open in child");
	memset(a.at, 0, a.len / 2);
	note("in the child", "%s", look(a));
}

static void program_data(void)
{
	struct area a = unclaim(claim(data, sizeof(data)));

	must(!mprotect(data + 8 * PAGE, 24 * PAGE, PROT_READ), "close some");
	frozen();
	TRY("data of the program", NEVER, a, 0);
	in_child("write it in a child", write_data, &a);
	TRY("and after that", NEVER, a, 0);
	TRY("open it", NEVER, a, mprotect(a.at, a.len, PROT_READ | PROT_WRITE));
	memset(a.at + 30 * PAGE, 0, 4 * PAGE);
	TRY("write it", NEVER, a, 0);
	fill(a);
	TRY("fill it", NEVER, a, 0);
	TRY("unmap some", NEVER, a, munmap(a.at + 60 * PAGE, 4 * PAGE));
}

/* sparse is a reservation of 64 GiB, as the JVM's and sanitizers' are. */
static void sparse(void)
{
	const size_t len = 64UL << 30, gib = 1UL << 30;
	char *p = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	size_t bad = 0, holes = 0;

	must(p != MAP_FAILED, "reserve");
	for (size_t g = 0; g < 64; g++)
		fill((struct area){ p + g * gib + g * 7 * PAGE, (g % 4 ? 1 : PAGES) * PAGE, g });
	claim(p + 63 * gib - PAGES * PAGE, PAGES * PAGE);
	frozen();
	for (size_t g = 0; g < 64; g++) {
		struct area a = { p + g * gib + g * 7 * PAGE, (g % 4 ? 1 : PAGES) * PAGE, g };

		bad += !kept(a);
		holes += zero((struct area){ a.at + a.len, 4 * PAGE, 0 });
		if (g)
			holes += zero((struct area){ a.at - 4 * PAGE, 4 * PAGE, 0 });
	}
	note("areas", "%zu wrong, %zu holes", bad, holes);
	if (!madvise(p, len, MADV_DONTNEED))
		bad = !zero((struct area){ p, PAGES * PAGE, 0 });
	else
		bad = !kept((struct area){ p, PAGES * PAGE, 0 });
	note("dontneed of all", "%zu wrong", bad);
	/* In parts, as an allocator does it. What is refused has to be wiped. */
	bad = 0;
	for (size_t g = 0; g < 64; g++) {
		struct area a = { p + g * gib + g * 7 * PAGE, (g % 4 ? 1 : PAGES) * PAGE, g };

		fill(a);
		if (madvise(a.at, a.len, MADV_DONTNEED))
			bad += !kept(a);
		else
			bad += !zero(a);
	}
	note("dontneed of each", "%zu wrong", bad);
	TRY("unmap", NEVER, ((struct area){ p, PAGES * PAGE, 0 }), munmap(p, len));
}

/* pieces are many mappings, no two of which the kernel can merge. Some are
   large enough to be mapped again. */
static void pieces(size_t n, size_t pages, size_t every, size_t large)
{
	struct area *a = calloc(n, sizeof(*a));
	size_t bad = 0, advised = 0, len = 0;
	char *p;

	for (size_t i = 0; i < n; i++)
		len += (i % every ? pages : large) * PAGE;
	p = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	must(a && p != MAP_FAILED, "map");
	len = 0;
	for (size_t i = 0; i < n; i++) {
		a[i] = (struct area){ p + len, (i % every ? pages : large) * PAGE, i };
		len += a[i].len;
		fill(a[i]);
		if (i % 2)
			must(!mprotect(a[i].at, a[i].len, PROT_READ), "protect");
	}
	frozen();
	for (size_t i = 0; i < n; i++)
		bad += !kept(a[i]);
	note("pieces", "%zu of %zu wrong", bad, n);
	bad = 0;
	for (size_t i = 0; i < n; i += 7) {
		if (i % 2)
			continue;
		fill(a[i]);
		if (madvise(a[i].at, a[i].len, MADV_DONTNEED))
			bad += !kept(a[i]);
		else
			bad += !zero(a[i]);
		advised++;
	}
	note("dontneed", "%zu of %zu wrong", bad, advised);
	bad = 0;
	for (size_t i = 1; i < n; i += 2)
		bad += !kept(a[i]);
	note("those between", "%zu wrong", bad);
	/* Open and close them all: they may merge, and must stay what they are. */
	must(!mprotect(p, len, PROT_READ | PROT_WRITE), "open all");
	for (size_t i = 0; i < n; i++)
		fill(a[i]);
	must(!mprotect(p, len, PROT_NONE) && !mprotect(p, len, PROT_READ), "close all");
	bad = 0;
	for (size_t i = 0; i < n; i++)
		bad += !kept(a[i]);
	note("as one", "%zu wrong", bad);
	must(!munmap(p, len), "unmap");
}

static void pieces_1000(void)
{
	pieces(1000, 17, 1, 17);
}

static void pieces_5000(void)
{
	pieces(5000, 2, 12, 20);
}

/* fragments is one mapping, of which every few pages one was never touched. A
   restore must not use up the mappings that a process may have. */
static void fragments(void)
{
	const size_t n = 600, run = 24;
	char *p = mmap(NULL, n * run * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	size_t bad = 0, maps = 0;

	must(p != MAP_FAILED, "map");
	for (size_t i = 0; i < n; i++)
		fill((struct area){ p + i * run * PAGE, (run - 1) * PAGE, i });
	frozen();
	for (size_t i = 0; i < n; i++) {
		bad += !kept((struct area){ p + i * run * PAGE, (run - 1) * PAGE, i });
		bad += !zero((struct area){ p + (i * run + run - 1) * PAGE, PAGE, i });
	}
	note("fragments", "%zu wrong", bad);
	/* Room for what such a program goes on to do. */
	for (maps = 0; maps < 40000; maps++)
		if (mmap(NULL, PAGE, maps % 2 ? PROT_READ : PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) == MAP_FAILED)
			break;
	note("more mappings", "%zu", maps);
	must(!mprotect(p, n * run * PAGE, PROT_READ), "protect as one");
	TRY("unmap as one", NEVER, ((struct area){ p, run * PAGE, 0 }), munmap(p, n * run * PAGE));
}

/* untouched is memory that reads as zero without being there. */
static void untouched(void)
{
	char *p = mmap(NULL, 4 * PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct area read_before = { p, PAGES * PAGE, 1 }, never = { p + 3 * PAGES * PAGE, PAGES * PAGE, 2 }, written, given;

	must(p != MAP_FAILED, "map");
	must(zero(read_before), "read");
	written = claim(p + PAGES * PAGE, PAGES * PAGE);
	given = (struct area){ p + 2 * PAGES * PAGE, PAGES * PAGE, 3 };
	fill(given);
	must(!madvise(given.at, given.len, MADV_DONTNEED), "give back");
	memset(p + PAGES * PAGE + 7 * PAGE, 0, PAGE); /* a page of zeros that is there */
	frozen();
	TRY("read before", NEVER, read_before, 0);
	TRY("written", NEVER, written, 0);
	TRY("given back", NEVER, given, 0);
	TRY("never touched", NEVER, never, 0);
	fill(never);
	fill(given);
	TRY("write them", NEVER, never, 0);
	TRY("and dontneed", MAY_EINVAL, given, madvise(given.at, given.len, MADV_DONTNEED));
	TRY("all", NEVER, never, munmap(p, 3 * PAGES * PAGE));
}

static int deep(int n)
{
	volatile char pad[8000];

	memset((char *)pad, n, sizeof(pad));
	return (n ? deep(n - 1) : 0) + (pad[17] == (char)n);
}

/* stacks grow: that of the process, and one of its own. */
static void stacks(void)
{
	char *p = mmap(NULL, 512 * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct area down;
	char *far = alloca(64 * PAGE);

	must(p != MAP_FAILED && !munmap(p, 512 * PAGE), "make room");
	p = mmap(p + 504 * PAGE, 8 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_GROWSDOWN | MAP_FIXED, -1, 0);
	must(p != MAP_FAILED, "map a stack");
	down = (struct area){ p, 8 * PAGE, 4 };
	fill(down);
	far += PAGE - (uintptr_t)far % PAGE;
	fill((struct area){ far, 32 * PAGE, 5 });
	frozen();
	note("the stack", "%s", look((struct area){ far, 32 * PAGE, 5 }));
	note("depth", "%d", deep(500));
	note("the stack after", "%s", look((struct area){ far, 32 * PAGE, 5 }));
	note("a stack that grows", "%s", look(down));
	p[-3 * (ssize_t)PAGE] = 1;
	note("below it", "%s", look((struct area){ p - 2 * PAGE, 2 * PAGE, 0 }));
}

const struct which layout_cases[] = {
	{ "huge", huge },
	{ "guards", guards },
	{ "program-data", program_data },
	{ "sparse", sparse },
	{ "pieces-1000", pieces_1000 },
	{ "pieces-5000", pieces_5000 },
	{ "fragments", fragments },
	{ "untouched", untouched },
	{ "stacks", stacks },
	{ 0 },
};
