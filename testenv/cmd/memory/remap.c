/* mremap, and what programs do where it refuses. */
#include "memory.h"

/* roomy is an area with free addresses behind it. */
static struct area roomy(size_t pages)
{
	char *p = mmap(NULL, 4 * pages * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	must(p != MAP_FAILED, "map area");
	must(!munmap(p, pages * PAGE) && !munmap(p + 2 * pages * PAGE, 2 * pages * PAGE), "make room");
	return claim(p + pages * PAGE, pages * PAGE);
}

/* moved reports an attempt to resize or move an area: the memory at its new
   place, or, if it was refused, where it was. What the old place holds after a
   move comes after a bar. Content is named by address, so it is compared with
   a copy. */
static void moved(const char *name, struct area a, size_t len, int flags, void *to)
{
	char *copy = malloc(a.len), text[128];
	size_t same = 0, zeros = 0, i, common = a.len < len ? a.len : len;
	char *p;
	int e;

	must(copy, "allocate");
	memcpy(copy, a.at, a.len);
	errno = 0;
	p = mremap(a.at, a.len, len, flags, to);
	if (p == MAP_FAILED) {
		e = errno;
		sprintf(text, "%s", look(a));
		errno = e;
		step(name, -1, MAY_ENOMEM, "kept*64", text);
		/* What realloc, or a runtime of its own, falls back on. */
		p = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		must(p != MAP_FAILED, "map instead");
		memcpy(p, a.at, common);
		if (flags & MREMAP_DONTUNMAP)
			must(mmap(a.at, a.len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == a.at, "map over");
		else
			munmap(a.at, a.len);
	} else {
		step(name, 0, MAY_ENOMEM, "kept*64", "");
	}
	while (same < common && p[same] == copy[same])
		same++;
	for (i = common; i < len; i++)
		zeros += !p[i];
	note("the new memory", "%zu of %zu bytes, then %zu zeros of %zu", same, common, zeros,
	     len > common ? len - common : 0);
	if (flags & MREMAP_MAYMOVE)
		note("the old memory", "%s", look(a));
	/* It is ordinary memory wherever it is. */
	memset(p, 1, len);
	if (madvise(p, len, MADV_DONTNEED))
		memset(p, 0, len);
	for (zeros = i = 0; i < len; i++)
		zeros += !p[i];
	note("dontneed of it", "%zu zeros of %zu", zeros, len);
	free(copy);
}

static void mremap_all(void)
{
	struct area shrunk = roomy(PAGES), back = roomy(PAGES), grown = roomy(PAGES), moving = area(PAGES),
		    fixed = area(PAGES), landing = area(PAGES), dont = area(PAGES), none = area(PAGES),
		    some = roomy(PAGES), under = area(PAGES), holed = roomy(4 * PAGES), holed2 = roomy(4 * PAGES);
	char *room, *fresh;

	must(!madvise(holed.at + PAGES * PAGE, PAGES * PAGE, MADV_DONTNEED) &&
	     !madvise(holed2.at + PAGES * PAGE, PAGES * PAGE, MADV_DONTNEED), "make holes");
	frozen();
	TRY("no change of what has holes", MAY_ENOMEM, holed, mremap(holed.at, holed.len, holed.len, MREMAP_MAYMOVE));
	TRY("shrink it", NEVER, holed, mremap(holed.at, holed.len, holed.len - PAGES * PAGE, MREMAP_MAYMOVE));
	TRY("shrink it past the hole", NEVER, holed, mremap(holed.at, holed.len - PAGES * PAGE, PAGE, 0));
	TRY("unmap over the hole", NEVER, holed2, munmap(holed2.at + PAGE, holed2.len - 2 * PAGE));
	TRY("shrink in place", NEVER, shrunk, mremap(shrunk.at, shrunk.len, shrunk.len / 2, 0));
	TRY("shrink to a page", NEVER, shrunk, mremap(shrunk.at, shrunk.len / 2, PAGE, MREMAP_MAYMOVE));
	TRY("no change", NEVER, shrunk, mremap(shrunk.at, PAGE, PAGE, 0));

	must(mremap(back.at, back.len, back.len / 2, 0) == back.at, "shrink");
	TRY("shrink and grow back", MAY_ENOMEM, back, mremap(back.at, back.len / 2, back.len, 0));

	moved("grow in place", grown, 2 * grown.len, 0, NULL);
	moved("grow and move", moving, 8 * moving.len, MREMAP_MAYMOVE, NULL);
	room = mmap(NULL, fixed.len, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	must(room != MAP_FAILED, "make room");
	moved("move to a place", fixed, fixed.len, MREMAP_MAYMOVE | MREMAP_FIXED, room);
	moved("move and leave zeros", dont, dont.len, MREMAP_MAYMOVE | MREMAP_DONTUNMAP, NULL);
	TRY("copy of no length", NEVER, none, mremap(none.at, 0, none.len, MREMAP_MAYMOVE));
	TRY("grow the middle", NEVER, none, mremap(none.at + PAGE, PAGE, 3 * PAGE, 0));
	TRY("grow the tail", MAY_ENOMEM, some,
	    mremap(some.at + some.len - 2 * PAGE, 2 * PAGE, 4 * PAGE, 0));
	TRY("from before it", MAY_ENOMEM, under, mremap(under.at - PAGE, 2 * PAGE, 8 * PAGE, 0));
	TRY("a wild length", MAY_ENOMEM, under, mremap(under.at, 1UL << 46, 1UL << 47, MREMAP_MAYMOVE));

	/* New memory takes the place of what was mapped. */
	fresh = mmap(NULL, landing.len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	must(fresh != MAP_FAILED, "map");
	memset(fresh, 0, landing.len);
	TRY("land on it", MAY_ENOMEM, landing,
	    mremap(fresh, landing.len, landing.len, MREMAP_MAYMOVE | MREMAP_FIXED, landing.at));
	memset(landing.at, 0, landing.len);
	TRY("dontneed where it landed", MAY_EINVAL, landing, madvise(landing.at, landing.len, MADV_DONTNEED));
}

/* several moves a range of many mappings, which Linux 6.17 permits. */
static void several(void)
{
	struct area a = area(PAGES), b = area(PAGES);
	char *to = mmap(NULL, 3 * PAGES * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	must(to != MAP_FAILED, "make room");
	must(!mprotect(a.at + 8 * PAGE, 8 * PAGE, PROT_READ), "split area");
	frozen();
	TRY("move several", MAY_ENOMEM, a,
	    mremap(a.at, a.len, a.len, MREMAP_MAYMOVE | MREMAP_FIXED, to) == MAP_FAILED ? -1 : 0);
	TRY("move several from before", MAY_ENOMEM, b,
	    mremap(b.at - PAGE, b.len + PAGE, b.len + PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, to + PAGES * PAGE) == MAP_FAILED ? -1 : 0);
}

/* reallocated are malloc's large blocks, which it resizes by mremap. */
static void reallocated(void)
{
	const size_t len = 1 << 20;
	char *p[4];
	size_t bad = 0;

	for (size_t k = 0; k < 4; k++) {
		p[k] = malloc(len);
		must(p[k], "allocate");
		for (size_t i = 0; i < len; i++)
			p[k][i] = (char)(i * 7 + k);
	}
	frozen();
	for (size_t k = 0; k < 4; k++) {
		const size_t to[] = { len * 2, len / 2, len + 5000, len * 64 };

		p[k] = realloc(p[k], to[k]);
		must(p[k], "reallocate");
		for (size_t i = 0; i < len && i < to[k]; i++)
			bad += p[k][i] != (char)(i * 7 + k);
		memset(p[k], 0x55, to[k]);
	}
	note("realloc", "%zu bytes wrong", bad);
	for (size_t k = 0; k < 4; k++)
		free(p[k]);
	bad = 0;
	for (size_t k = 0; k < 8; k++) {
		p[k & 3] = calloc(1, len);
		must(p[k & 3], "allocate");
		for (size_t i = 0; i < len; i++)
			bad += p[k & 3][i] != 0;
		memset(p[k & 3], 0x55, len);
		free(p[k & 3]);
	}
	note("calloc", "%zu bytes wrong", bad);
}

const struct which remap_cases[] = {
	{ "mremap", mremap_all },
	{ "mremap-several", several },
	{ "realloc", reallocated },
	{ 0 },
};
