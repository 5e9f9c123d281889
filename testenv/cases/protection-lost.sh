#!/usr/bin/env bash
# A process has asked the kernel to hold back speculative execution, has sealed memory, or memory that is locked when it is
# used: it would come back without. Right: it is refused by process before the freeze; with --accept-lost it is saved, wakes,
# and what was lost is said. Needs: gcc.
# shellcheck source=testenv/cases/case.bash
. "$(dirname "$0")/case.bash"
cat >"$d/main.c" <<'C'
#define _GNU_SOURCE
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>
int main(int argc, char **argv) {
	char *m = mmap(0, 1 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	long rc = -1;
	if (!strcmp(argv[1], "speculation")) rc = prctl(PR_SET_SPECULATION_CTRL, PR_SPEC_STORE_BYPASS, PR_SPEC_DISABLE, 0, 0);
	if (!strcmp(argv[1], "seal")) rc = syscall(462, m, 1 << 20, 0);
	if (!strcmp(argv[1], "lock-on-fault")) rc = syscall(SYS_mlock2, m, 1 << 20, 1);
	if (rc) perror("CANNOT");
	else puts("READY");
	fflush(stdout);
	for (;;) pause();
}
C
sed -i 's/PR_SET_SPECULATION_CTRL, PR_SPEC_STORE_BYPASS, PR_SPEC_DISABLE/53, 0, 4/' "$d/main.c"
gcc -o "$d/main" "$d/main.c" || skip "no compiler"
tried=""
for what in speculation seal lock-on-fault; do
	snapctl run --name $app -- "$d/main" $what >/dev/null || skip "run"
	for _ in {1..150}; do snapctl logs $app 2>/dev/null | grep -qE 'READY|CANNOT' && break; sleep 0.1; done
	if snapctl logs $app | grep -q READY; then
		tried="$tried $what"
		message=$(snapctl hibernate $app 2>&1) && wrong "$what: hibernated without a word"
		[[ $message =~ process\ [0-9]+ && $message == *"--accept-lost $what"* && $message != *criu* ]] || wrong "$what: refused without name or remedy: ${message:0:200}"
		message=$(snapctl hibernate --accept-lost $what $app 2>&1) || wrong "$what: refused all the same: ${message:0:200}"
		[[ $message =~ note:\ process\ [0-9]+ ]] || wrong "$what: lost, and nothing said: ${message:0:200}"
		snapctl wake $app >/dev/null || wrong "$what: does not wake"
	fi
	snapctl rm --force $app >/dev/null
done
[ -n "$tried" ] || skip "this kernel and processor have none of them"
ok "refused, or accepted and said:$tried"
