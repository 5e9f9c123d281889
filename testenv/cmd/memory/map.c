/* Memory that is unmapped, mapped over, protected, locked, and the heap. */
#include "memory.h"

#include <malloc.h>
#include <sys/prctl.h>
#include <sys/resource.h>

/* use writes a place that has become new memory, and gives it back. */
static void use(const char *name, struct area a)
{
	note(name, "%s", look(a));
	fill(a);
	TRY("dontneed of new memory there", MAY_EINVAL, a, madvise(a.at, a.len, MADV_DONTNEED));
	memset(a.at, 0, a.len);
	TRY("and grow it", MAY_ENOMEM, a, mremap(a.at, a.len, a.len, 0));
}

static void reuse(void)
{
	struct area hole = area(PAGES), over = area(PAGES), none = area(PAGES), file = area(PAGES), tail = area(PAGES);
	const int anonymous = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED;
	int fd = memfd_create("file", 0);

	must(fd >= 0 && !ftruncate(fd, (off_t)file.len), "make file");
	frozen();
	TRY("unmap the middle", NEVER, hole, munmap(hole.at + 16 * PAGE, 32 * PAGE));
	TRY("map there, but not over it", NEVER, hole,
	    mmap(hole.at, hole.len, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0));
	must(mmap(hole.at + 16 * PAGE, 32 * PAGE, PROT_READ | PROT_WRITE, anonymous, -1, 0) != MAP_FAILED, "map again");
	use("mapped again", part(hole, 16, 32));
	note("around it", "%s %s", look(part(hole, 0, 16)), look(part(hole, 48, 16)));

	must(mmap(over.at, over.len, PROT_READ | PROT_WRITE, anonymous, -1, 0) == over.at, "map over");
	use("mapped over", over);

	/* As Go and the JVM give memory back. */
	TRY("map over, inaccessible", NEVER, none, mmap(none.at, none.len, PROT_NONE, anonymous | MAP_NORESERVE, -1, 0));
	TRY("and open it", NEVER, none, mprotect(none.at, none.len, PROT_READ | PROT_WRITE));
	use("opened", none);

	TRY("map a file over it", NEVER, file, mmap(file.at, file.len, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0));
	fill(file);
	TRY("and give its pages back", MAY_EINVAL, file, madvise(file.at, file.len, MADV_DONTNEED));
	TRY("unmap the tail", NEVER, tail, munmap(tail.at + tail.len / 2, tail.len));
}

/* code writes a function that returns n into memory. */
static void code(char *at, unsigned char n)
{
	const unsigned char f[] = { 0xb8, n, 0, 0, 0, 0xc3 }; /* mov $n,%eax; ret */

	memcpy(at, f, sizeof(f));
}

static int call(char *at)
{
	return ((int (*)(void))(uintptr_t)at)();
}

static void protect(void)
{
	struct area a = area(PAGES), before = area(PAGES), read_only = area(PAGES), jit = area(PAGES), rx = unclaim(area(PAGES));

	code(jit.at, 42);
	code(rx.at, 43);
	must(!mprotect(before.at, before.len, PROT_NONE) && !mprotect(read_only.at, read_only.len, PROT_READ) &&
	     !mprotect(rx.at, rx.len, PROT_READ | PROT_EXEC), "protect");
	frozen();
	TRY("close the middle", NEVER, a, mprotect(a.at + 16 * PAGE, 32 * PAGE, PROT_NONE));
	TRY("dontneed of it", MAY_EINVAL, part(a, 16, 32), madvise(a.at + 24 * PAGE, 8 * PAGE, MADV_DONTNEED));
	TRY("open it again", NEVER, part(a, 0, 24), mprotect(a.at, a.len, PROT_READ | PROT_WRITE));
	note("what was advised is", "%s", kept(part(a, 24, 8)) || zero(part(a, 24, 8)) ? "kept or zero" : look(a));
	TRY("closed before", NEVER, before, 0);
	TRY("open what was closed", NEVER, before, mprotect(before.at, before.len, PROT_READ));
	TRY("read only", NEVER, read_only, 0);
	TRY("make it writable", NEVER, read_only, mprotect(read_only.at, read_only.len, PROT_READ | PROT_WRITE));
	fill(part(read_only, 8, 8));
	memset(read_only.at + 20 * PAGE, 0, PAGE);
	TRY("write some", NEVER, read_only, 0);

	TRY("make it executable", NEVER, part(jit, 1, PAGES - 1), mprotect(jit.at, jit.len, PROT_READ | PROT_EXEC));
	note("call it", "%d", call(jit.at));
	must(!mprotect(rx.at, rx.len, PROT_READ | PROT_WRITE | PROT_EXEC), "make code writable");
	note("call what was executable", "%d", call(rx.at));
	code(rx.at, 44);
	note("call it changed", "%d %s", call(rx.at), look(part(rx, 1, PAGES - 1)));
}

