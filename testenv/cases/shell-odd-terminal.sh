#!/usr/bin/env bash
# A terminal emulator has a shell in a shell; and it wants SIGIO of its terminal (F_SETOWN), has locked the terminal
# (TIOCSPTLCK), or the app has terminals of a second devpts. The last ones only CRIU can make.
# Right: both shells go on in their terminal after a wake and in a restored copy: variables, half a typed line, Ctrl-C, and of
# the outer one its jobs; the emulator gets its signals, the lock stays. With
# a second devpts it is listed that the inner shell has lost its controlling terminal; if two terminals have one number, it is refused.
# Needs: python3, bash, procps.
# shellcheck source=testenv/cases/case.bash
. "$(dirname "$0")/case.bash"
cat >"$d/app.py" <<'P'
import ctypes, fcntl, os, pty, select, signal, struct, sys
kind = sys.argv[1]
if os.fork():  # the app's first process leads no session of a terminal
    while True: signal.pause()
os.setsid()
os.mkfifo("/in")
signals = []
signal.signal(signal.SIGIO, lambda *_: signals.append(1))
pid, master = pty.fork()
if pid == 0:
    os.execlp("bash", "bash", "--norc", "-i")
if kind in ("second", "same"):
    os.mkdir("/pts")
    assert ctypes.CDLL(None).mount(b"devpts", b"/pts", b"devpts", 0, b"newinstance,ptmxmode=0666,mode=0600") == 0
    first = os.open("/pts/ptmx", os.O_RDWR)  # of number 0, as the shell's
    if kind == "second":
        other = os.open("/pts/ptmx", os.O_RDWR)
        os.close(first)
typed, shown = os.open("/in", os.O_RDWR), os.open("/shown", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
print("READY", flush=True)
seen = 0
while True:
    ready = select.select([typed, master], [], [])[0]
    if master in ready:
        data = os.read(master, 4096)
        os.write(shown, data)
    if typed in ready:
        data = os.read(typed, 4096)
        if data == b"odd\n":  # the shells are there
            if kind == "owner":
                fcntl.fcntl(master, fcntl.F_SETOWN, os.getpid())
                fcntl.fcntl(master, fcntl.F_SETFL, fcntl.fcntl(master, fcntl.F_GETFL) | os.O_ASYNC)
            if kind == "locked":
                fcntl.ioctl(master, 0x40045431, struct.pack("i", 1))  # TIOCSPTLCK
            os.write(shown, b"now odd\n")
        elif data == b"lock\n":
            os.write(shown, b"lock: %d\n" % struct.unpack("i", fcntl.ioctl(master, 0x80045439, b"1234")))  # TIOCGPTLCK
        elif data == b"signals\n":
            os.write(shown, b"signals: %d\n" % len(signals))
        else:
            os.write(master, data)
P
types() { snapctl exec "$at" -- sh -c 'printf "%b" "$1" >/in' sh "$1"; }
sees() { for _ in {1..100}; do snapctl exec "$at" -- grep -qs -- "$1" /shown && return; sleep 0.1; done
	wrong "$kind, $2: $1 is not shown, but $(snapctl exec "$at" -- tail -3 /shown 2>&1)"; }
check() { # WHEN N
	types "$2[half]\n"; sees "half $2\\[half\\]" "$1, half a line"
	types "echo \$((x + $2)) is y\n"; sees "$((41 + $2)) is y" "$1, inner shell"
	types 'garbage\003'; types "echo in$2terr\$((1))upted\n"; sees "^in$2terr1upted" "$1, Ctrl-C"
}
lists() { # COMMAND: that the inner shell loses its terminal
	local said=second; [[ $message == *"controlling terminal of processes that lead no session is lost"* ]] || said=owner,locked
	[[ $said == *$kind* ]] || wrong "$kind: $1 does not tell what is lost: $message"
}
for kind in owner locked second; do
	at=$app
	snapctl run --name $app --endpoint 10.77.0.70 -- /usr/bin/python3 -c "$(cat "$d/app.py")" $kind >/dev/null || skip "run"
	started
	types 'bash --norc\n'; types 'x=41; echo st$((1))arted\n'; sees st1arted start
	types 'read a; echo "half $a"\n'; types 'odd\n'; sees 'now odd' start
	message=$(snapctl hibernate $app 2>&1) || wrong "$kind: hibernate is refused: ${message:0:300}"
	message=$(snapctl wake $app 2>&1) || wrong "$kind: does not wake: $message"
	lists wake
	check woken 1
	types 'read a; echo "half $a"\n'
	message=$(snapctl snapshot --name $app-s $app 2>&1) || wrong "$kind: snapshot is refused: ${message:0:300}"
	message=$(snapctl restore $app-s --as $app-2 --endpoint 10.77.0.71 2>&1) || wrong "$kind: restore: ${message:0:300}"
	lists restore
	at=$app-2; check restored 2
	types 'exit\n'; types 'sleep 903\n'; for _ in {1..50}; do snapctl exec $at -- pgrep sleep >/dev/null && break; sleep 0.1; done
	types '\032'; sees 'Stopped .*sleep 903' "outer shell"
	if [ $kind = owner ]; then
		for _ in {1..50}; do types 'signals\n'; snapctl exec $at -- grep -q 'signals: [1-9]' /shown && break; sleep 0.1; done
		sees 'signals: [1-9]' "no SIGIO"
	fi
	if [ $kind = locked ]; then
		types 'lock\n'; sees 'lock: 1' "not locked"
		at=$app; types 'lock\n'; sees 'lock: 1' "the original is not locked"
	fi
	snapctl rm --force $app $app-2 >/dev/null; snapctl snapshots rm $app-s >/dev/null
done
snapctl run --name $app -- /usr/bin/python3 -c "$(cat "$d/app.py")" same >/dev/null || skip "run"
started
message=$(snapctl hibernate $app 2>&1) && wrong "two terminals of one number: hibernated: $message"
[[ $message == *"process "*" has an unsupported terminal of number 0, which one of another devpts has too"*"descriptor"* ]] || wrong "two terminals of one number: $message"
ok "the shells go on, and what is lost is listed"
