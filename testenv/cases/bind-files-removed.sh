#!/usr/bin/env bash
# An app has files below a bind open that have lost their name: one of them large and sparse, one with another name.
# Right: it has them again, after a wake and in each copy, and nothing of CRIU's is left in the user's directory; a wake
# that is refused leaves nothing there either, names the file, and succeeds once that is put back.
# Needs: python3.
# shellcheck source=testenv/cases/case.bash
. "$(dirname "$0")/case.bash"
mkdir "$d/b"; echo read >"$d/b/ro"
cat >"$d/app.py" <<'P'
import os, socket
gone = open("/b/gone", "w+"); gone.write("gone"); gone.flush(); os.unlink("/b/gone")
big = open("/b/big", "w+b"); big.write(os.urandom(8 << 20)); big.seek(3 << 30); big.write(b"end"); big.flush(); os.unlink("/b/big")
linked = open("/b/linked", "w+"); linked.write("linked"); linked.flush(); os.link("/b/linked", "/b/other"); os.unlink("/b/linked")
ro = open("/b/ro")
server = socket.create_server(("", 7000))
print("READY", flush=True)
while True:
    client, _ = server.accept()
    if client.recv(99):
        gone.seek(0); linked.seek(0); ro.seek(0)
        client.sendall(("%s %d %d %s %s" % (gone.read(), big.seek(0, 2), os.fstat(big.fileno()).st_blocks >> 11, linked.read(), ro.read())).encode())
    client.close()
P
snapctl run --name $app --bind "$d/b:/b" -- /usr/bin/python3 "$d/app.py" >/dev/null || skip "run"
started
ask() {
	local ip; ip=$(snapctl show "$1" | awk '$1 == "endpoint:" {print $2}'); answer=
	exec 3<>"/dev/tcp/$ip/7000" && { echo ask >&3; read -t 20 -u 3 answer; exec 3>&-; }
}
same() {
	ask "$1" 2>/dev/null; [ "$answer" = "$first" ] || wrong "$2: before '$first', then '${answer:-no answer}'; $(snapctl show "$1" 2>&1 | grep -i error | cut -c1-200)"
	[ "$(ls "$d/b" | tr '\n' ' ')" = "other ro " ] || wrong "$2: the user's directory has $(ls "$d/b" | tr '\n' ' ')"
}
ask $app; first=$answer; [ "$first" = "gone 3221225475 8 linked read" ] || skip "it answers '$answer'"
snapctl hibernate $app >/dev/null || wrong "hibernate"
mv "$d/b/ro" "$d/ro"
message=$(snapctl wake $app 2>&1) && wrong "woken without a file that it reads"
[[ $message == */b/ro*descriptor*process* ]] || wrong "refused without the file, process and descriptor: ${message:0:200}"
left=$(ls "$d/b"); [[ $left == *.cr.* || $left == *cr_link* ]] && wrong "a refused wake left ${left//$'\n'/ }"
rm -f "$d"/b/link_remap.* # whatever that is, a user may remove it
mv "$d/ro" "$d/b/ro"
snapctl wake $app >/dev/null || wrong "wake, once the file is back"
same $app "woken"
snapctl snapshot --name $app-s $app >/dev/null || wrong "snapshot"
same $app "after a snapshot"
snapctl rm --force $app >/dev/null
for n in 1 2; do
	snapctl restore $app-s --as $app-r >/dev/null 2>&1
	same $app-r "restored, time $n"
	snapctl rm --force $app-r >/dev/null
done
ok "$first"
