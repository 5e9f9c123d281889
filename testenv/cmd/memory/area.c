/* Memory with known content, and what is told of it. */
#include "memory.h"

#include <setjmp.h>
#include <stdarg.h>

#define MAX_AREAS 8192

static struct area areas[MAX_AREAS];
static int areas_count;

static uint64_t word(uint64_t seed, size_t offset)
{
	uint64_t x = seed * 0x9e3779b97f4a7c15 + offset + 1;

	x ^= x >> 31;
	x *= 0xbf58476d1ce4e5b9;
	return x ^ x >> 29;
}

void must(bool ok, const char *what)
{
	if (ok)
		return;
	printf("{\"step\":\"%s\",\"result\":\"broken: %s\"}\n", what, strerror(errno));
	fflush(stdout);
	fprintf(stderr, "memory: error: %s: %s\n", what, strerror(errno));
	_exit(3);
}

char *dup_text(const char *s)
{
	char *copy = strdup(s);

	must(copy, "copy text");
	return copy;
}

struct area claim(void *at, size_t len)
{
	struct area a = { .at = at, .len = len, .seed = 1 + areas_count };

	must(areas_count < MAX_AREAS, "count areas");
	fill(a);
	return areas[areas_count++] = a;
}

struct area unclaim(struct area a)
{
	areas_count--;
	return a;
}

struct area area(size_t pages)
{
	char *p = mmap(NULL, (pages + 2) * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	must(p != MAP_FAILED, "map area");
	must(!mprotect(p + PAGE, pages * PAGE, PROT_READ | PROT_WRITE), "open area");
	return claim(p + PAGE, pages * PAGE);
}

struct area area_at(uintptr_t at, size_t pages)
{
	void *p = mmap((void *)at, pages * PAGE, PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);

