#!/usr/bin/env bash
# A web terminal: a server that gives each client a shell on a terminal of its own, over a connection that stays open. The app
# hibernates when nobody types; the client types a key, hours later.
# Right: it wakes and the shell answers, with its variables, half a typed line, and the size that the client sets meanwhile;
# a copy that is restored gives new clients new shells. Needs: python3, bash.
# shellcheck source=testenv/cases/case.bash
. "$(dirname "$0")/case.bash"
# shellcheck source=testenv/cases/terminal.bash
. "$(dirname "$0")/terminal.bash"
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
connect() { for _ in {1..100}; do exec 3<>"/dev/tcp/$1/7000" 4>&3 && return; sleep 0.1; done 2>/dev/null; false; }
end() { exec 3<&- 4>&-; }
connect 10.77.0.50 || skip "the server does not listen"
works
message=$(snapctl snapshot --name $app-s $app 2>&1) || wrong "snapshot is refused: ${message:0:300}"
type_ 'echo st$((2))ill\n'; sees st2ill "after a snapshot"
message=$(snapctl restore $app-s --as $app-2 --endpoint 10.77.0.51 2>&1); [ $? = 6 ] || wrong "restore: ${message:0:300}"
end
connect 10.77.0.51 || wrong "the copy does not listen"
type_ 'echo $((6 * 7)) in a copy\n'; sees '42 in a copy' copy
ok "a key wakes the shell, and all is as it was"
