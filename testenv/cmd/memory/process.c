/* Memory across fork and exec, and as other processes see it. */
#include "memory.h"

#include <sched.h>
#include <sys/personality.h>
#include <sys/ptrace.h>
#include <sys/uio.h>

struct pair {
	struct area a, b;
	int to[2], from[2];
};

static void say(int fd)
{
	must(write(fd, "x", 1) == 1, "write to pipe");
}

static void hear(int fd)
{
	char c;

	must(read(fd, &c, 1) == 1, "read from pipe");
}

static void grandchild(void *arg)
{
	struct pair *p = arg;

	note("grandchild", "%s / %s", look(p->a), look(p->b));
	memset(p->a.at + 40 * PAGE, 0, PAGE);
	memset(p->b.at, 0, PAGE);
}

static void child(void *arg)
{
	struct pair *p = arg;

	note("child", "%s / %s", look(p->a), look(p->b));
	memset(p->a.at, 0, 8 * PAGE);
	say(p->from[1]);
	hear(p->to[0]);
	note("child after parent wrote", "%s / %s", look(p->a), look(p->b));
	in_child("grandchild ends", grandchild, p);
	note("child after grandchild", "%s / %s", look(p->a), look(p->b));
	TRY("dontneed in child", MAY_EINVAL, p->b, madvise(p->b.at, p->b.len, MADV_DONTNEED));
}

static void forked(void)
{
	struct pair p = { .a = area(PAGES), .b = area(PAGES) };
	int status;
	pid_t pid;

	frozen();
	memset(p.b.at + 8 * PAGE, 0, 4 * PAGE);
	must(!pipe(p.to) && !pipe(p.from), "make pipes");
	fflush(stdout);
	pid = fork();
	must(pid >= 0, "fork");
	if (!pid) {
		child(&p);
		fflush(stdout);
		_exit(0);
	}
	hear(p.from[0]);
	memset(p.a.at + 20 * PAGE, 0, 4 * PAGE);
	say(p.to[1]);
	must(waitpid(pid, &status, 0) == pid && !status, "wait for child");
	note("parent", "%s / %s", look(p.a), look(p.b));
}

/* family is forked before: a parent, its children and their children share
   memory that each has written some of. */
static void relative(struct area a, int i, int depth, int done, int go[5][2]);

static pid_t beget(struct area a, int i, int depth, int done, int go[5][2])
{
	pid_t pid;

	fflush(stdout);
	must((pid = fork()) >= 0, "fork");
	if (!pid)
		relative(a, i, depth, done, go);
	return pid;
}

static void relative(struct area a, int i, int depth, int done, int go[5][2])
{
	pid_t own = 0;

	memset(a.at + i * PAGES / 2 * PAGE, 0, PAGES / 2 * PAGE);
	if (i == 3)
		own = beget(a, i + 1, depth + 1, done, go);
	say(done);
	hear(go[i][0]);
	if (own)
		must(waitpid(own, NULL, 0) == own, "wait for child");
	note("relative", "%d, %d deep: %s", i, depth, look(a));
	memset(a.at, 1, a.len);
	fflush(stdout);
	_exit(0);
}

static void family(void)
{
	struct area a = area(4 * PAGES);
	int go[5][2], status, done[2];
	pid_t pids[4];

	must(!pipe(done), "make pipe");
	for (int i = 0; i < 5; i++)
		must(!pipe(go[i]), "make pipe");
	for (int i = 0; i < 4; i++)
		pids[i] = beget(a, i, 1, done[1], go);
	for (int i = 0; i < 5; i++)
		hear(done[0]);
	memset(a.at + 3 * PAGES * PAGE, 0, 4 * PAGE);
	frozen();
	/* One after the other, for their words to be in order. */
	for (int i = 0; i < 3; i++) {
		say(go[i][1]);
		must(waitpid(pids[i], &status, 0) == pids[i] && !status, "wait for child");
	}
	say(go[4][1]);
	say(go[3][1]);
	must(waitpid(pids[3], &status, 0) == pids[3] && !status, "wait for child");
	note("parent", "%s", look(a));
}

/* vforked runs on its parent's memory. */
static void vforked(void)
{
	struct area a = area(PAGES);
	int status;
	pid_t pid;

	frozen();
	fflush(stdout);
	pid = vfork();
	must(pid >= 0, "vfork");
	if (!pid) {
		memset(a.at, 0, PAGE);
		_exit(0);
	}
	must(waitpid(pid, &status, 0) == pid && !status, "wait for child");
	TRY("after vfork", NEVER, a, 0);
}