	must(p == (void *)at, "map area at its address");
	return claim(p, pages * PAGE);
}

/* part keeps the seed: its content is counted from the area's start. */
struct area part(struct area a, size_t page, size_t pages)
{
	return (struct area){ a.at + page * PAGE, pages * PAGE, a.seed };
}

/* Words are named by their address, so that a part knows them too, and content
   that shows up elsewhere is wrong there. */
void fill(struct area a)
{
	for (size_t i = 0; i < a.len; i += 8)
		*(uint64_t *)(a.at + i) = word(a.seed, (uintptr_t)a.at + i);
}

static sigjmp_buf fault;

static void on_fault(int sig)
{
	siglongjmp(fault, sig);
}

static const char *look_page(const char *p, uint64_t seed)
{
	bool zero = true, kept = true;
	int sig = sigsetjmp(fault, 0);

	if (sig)
		return sig == SIGBUS ? "bus" : "segv";
	for (size_t i = 0; i < PAGE; i += 8) {
		uint64_t got = *(const volatile uint64_t *)(p + i);

		zero &= got == 0;
		kept &= got == word(seed, (uintptr_t)p + i);
	}
	return kept ? "kept" : zero ? "zero" : "wrong";
}

const char *look(struct area a)
{
	static char text[4096];
	struct sigaction act = { .sa_handler = on_fault, .sa_flags = SA_NODEFER }, segv, bus;
	const char *last = NULL;
	size_t n = 0, same = 0;

	sigaction(SIGSEGV, &act, &segv);
	sigaction(SIGBUS, &act, &bus);
	text[0] = 0;
	for (size_t i = 0; i <= a.len / PAGE; i++) {
		const char *now = i < a.len / PAGE ? look_page(a.at + i * PAGE, a.seed) : NULL;

		if (last && (!now || strcmp(last, now))) {
			if (n < sizeof(text) - 32)
				n += sprintf(text + n, "%s%s*%zu", n ? " " : "", last, same);
			same = 0;
		}
		last = now;
		same++;
	}
	sigaction(SIGSEGV, &segv, NULL);
	sigaction(SIGBUS, &bus, NULL);
	return text;
}

static bool all(struct area a, const char *what)
{
	char want[32];

	sprintf(want, "%s*%zu", what, a.len / PAGE);
	return !strcmp(look(a), want);
}

bool kept(struct area a)
{
	return all(a, "kept");
}

bool zero(struct area a)
{
	return all(a, "zero");
}

/* mapped tells whether some of an area is a mapping of a file. It reads
   /proc/self/maps as a whole: it may be long. */
static int mapped_areas(void)
{
	FILE *f = fopen("/proc/self/maps", "re");
	static bool of_file[MAX_AREAS];
	unsigned long from, to, inode;
	char *text = NULL;
	size_t size = 0;
	int n = 0;

	must(f, "open maps");
	while (getline(&text, &size, f) > 0) {
		if (sscanf(text, "%lx-%lx %*s %*x %*s %lu", &from, &to, &inode) != 3 || !inode)
			continue;
		for (int i = 0; i < areas_count; i++)
			if (from < (uintptr_t)areas[i].at + areas[i].len && (uintptr_t)areas[i].at < to)
				of_file[i] = true;
	}
	free(text);
	fclose(f);
	for (int i = 0; i < areas_count; i++)
		n += of_file[i];
	return n;
}

/* filters counts the seccomp filters of this thread, which Linux tells since
   5.9. */
static int filters(void)
{
	FILE *f = fopen("/proc/thread-self/status", "re");
	char l[256];
	int n = 0;

	must(f, "open status");
	while (fgets(l, sizeof(l), f))
		sscanf(l, "Seccomp_filters: %d", &n);
	fclose(f);
	return n;
}

void frozen(void)
{
	struct area ballast = area(BALLAST);
	char go;

	printf("ready\n");
	fflush(stdout);
	while (read(0, &go, 1) < 0)
		must(errno == EINTR, "wait to go on");
	note("ballast", "%s", look(ballast));
	printf("{\"step\":\"areas\",\"areas\":%d,\"mapped\":%d,\"filters\":%d}\n", areas_count, mapped_areas(), filters());
}

void step(const char *name, long r, enum may may, const char *before, const char *after)
{
	static const char *const mays[] = { "", "EINVAL", "ENOMEM", "EPERM" };

	printf("{\"step\":\"%s\",\"result\":\"%s\",\"may\":\"%s\",\"before\":\"%s\",\"after\":\"%s\"}\n",
	       name, r != -1 ? "ok" : strerrorname_np(errno), mays[may], before, after);
}

void note(const char *name, const char *format, ...)
{
	char text[4096];
	va_list args;

	va_start(args, format);
	vsnprintf(text, sizeof(text), format, args);
	va_end(args);
	printf("{\"step\":\"%s\",\"result\":\"%s\"}\n", name, text);
}

void in_child(const char *name, void (*fn)(void *), void *arg)
{
	int status;
	pid_t pid;

	fflush(stdout);
	pid = fork();
	must(pid >= 0, "fork");
	if (!pid) {
		fn(arg);
		fflush(stdout);
		_exit(0);
	}
	must(waitpid(pid, &status, 0) == pid, "wait for child");
	note(name, WIFSIGNALED(status) ? "signal %d" : "exit %d",
	     WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status));
}

/* has_i386 tells whether the kernel has the 32-bit entry. Without it (booted with
   ia32_emulation=off, CONFIG_IA32_EMULATION unset, some hypervisors) int $0x80 is a
   general protection fault. */
static int has_i386(void)
{
	static int known = -1;
	int status;
	pid_t pid;

	if (known >= 0)
		return known;
	pid = fork();
	must(pid >= 0, "fork");
	if (!pid) {
		long r;

		__asm__ volatile("int $0x80" : "=a"(r) : "a"(20 /* getpid */) : "r8", "r9", "r10", "r11", "memory");
		_exit(0);
	}
	must(waitpid(pid, &status, 0) == pid, "wait for child");
	known = WIFEXITED(status);
	return known;
}

long i386(long n, long a, long b, long c, long d, long e)
{
	long r;

	if (!has_i386()) {
		errno = ENOSYS;
		return -1;
	}
	__asm__ volatile("int $0x80"
			 : "=a"(r)
			 : "a"(n), "b"(a), "c"(b), "d"(c), "S"(d), "D"(e)
			 : "r8", "r9", "r10", "r11", "memory");
	r = (int)r;
	if (r < 0 && r > -4096) {
		errno = (int)-r;
		return -1;
	}
	return r;
}
