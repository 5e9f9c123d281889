#!/usr/bin/env bash
# CRIU 4.2.1 restores what waits unread in a pseudo-terminal by writing it to the terminal
# again, and so has it processed twice.
#
# Expected: a reader that had not read "x\r\n" before the dump reads "x\r\n" after the restore.
# Seen: "x\r\r\n". The line discipline adds a carriage return to each newline (ONLCR), which it
# had done before. Nothing is logged, and the dump and the restore succeed.
#
# What snapctl does: snapshot/terminal takes the data out while the app is frozen, and puts it
# back with the processing of output off.
# shellcheck source=findings/criu.bash
. "$(dirname "$0")/criu.bash"
cat >"$tmp/app.py" <<'P'
import os, sys, time
master, slave = os.openpty()
os.write(slave, b"x\n")
open(sys.argv[1] + "/ready", "w").close()
while not os.path.exists(sys.argv[1] + "/go"):
    time.sleep(0.05)
with open(sys.argv[1] + "/read", "w") as f:
    f.write(repr(os.read(master, 99)))
os.rename(sys.argv[1] + "/read", sys.argv[1] + "/done")
P
# shellcheck disable=SC2016 # for the shell inside
inside 'start python3 "$tmp/app.py" "$tmp"; dump; touch "$tmp/go"; restore; until_file "$tmp/done"'
want "read after the restore" "b'x\\r\\r\\n'" "$(cat "$tmp/done")"
