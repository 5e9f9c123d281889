/*
 * Preloaded into CRIU where root lacks CAP_SYS_RESOURCE, as in some containers.
 * To read the limits of a process of another user by prlimit(2) takes that
 * capability, so CRIU can't save such processes there (cr-dump.c,
 * dump_task_rlimits); /proc/PID/limits says the same to everybody.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/syscall.h>

/* In the order of RLIMIT_CPU to RLIMIT_RTTIME: fs/proc/base.c, lnames. */
static const char *const names[] = {
	"Max cpu time", "Max file size", "Max data size", "Max stack size",
	"Max core file size", "Max resident set", "Max processes",
	"Max open files", "Max locked memory", "Max address space",
	"Max file locks", "Max pending signals", "Max msgqueue size",
	"Max nice priority", "Max realtime priority", "Max realtime timeout",
};

static rlim64_t number(const char *text)
{
	return text[0] == 'u' ? RLIM64_INFINITY : strtoull(text, NULL, 10);
}

static int read_limit(long pid, unsigned long resource, struct rlimit64 *to)
{
	char path[64], line[256], soft[32], hard[32];
	int found = 0;
	FILE *f;

	if (resource >= sizeof(names) / sizeof(names[0]))
		return 0;
	snprintf(path, sizeof(path), "/proc/%ld/limits", pid);
	f = fopen(path, "re");
	if (!f)
		return 0;
	while (!found && fgets(line, sizeof(line), f)) {
		size_t n = strlen(names[resource]);

		if (strncmp(line, names[resource], n) || line[n] != ' ')
			continue;
		if (sscanf(line + n, "%31s %31s", soft, hard) != 2)
			break;
		to->rlim_cur = number(soft);
		to->rlim_max = number(hard);
		found = 1;
	}
	fclose(f);
	return found;
}

static long raw(long n, const long *a)
{
	register long r10 __asm__("r10") = a[3];
	register long r8 __asm__("r8") = a[4];
	register long r9 __asm__("r9") = a[5];
	long result;

	__asm__ volatile("syscall"
			 : "=a"(result)
			 : "a"(n), "D"(a[0]), "S"(a[1]), "d"(a[2]), "r"(r10), "r"(r8), "r"(r9)
			 : "rcx", "r11", "memory");
	return result;
}

/* CRIU calls prlimit through libc's syscall function. */
long syscall(long n, ...)
{
	long a[6], result;
	va_list args;
	int i;

	va_start(args, n);
	for (i = 0; i < 6; i++)
		a[i] = va_arg(args, long);
	va_end(args);
	result = raw(n, a);
	if (result == -EPERM && n == SYS_prlimit64 && !a[2] && a[3] && a[0] &&
	    read_limit(a[0], (unsigned long)a[1], (struct rlimit64 *)a[3]))
		return 0;
	if (result < 0 && result > -4096) {
		errno = (int)-result;
		return -1;
	}
	return result;
}
