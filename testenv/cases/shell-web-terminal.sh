#!/usr/bin/env bash
# A web terminal: a server that gives each client a shell on a terminal of its own, over a connection that stays open. The app
# hibernates when nobody types; the client types a key, hours later.
# Right: it wakes and the shell answers, with its variables, half a typed line, and the size that the client sets meanwhile;
# a copy that is restored gives new clients new shells. Needs: python3, bash.
set -u
app=case-$$; d=$(mktemp -d /srv/case.XXXXXX)
trap 'exec 3<&- 3>&-; timeout 20 snapctl rm --force $app $app-2 >/dev/null 2>&1; snapctl snapshots rm $app-s >/dev/null 2>&1; rm -rf "$d"' EXIT
ok() { echo "ok: $*"; exit 0; }; wrong() { echo "wrong: $*"; exit 1; }; skip() { echo "skip: $*"; exit 77; }
snapctl ps >/dev/null 2>&1 || skip "no snapctld answers"
cat >"$d/server.py" <<'PY'
import asyncio, fcntl, os, pty, signal, struct, termios
async def client(reader, writer):
    pid, master = pty.fork()
    if pid == 0:
        os.execlp("bash", "bash", "--norc", "-i")
    loop = asyncio.get_running_loop()
    def shown():
        try:
            data = os.read(master, 4096)
        except OSError:
            data = b""
        if data: writer.write(data)
        else: loop.remove_reader(master); writer.close()
    loop.add_reader(master, shown)
    while data := await reader.read(4096):
        if data.startswith(b"\0size "): # as a terminal in a browser tells it
            line, _, data = data.partition(b"\n")
            rows, columns = map(int, line[6:].split())
            fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        if data:
            os.write(master, data)
    loop.remove_reader(master)
    os.close(master)
    os.waitpid(pid, 0)
async def main():
    server = await asyncio.start_server(client, "0.0.0.0", 7000)
    await server.serve_forever()
signal.signal(signal.SIGHUP, signal.SIG_IGN)
asyncio.run(main())
PY
snapctl run --name $app --endpoint 10.77.0.50 --hibernate-after 1s --env TERM=xterm --bind "$d:/srv/web" -- python3 /srv/web/server.py >/dev/null || skip "run"
connect() { for _ in {1..100}; do exec 3<>"/dev/tcp/$1/7000" && return; sleep 0.1; done 2>/dev/null; false; }
type_() { printf '%b' "$1" >&3; }
sees() { local got='' part; for _ in {1..200}; do IFS= read -r -t 0.1 -d '' -n 4096 part <&3; got+=$part; [[ $got == *$1* ]] && return; done; wrong "$2: the client does not see $1, but: ${got: -300}"; }
asleep() { for _ in {1..300}; do snapctl ps | grep -w $app | grep -qw held && return; sleep 0.1; done; wrong "$1: it does not go to sleep: $(snapctl show $app)"; }
connect 10.77.0.50 || skip "the server does not listen"
type_ 'x=41; echo st$((1))arted\n'; sees st1arted start
asleep "the client is silent"
type_ 'echo $((x + 1)) $(ls -l /proc/self/fd/0 | grep -o "[^ ]*$")\n'; sees $'42 /dev/pts/0' "after a night"
type_ 'read answer </dev/tty; echo "[$answer]"\nha'; sleep 0.5
asleep "half a line is typed"
type_ 'lf\n'; sees '[half]' "half a line"
asleep again
type_ '\0size 40 132\n'; type_ 'stty size\n'; sees '40 132' "the window is larger"
type_ 'trap "echo resi""zed" WINCH\n'; sees resi "trap"; asleep "with a trap"
type_ '\0size 41 133\n'; sees resized "SIGWINCH"
type_ 'sleep 100\n'; sleep 0.3; asleep "with a job"
type_ '\003'; type_ 'echo in$((1))terrupted\n'; sees in1terrupted Ctrl-C
message=$(snapctl snapshot --name $app-s $app 2>&1) || wrong "snapshot is refused: ${message:0:300}"
type_ 'echo st$((2))ill\n'; sees st2ill "after a snapshot"
message=$(snapctl restore $app-s --as $app-2 --endpoint 10.77.0.51 2>&1); [ $? = 6 ] || wrong "restore: ${message:0:300}"
exec 3<&- 3>&-
connect 10.77.0.51 || wrong "the copy does not listen"
type_ 'echo $((6 * 7)) in a copy\n'; sees '42 in a copy' copy
ok "a key wakes the shell, and all is as it was"
