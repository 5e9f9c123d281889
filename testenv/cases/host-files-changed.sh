#!/usr/bin/env bash
# The program, a library and a data file of an app are changed on the host in every way that an ordinary day has, while
# the app is hibernated, and once it is a snapshot, a template or a pool.
# Right: it comes back with the files that it had, at their paths; what is started anew in it has the new ones.
# Needs: gcc.
# shellcheck source=testenv/cases/case.bash
. "$(dirname "$0")/case.bash"
cat >"$d/v.c" <<'C'
int version(void) { return VERSION; }
C
cat >"$d/main.c" <<'C'
#include <arpa/inet.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
int version(void);
int main(int argc, char **argv) {
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(7000)};
	int s = socket(AF_INET, SOCK_STREAM, 0), fd = open(argv[1], O_RDONLY), other = open(argv[1], O_RDONLY);
	char b[64], data[8] = "", exe[200] = "", line[400], map[200] = "";
	if (read(fd, b, 2) != 2 || bind(s, (void *)&a, sizeof a) || listen(s, 9)) return 1;
	puts("READY"), fflush(stdout);
	for (int c; c = accept(s, 0, 0), read(c, b, sizeof b) > 0; close(c)) {
		pread(fd, data, 4, 0), readlink("/proc/self/exe", exe, sizeof exe - 1);
		FILE *maps = fopen("/proc/self/maps", "r");
		while (fgets(line, sizeof line, maps))
			if (strstr(line, "libv")) sscanf(line, "%*s %*s %*s %*s %*s %199s", map);
		fclose(maps);
		dprintf(c, "program " PROGRAM " version %d data %s at %d and %d, %s %s\n", version(), data,
			(int)lseek(fd, 0, SEEK_CUR), (int)lseek(other, 0, SEEK_CUR), exe, map);
	}
}
C
build() {
	gcc -shared -fPIC -DVERSION="$1" -o "$d/$2libv.so" "$d/v.c" && gcc -DPROGRAM="\"$1\"" -o "$d/$2main" "$d/main.c" -L"$d" -l:libv.so -Wl,-rpath,"$d" &&
		echo "$1$1$1$1 data" >"$d/$2data"
}
build 1 "" && build 2 new. || skip "no compiler"
cp -a "$d" "$d.first" && mv "$d.first" "$d/first" || skip "cp"
ask() { # APP [ADDRESS]
	local ip; ip=${2-$(snapctl show "$1" | awk '$1 == "endpoint:" {print $2}')}
	exec 3<>"/dev/tcp/$ip/7000"; echo ask >&3; read -t 20 -u 3 answer; exec 3>&-
}
same() { # APP WHAT
	answer=; ask "$1" 2>/dev/null
	[ "$answer" = "$first" ] || wrong "$2: before '$first', then '${answer:-no answer}'; $(snapctl show "$1" 2>&1 | grep -i error | cut -c1-200)"
}
drop() { for _ in 1 2 3; do echo 2 >/proc/sys/vm/drop_caches; done; }
put_back() { rm -rf "$d"/{libv.so,main,data} && cp "$d"/first/{libv.so,main,data} "$d"; }

start() {
	snapctl rm --force $app >/dev/null 2>&1; put_back
	snapctl run --name $app -- "$d/main" "$d/data" >/dev/null || skip "run"
	started
}
start; ask $app; first=$answer; [ -n "$first" ] || skip "no answer"

change() {
	case $1 in
	"renamed over") cp "$d"/new.libv.so "$d"/n1; cp "$d"/new.main "$d"/n2; cp "$d"/new.data "$d"/n3; mv "$d"/n1 "$d"/libv.so; mv "$d"/n2 "$d"/main; mv "$d"/n3 "$d"/data ;;
	"written in place") cat "$d"/new.libv.so >"$d"/libv.so; cat "$d"/new.main >"$d"/main; cat "$d"/new.data >"$d"/data ;;
	"removed") rm "$d"/{libv.so,main,data} ;;
	"made read-only") chmod 400 "$d"/{libv.so,main,data} ;;
	"replaced by directories") rm "$d"/{libv.so,main,data}; mkdir "$d"/{libv.so,main,data} ;;
	"replaced by links") rm "$d"/{libv.so,main,data}; ln -s new.libv.so "$d"/libv.so; ln -s new.main "$d"/main; ln -s new.data "$d"/data ;;
	"moved away") mv "$d" "$d.away" ;;
	"truncated") : >"$d"/libv.so; : >"$d"/main; : >"$d"/data ;;
	esac
}
for what in "renamed over" "written in place" removed "made read-only" "replaced by directories" "replaced by links" "moved away" truncated; do
	start
	snapctl hibernate $app >/dev/null || wrong "hibernate, before files are $what"
	change "$what"; drop
	same $app "files $what"
	snapctl hibernate $app >/dev/null || wrong "hibernate again, after files were $what"
	same $app "files $what, second time"
	[ -d "$d.away" ] && mv "$d.away" "$d"
done
# The overlay remembers that the directory was missing.
start; mv "$d" "$d.away"; drop; snapctl exec $app -- ls "$d" >/dev/null 2>&1; mv "$d.away" "$d"
snapctl hibernate $app >/dev/null || wrong "hibernate, after a directory was away"
same $app "directory away and back"
# A file is replaced while the app runs, and has another name still.
start; ln "$d/libv.so" "$d/kept.so"; change "renamed over"
snapctl hibernate $app >/dev/null || wrong "hibernate, after an upgrade"
drop; same $app "upgrade while it ran"
start; change "renamed over"
snapctl hibernate $app >/dev/null || wrong "hibernate, after an upgrade"
drop; same $app "upgrade while it ran, of which no other name is left"
[ -z "$(snapctl exec $app -- find "$d" -name "*.cr*")" ] || wrong "something of CRIU's is left in the app's files"

# What is saved for ever.
start
snapctl snapshot --name $app-s $app >/dev/null || wrong "snapshot"
snapctl template create $app-t --from $app >/dev/null || wrong "template"
snapctl template pool $app-t --size 1 >/dev/null || wrong "pool"
snapctl rm --force $app >/dev/null
change "renamed over"; drop
snapctl restore $app-s --as $app-r >/dev/null || wrong "restore"
same $app-r "restored snapshot"
[ "$(snapctl exec $app-r -- head -c4 "$d/data")" = 2222 ] || wrong "what is started in the app has not got the new file"
snapctl snapshot --stop --name $app-s2 $app-r >/dev/null || wrong "snapshot of what was restored with kept files"
snapctl rm $app-r >/dev/null
snapctl restore $app-s2 --as $app-2 >/dev/null || wrong "restore the snapshot of what was restored"
same $app-2 "snapshot of a restored app"
snapctl hibernate $app-2 >/dev/null || wrong "hibernate what was restored twice"
rm -rf "$d"/{libv.so,main,data}; drop
same $app-2 "restored twice, then hibernated"
snapctl rm --force $app-2 >/dev/null
snapctl clone $app-t --name $app-c >/dev/null || wrong "clone"
same $app-c "clone"
snapctl clone $app-t --name $app-3 --pool never >/dev/null || wrong "clone"
same $app-3 "clone that stood not ready"
ok "$first, eight times, restored and cloned"
