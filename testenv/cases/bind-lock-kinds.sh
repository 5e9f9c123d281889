#!/usr/bin/env bash
# An app has locks of all three kinds on files of a bind, one of which it has mapped too, in two processes.
# Right: flock and OFD locks stay, whatever happens, through two sleeps and in a restored snapshot; the one of fcntl is
# listed by path, taken again by the wake, and a wake that finds it taken waits, says by whom, and succeeds once it is free.
# Needs: python3 util-linux.
# shellcheck source=testenv/cases/case.bash
. "$(dirname "$0")/case.bash"
other=
end() { [ -z "$other" ] || kill $other; }
mkdir "$d/data"
cat >"$d/app.py" <<'P'
import fcntl, mmap, os, struct, time
def open_(name):
    return open("/data/" + name, "w+")
whole = struct.pack("hhqqi4x", fcntl.F_WRLCK, 0, 0, 0, 0)
f, o, p = open_("flock"), open_("ofd"), open_("process")
fcntl.flock(f, fcntl.LOCK_EX)
fcntl.fcntl(o, 37, whole)  # F_OFD_SETLK
fcntl.lockf(p, fcntl.LOCK_EX)
again = open("/data/flock", "r+")  # the same file, opened once more
again.truncate(4096)
m = mmap.mmap(again.fileno(), 4096)
f.write("0123"); f.flush()
if os.fork() == 0:
    time.sleep(1000)
print("READY", flush=True)
i = 0
while time.sleep(0.1) is None:
    m[100] = i = (i + 1) % 250
    if os.path.exists("/data/say"):
        os.remove("/data/say")
        print("AT", f.tell(), again.tell(), flush=True)
P
cat >"$d/try.py" <<'P'
import fcntl, struct, sys, time
try:
    for name in sys.argv[1:]:
        f = open(name, "r+")
        if name.endswith("flock"):
            fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
        else:
            fcntl.lockf(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
except OSError:
    sys.exit(1)
print("GOT", flush=True)
sys.stdin.read()
P
free() { /usr/bin/python3 "$d/try.py" "$d/data/$1" </dev/null >/dev/null; }
snapctl run --name $app --bind "$d/data:/data" -- /usr/bin/python3 "$d/app.py" >/dev/null || skip "run"
started
for name in flock ofd process; do free $name && skip "the app has no lock on $name"; done
for round in 1 2; do
	message=$(snapctl hibernate $app 2>&1) || wrong "round $round: refused: ${message:0:300}"
	[[ $message == *fcntl*/data/process* ]] || wrong "round $round: nothing is said of the lock of fcntl: $message"
	[[ $message == */data/flock* || $message == */data/ofd* ]] && wrong "round $round: said of what is kept: $message"
	for name in flock ofd; do free $name && wrong "round $round: a second process got $name while the app sleeps"; done
	free process || wrong "round $round: who has the lock of fcntl?"
	message=$(timeout 15 snapctl wake $app 2>&1) || wrong "round $round: does not wake: ${message:0:300}"
	for name in flock ofd process; do free $name && wrong "round $round: $name is lost after the wake"; done
done
touch "$d/data/say"
for _ in {1..100}; do snapctl logs $app | grep -q AT && break; sleep 0.1; done
snapctl logs $app | grep -q "AT 4 0" || wrong "positions changed: $(snapctl logs $app | grep AT)"

# Somebody else takes the lock of fcntl while the app sleeps, and keeps it.
snapctl hibernate $app >/dev/null 2>&1 || wrong "refused the third time"
mkfifo "$d/end" "$d/got"; sleep 1000 >"$d/end" & keep=$!
/usr/bin/python3 "$d/try.py" "$d/data/process" <"$d/end" >"$d/got" & other=$!
read -r got <"$d/got"; [ "$got" = GOT ] || skip "no second process with a lock"
message=$(timeout 30 snapctl wake $app 2>&1) && { kill $keep; wrong "woken, though somebody else has the lock"; }
[[ $message == */data/process* && $message == *"process $other"* && $message != *criu* ]] || { kill $keep; wrong "no word of the lock: ${message:0:300}"; }
snapctl ps | grep -q "$app.*\(held\|hibernated\|asleep\)" || { kill $keep; wrong "it is not asleep: $(snapctl ps | grep $app)"; }
kill $keep; wait $other; other=
message=$(timeout 15 snapctl wake $app 2>&1) || wrong "does not wake once the lock is free: ${message:0:300}"
for name in flock ofd process; do free $name && wrong "$name is lost after the late wake"; done

# A copy can't have what the original has; once that is gone, it has it.
message=$(snapctl snapshot $app --name $app-s 2>&1) || wrong "no snapshot: ${message:0:300}"
message=$(timeout 30 snapctl restore $app-s --as $app-2 --endpoint 10.77.0.9 2>&1) && wrong "restored beside the original, both with the lock"
[[ $message == */data/* && $message == *lock* && $message != *criu* ]] || wrong "restore does not tell of the lock: ${message:0:300}"
snapctl rm --force $app >/dev/null
message=$(timeout 30 snapctl restore $app-s --as $app-2 2>&1) || wrong "does not restore: ${message:0:300}"
for name in flock ofd process; do free $name && wrong "$name is lost in the restored app"; done
ok "flock and OFD locks are kept, the one of fcntl is listed and waited for"