static void heap(void)
{
	const size_t len = 256 * PAGE;
	struct area a, low;
	char *start, *p;

	/* malloc shares the heap: let it have all that it will need first. */
	mallopt(M_TOP_PAD, 16 << 20);
	free(dup_text(""));
	start = sbrk(0);
	must((p = sbrk((intptr_t)(PAGE - (uintptr_t)start % PAGE + len))) == start, "grow the heap");
	p += PAGE - (uintptr_t)start % PAGE;
	a = claim(p, len);
	low = part(a, 0, 32);
	frozen();
	TRY("the heap", NEVER, a, 0);
	TRY("dontneed", MAY_EINVAL, low, madvise(low.at + 4 * PAGE, 4 * PAGE, MADV_DONTNEED));
	fill(a);
	TRY("shrink", NEVER, a, brk(p + len / 2));
	TRY("grow back", NEVER, a, brk(p + len));
	TRY("grow further", NEVER, a, brk(p + 2 * len));
	note("the new part", "%s", look((struct area){ p + len, len, 1 }));
	fill(a);
	TRY("dontneed of what is new", MAY_EINVAL, a, madvise(p + len / 2, len / 2, MADV_DONTNEED));
	TRY("shrink it away", NEVER, a, brk(p));
	TRY("and grow again", NEVER, a, brk(p + len));
	TRY("grow in one more step", NEVER, a, brk(p + len + PAGE));
}

/* trimmed is glibc's own use of the heap: it gives back with brk and advice,
   and trusts new heap to be zero. */
static void trimmed(void)
{
	static char *p[4000];
	size_t bad = 0;

	for (size_t i = 0; i < 4000; i++) {
		must((p[i] = malloc(1000)), "allocate");
		memset(p[i], (int)i, 1000);
	}
	frozen();
	for (size_t i = 0; i < 4000; i++) {
		if (i % 100 >= 10)
			free(p[i]), p[i] = NULL;
		else
			for (size_t k = 0; k < 1000; k++)
				bad += p[i][k] != (char)i;
	}
	note("what was kept", "%zu bytes wrong", bad);
	malloc_trim(0);
	bad = 0;
	for (size_t i = 0; i < 4000; i++) {
		if (!p[i]) {
			must((p[i] = calloc(1, 1000)), "allocate");
			for (size_t k = 0; k < 1000; k++)
				bad += p[i][k] != 0;
			continue;
		}
		for (size_t k = 0; k < 1000; k++)
			bad += p[i][k] != (char)i;
	}
	note("after a trim", "%zu bytes wrong", bad);
	for (size_t i = 0; i < 4000; i++)
		free(p[i]);
	malloc_trim(0);
	must((p[0] = calloc(1, 100 << 10)), "allocate");
	bad = 0;
	for (size_t k = 0; k < 100 << 10; k++)
		bad += p[0][k] != 0;
	note("all new", "%zu bytes wrong", bad);
}

