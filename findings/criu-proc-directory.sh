#!/usr/bin/env bash
# CRIU 4.2.1 saves an open directory of a process, /proc/PID, under another name.
#
# Expected: dump keeps it as "/proc/PID", and the program has it again after the restore.
# Seen: dump succeeds and logs no error. The image has "/proc/PID/", with more behind the
# slash when the buffer had something there. The restore can't open that, and fails.
#
# Why: criu/files-reg.c, check_path_remap, puts a NUL behind the id to look whether the
# process lives, and then a slash, as if a file's name followed. For the directory itself the
# NUL was the end of the string.
#
# What snapctl does: vem/hold/vet (odd.go) refuses such descriptors before the freeze, and says
# which they are.
# shellcheck source=findings/criu.bash
. "$(dirname "$0")/criu.bash"
cat >"$tmp/app.py" <<'P'
import os, sys, time
directory = os.open("/proc/self", os.O_RDONLY | os.O_DIRECTORY)
open(sys.argv[1] + "/ready", "w").close()
time.sleep(1000)
P
# shellcheck disable=SC2016 # for the shell inside
inside '
	start python3 "$tmp/app.py" "$tmp"
	readlink "/proc/$pid/fd/3" >"$tmp/name"
	dump
	grep -ao "/proc/$pid/*" "$tmp/images/files.img" >"$tmp/saved"
	restore 2>/dev/null && echo "succeeds" >"$tmp/restored" || echo "fails" >"$tmp/restored"'
want "name in the image, open was $(cat "$tmp/name")" "$(cat "$tmp/name")/" "$(cat "$tmp/saved")"
want "restore" fails "$(cat "$tmp/restored")"
