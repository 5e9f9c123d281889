#!/usr/bin/env bash
# An app has a file below a bind open for reading and writing, a log open for writing only, a directory for its own and a
# program of the bind running, and while it sleeps these change in every way that an ordinary day has.
# Right: it finds the files as they are now, and goes on with the program that it had; what is gone and can't be made is
# named, and the app wakes once it is there, or when the user accepts an empty one.
# Needs: python3, gcc.
# shellcheck source=testenv/cases/case.bash
. "$(dirname "$0")/case.bash"
cat >"$d/v.c" <<'C'
int version(void) { return VERSION; }
C
gcc -shared -fPIC -Wl,--build-id=none -DVERSION=1 -o "$d/one.so" "$d/v.c" && gcc -shared -fPIC -Wl,--build-id=none -DVERSION=2 -o "$d/two.so" "$d/v.c" || skip "no compiler"
cat >"$d/app.py" <<'P'
import ctypes, os, socket
v = ctypes.CDLL("/b/libv.so")
rw, log, ro = open("/b/data", "r+"), open("/b/log", "w"), open("/b/conf")
os.chdir("/b/dir")
server = socket.create_server(("", 7000))
print("READY", flush=True)
while True:
    client, _ = server.accept()
    if client.recv(99):
        rw.seek(0); ro.seek(0)
        log.write("x"); log.flush()
        client.sendall(("%d %s %s %s" % (v.version(), rw.read().strip(), ro.read().strip(), os.getcwd())).encode())
    client.close()
P
policy=()
start() {
	snapctl rm --force $app >/dev/null 2>&1; rm -rf "$d/b"; mkdir -p "$d/b/dir"; chmod 700 "$d/b/dir"
	cp "$d/one.so" "$d/b/libv.so"; echo data >"$d/b/data"; echo conf >"$d/b/conf"; echo >"$d/b/log"; chown 12:34 "$d/b/log"; chmod 640 "$d/b/log"
	snapctl run --name $app "${policy[@]}" --bind "$d/b:/b" -- /usr/bin/python3 "$d/app.py" >/dev/null || skip "run"
	started
}
ask() {
	local ip; ip=$(snapctl show $app | awk '$1 == "endpoint:" {print $2}'); answer=
	exec 3<>"/dev/tcp/$ip/7000" && { echo ask >&3; read -t 20 -u 3 answer; exec 3>&-; }
}
want() { # ANSWER WHAT
	ask 2>/dev/null; [ "$answer" = "$1" ] || wrong "$2: '${answer:-no answer}' and not '$1'; $(snapctl show $app | grep -i error | cut -c1-250)"
}
try() { # ANSWER WHAT CHANGE...
	local answer_wanted=$1 what=$2; shift 2
	start; snapctl hibernate $app >/dev/null || wrong "hibernate, before files are $what"
	(cd "$d/b" && eval "$*") || skip "$what"
	want "$answer_wanted" "$what"
}
start; want "1 data conf /b/dir" "at first"
try "1 more data conf /b/dir" grown 'echo more data >data; echo and more >>log'
try "1  conf /b/dir" truncated ': >data; : >log'
try "1 new conf /b/dir" replaced 'echo new >n; mv n data; cp log n; mv n log'
try "1 data longer /b/dir" "configuration replaced" 'echo longer >n; mv n conf'
try "1 data conf /b/dir" "mode changed" 'chmod 600 data conf; chmod 755 dir; chown 5:6 data'
try "1 data conf /b/dir" "library replaced" 'cp ../two.so n; mv n libv.so'
try "1 data conf /b/dir" "library written in place" 'cat ../two.so >libv.so'
try "1 data conf /b/dir" "library gone" 'rm libv.so'
try "1 data conf /b/dir" "log rotated" 'mv log log.1; gzip log.1'
[ "$(stat -c '%u:%g %a' "$d/b/log") $(tail -c1 "$d/b/log")" = "12:34 640 x" ] || wrong "the log that was made anew is $(stat -c '%u:%g %a' "$d/b/log")"
snapctl show $app | grep -q "/b/log was gone" || wrong "nothing is said of the log that was made anew"
try "1 data conf /b/dir" "directory gone" 'rmdir dir'
[ "$(stat -c '%a' "$d/b/dir")" = 700 ] || wrong "the directory that was made anew has another mode"
try "1  conf /b/dir" "file to write to gone" 'rm data'
try "1 data conf /b/dir.1" "directory moved, and a link in its place" 'mv dir dir.1; ln -s dir.1 dir'

for undo in 'echo back >conf' accept; do
	start; snapctl hibernate $app >/dev/null || wrong "hibernate"; rm "$d/b/conf"
	message=$(snapctl wake $app 2>&1) && wrong "woken without a file that it only reads"
	[[ $message == *"/b/conf"*"$d/b/conf"*"descriptor"*"--accept-changed-files"* ]] || wrong "the message lacks path, descriptor or remedy: ${message:0:300}"
	for look in doctor ps "show $app" "inspect $app"; do
		# shellcheck disable=SC2086
		snapctl $look 2>/dev/null | grep -q "/b/conf" || wrong "$look does not say what would not start: $(snapctl $look 2>&1)"
	done
	if [ "$undo" = accept ]; then
		snapctl wake --accept-changed-files $app >/dev/null || wrong "wake --accept-changed-files"
		want "1 data  /b/dir" "accepted"
	else
		(cd "$d/b" && eval "$undo"); want "1 data back /b/dir" "put back"
	fi
done
policy=(--accept-changed-files)
try "1 data  /b/dir" "gone, with the policy that accepts it" 'rm conf'
snapctl snapshot --stop --name $app-s $app >/dev/null || wrong "snapshot"; snapctl rm $app >/dev/null; rm "$d/b/conf"
snapctl restore --accept-changed-files=false $app-s >/dev/null 2>&1 && wrong "restored without a file, though the policy was changed"
snapctl snapshots -o json | grep -q /b/conf && wrong "snapshots names a file that its policy accepts to be gone"
snapctl restore $app-s >/dev/null || wrong "restore, with the policy of the saved app"
want "1 data  /b/dir" "restored with the policy of the saved app"; snapctl rm --force $app >/dev/null; snapctl snapshots rm $app-s >/dev/null
policy=()
start; snapctl hibernate $app >/dev/null; mv "$d/b" "$d/away"
message=$(snapctl wake $app 2>&1) && wrong "woken without what is bound"
[[ $message == *"$d/b"*"/b"* ]] || wrong "the message does not name what was bound: ${message:0:200}"
mv "$d/away" "$d/b"; want "1 data conf /b/dir" "bound directory away and back"
# For a snapshot it is no other.
snapctl snapshot --stop --name $app-s $app >/dev/null || wrong "snapshot"; snapctl rm $app >/dev/null
(cd "$d/b" && rm log && echo later >data && cp ../two.so n && mv n libv.so)
snapctl restore $app-s >/dev/null 2>&1
want "1 later conf /b/dir" "restored"
ok "as they are now"