/* flags are those of VmFlags in smaps that a program can ask for. */
static const char *flags(struct area a)
{
	static const char *const known[] = { "lo", "lf", "dc", "dd", "wf", "hg", "nh", "mg", "rr", "sr" };
	static char text[64];
	FILE *f = fopen("/proc/self/smaps", "re");
	char l[512];
	unsigned long from, to;
	bool here = false;

	must(f, "open smaps");
	text[0] = 0;
	while (fgets(l, sizeof(l), f)) {
		if (sscanf(l, "%lx-%lx ", &from, &to) == 2)
			here = from <= (uintptr_t)a.at && (uintptr_t)a.at < to;
		else if (here && !strncmp(l, "VmFlags:", 8))
			for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++)
				if (strstr(l, known[i]))
					strcat(strcat(text, " "), known[i]);
	}
	fclose(f);
	return text;
}

static void flagged(void)
{
	struct area fork = unclaim(area(PAGES)), dump = area(PAGES), random = area(PAGES), sequential = area(PAGES),
		    huge = unclaim(area(PAGES)), wipe = unclaim(area(PAGES)), locked = unclaim(area(PAGES));

	must(!madvise(fork.at, fork.len, MADV_DONTFORK) && !madvise(dump.at, dump.len, MADV_DONTDUMP) &&
	     !madvise(random.at, random.len, MADV_RANDOM) && !madvise(sequential.at, sequential.len, MADV_SEQUENTIAL) &&
	     !madvise(huge.at, huge.len, MADV_HUGEPAGE) && !madvise(wipe.at, wipe.len, MADV_WIPEONFORK) &&
	     !mlock(locked.at, locked.len), "advise");
	frozen();
	note("dontfork", "%s%s", look(fork), flags(fork));
	note("dontdump", "%s%s", look(dump), flags(dump));
	note("random", "%s%s", look(random), flags(random));
	note("sequential", "%s%s", look(sequential), flags(sequential));
	note("hugepage", "%s%s", look(huge), flags(huge));
	note("wipeonfork", "%s%s", look(wipe), flags(wipe));
	note("locked", "%s%s", look(locked), flags(locked));
}

static void locks(void)
{
	struct area a = area(PAGES), b = area(PAGES), all = area(PAGES), before = unclaim(area(PAGES)),
		    fault = unclaim(area(PAGES));
	struct area fresh;

	must(!mlock(before.at, before.len) && !mlock2(fault.at, fault.len, MLOCK_ONFAULT), "lock");
	frozen();
	TRY("locked before", NEVER, before, madvise(before.at, before.len, MADV_DONTNEED));
	TRY("locked on fault before", NEVER, fault, munlock(fault.at, fault.len));
	TRY("lock", NEVER, a, mlock(a.at, a.len));
	TRY("dontneed of locked", NEVER, a, madvise(a.at, a.len, MADV_DONTNEED));
	TRY("dontneed_locked", MAY_EINVAL, a, madvise(a.at, a.len / 2, 24));
	TRY("unlock", NEVER, part(a, 40, 24), munlock(a.at, a.len));
	TRY("lock on fault", NEVER, b, mlock2(b.at, b.len, MLOCK_ONFAULT));
	TRY("lock all", NEVER, all, mlockall(MCL_CURRENT | MCL_FUTURE));
	fresh = (struct area){ mmap(NULL, 4 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), 4 * PAGE, 9 };
	must(fresh.at != MAP_FAILED, "map");
	note("new memory is locked", "%s%s", look(fresh), flags(fresh));
	TRY("unlock all", NEVER, all, munlockall());
	TRY("dontneed of unlocked", MAY_EINVAL, all, madvise(all.at, all.len, MADV_DONTNEED));
}

const struct which map_cases[] = {
	{ "reuse", reuse },
	{ "protect", protect },
	{ "heap", heap },
	{ "trim", trimmed },
	{ "flags", flagged },
	{ "locks", locks },
	{ 0 },
};
