/*
 * What the cases of memory share; main.c says what memory is.
 *
 * A case prepares memory, calls frozen(), in which the app may be saved and
 * restored, and then does to the memory what must work. It prints each step:
 * what the call answered, and what the memory holds before and after.
 */
#ifndef MEMORY_H
#define MEMORY_H

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define PAGE ((size_t)4096)
#define PAGES 64    /* of an area: more than is copied rather than mapped */
#define BALLAST 300 /* of each process: with less memory, none is mapped */

/* What the guard of mapped memory may answer instead of doing what was asked. */
enum may { NEVER, MAY_EINVAL, MAY_ENOMEM, MAY_EPERM };

/* An area is memory with known content: each word tells where it belongs. */
struct area {
	char *at;
	size_t len;
	uint64_t seed;
};

struct which {
	const char *name;
	void (*run)(void);
};

extern const struct which advice_cases[], remap_cases[], map_cases[], layout_cases[],
	process_cases[], io_cases[], thread_cases[], futex_cases[], seccomp_cases[];

/* area maps memory between two inaccessible pages and fills it. It counts as
   memory that a restore has to map: see frozen. */
struct area area(size_t pages);
/* claim counts memory as an area that was filled by other means. */
struct area claim(void *at, size_t len);
/* unclaim is for memory that no restore maps. */
struct area unclaim(struct area a);
/* area_at is area at this address, without the two pages. */
struct area area_at(uintptr_t at, size_t pages);
struct area part(struct area a, size_t page, size_t pages);

void fill(struct area a);
/* look tells what an area holds, page by page: "kept*60 zero*4". Pages that
   fault are "segv" or "bus"; others "wrong". It never ends the process. */
const char *look(struct area a);
bool kept(struct area a);
bool zero(struct area a);

/* frozen tells that all is prepared and waits to go on. Then it reports how
   many areas are mappings of a file, and how many filters the process has. */
void frozen(void);

/* step reports one call: r is 0 or more, or -1 with errno. */
void step(const char *name, long r, enum may may, const char *before, const char *after);
/* note reports what must be the same everywhere. */
void note(const char *name, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* must ends the case, with errno, if what the case stands on failed. */
void must(bool ok, const char *what);
/* dup_text is a copy that lives until the case ends. */
char *dup_text(const char *s);

/* TRY is a step around a call that concerns an area. */
#define TRY(name, may, a, call)                                     \
	do {                                                        \
		char *before_ = dup_text(look(a));                  \
		errno = 0;                                          \
		long r_ = (long)(call);                             \
		int e_ = errno;                                     \
		char *after_ = dup_text(look(a));                   \
		errno = e_;                                         \
		step(name, r_, may, before_, after_);               \
	} while (0)

/* NOTE reports what a call answered, and then a text made after it. */
#define NOTE(name, call, text)                        \
	do {                                          \
		errno = 0;                            \
		long r_ = (long)(call);               \
		note(name, "%ld %s", r_, text);       \
	} while (0)

/* in_child runs fn in a forked child and reports how it ended. */
void in_child(const char *name, void (*fn)(void *), void *arg);

/* i386 makes a system call through the 32-bit entry; ENOSYS if the kernel has none. */
long i386(long n, long a, long b, long c, long d, long e);

/* executed is what the exec case runs. */
void executed(void);

#endif