/* executed is a new program at the old addresses, under the guard of the old:
   it may be refused, and must never see old data. */
void executed(void)
{
	struct area a = area_at(0x10000000000, PAGES);
	char *p;
	size_t bad = 0;

	setvbuf(stdout, NULL, _IOLBF, 0);
	TRY("its own memory", MAY_EINVAL, a, madvise(a.at, a.len, MADV_DONTNEED));
	note("is", "%s", kept(a) || zero(a) ? "kept or zero" : look(a));
	p = malloc(1 << 20);
	must(p, "allocate");
	memset(p, 5, 1 << 20);
	for (int i = 0; i < 6; i++) {
		p = realloc(p, (size_t)2 << (20 + i));
		must(p, "reallocate");
		for (size_t k = 0; k < 1 << 20; k++)
			bad += p[k] != 5;
	}
	note("realloc", "%zu wrong", bad);
}

static void exec_child(void *arg)
{
	(void)arg;
	personality(ADDR_NO_RANDOMIZE);
	execl("/proc/self/exe", "memory", "executed", NULL);
}

static void execs(void)
{
	struct area a = area_at(0x10000000000, PAGES);

	frozen();
	in_child("exec", exec_child, NULL);
	TRY("the parent", NEVER, a, 0);
}

static void peeker(void *arg)
{
	struct pair *p = arg;
	pid_t it = getppid();
	char buf[3 * PAGE], path[64];
	struct iovec here = { buf, sizeof(buf) }, there = { p->a.at + PAGE, sizeof(buf) };
	int status, mem;
	long data;

	NOTE("process_vm_readv", process_vm_readv(it, &here, 1, &there, 1, 0), memcmp(buf, p->a.at + PAGE, sizeof(buf)) ? "differs" : "same");
	memset(buf, 0, sizeof(buf));
	there.iov_base = p->a.at + 10 * PAGE;
	note("process_vm_writev", "%zd", process_vm_writev(it, &here, 1, &there, 1, 0));
	note("to read-only memory", "%zd", (there.iov_base = p->b.at, process_vm_writev(it, &here, 1, &there, 1, 0)));
	sprintf(path, "/proc/%d/mem", it);
	mem = open(path, O_RDWR | O_CLOEXEC);
	must(mem >= 0, "open mem");
	NOTE("read mem", pread(mem, buf, PAGE, (off_t)(uintptr_t)p->a.at), memcmp(buf, p->a.at, PAGE) ? "differs" : "same");
	memset(buf, 0, sizeof(buf));
	note("write mem", "%zd", pwrite(mem, buf, PAGE, (off_t)(uintptr_t)p->a.at + 20 * (off_t)PAGE));
	/* As a debugger sets a breakpoint. */
	note("write read-only mem", "%zd", pwrite(mem, buf, PAGE, (off_t)(uintptr_t)p->b.at + 30 * (off_t)PAGE));
	must(!ptrace(PTRACE_SEIZE, it, 0, 0) && !ptrace(PTRACE_INTERRUPT, it, 0, 0), "seize");
	must(waitpid(it, &status, __WALL) == it, "wait for stop");
	errno = 0;
	data = ptrace(PTRACE_PEEKDATA, it, p->a.at + 40 * PAGE, 0);
	note("peek", "%d %s", data == *(long *)(p->a.at + 40 * PAGE), errno ? strerrorname_np(errno) : "");
	for (size_t i = 0; i < PAGE; i += 8)
		must(!ptrace(PTRACE_POKEDATA, it, p->b.at + 40 * PAGE + i, 0), "poke");
	must(!ptrace(PTRACE_DETACH, it, 0, 0), "detach");
}

static void peeked(void)
{
	struct pair p = { .a = area(PAGES), .b = area(PAGES) };

	must(!mprotect(p.b.at, p.b.len, PROT_READ), "protect");
	frozen();
	in_child("peeker", peeker, &p);
	TRY("what was written", NEVER, p.a, 0);
	TRY("what was written to read-only memory", NEVER, p.b, 0);
	must(!mprotect(p.b.at, p.b.len, PROT_READ | PROT_WRITE), "open");
	in_child("and seen by a child", grandchild, &p);
}

const struct which process_cases[] = {
	{ "fork", forked },
	{ "family", family },
	{ "vfork", vforked },
	{ "exec", execs },
	{ "peek", peeked },
	{ 0 },
};
