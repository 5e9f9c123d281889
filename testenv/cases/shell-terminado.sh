#!/usr/bin/env bash
# Jupyter's terminal: terminado gives each client a shell over a websocket that stays open, and another client may join it. The
# app hibernates when nobody types, and a key is typed.
# Right: it wakes and the shell answers, with its variables, jobs and terminal, to both clients; a restored copy lets others in.
# Needs: python3-terminado, procps.
# shellcheck source=testenv/cases/case.bash
. "$(dirname "$0")/case.bash"
# shellcheck source=testenv/cases/terminal.bash
. "$(dirname "$0")/terminal.bash"
/usr/bin/python3 -c 'import terminado' 2>/dev/null || skip "no python3-terminado"
cat >"$d/server.py" <<'PY'
import asyncio, terminado, tornado.web
async def main():
    manager = terminado.NamedTermManager(shell_command=["bash", "--norc"], max_terminals=9)
    tornado.web.Application([(r"/terminals/websocket/(\w+)", terminado.TermSocket, {"term_manager": manager})]).listen(7000)
    print("READY", flush=True)
    await asyncio.Event().wait()
asyncio.run(main())
PY
cat >"$d/client.py" <<'PY'
import asyncio, json, os, sys, tornado.websocket
async def main():
    socket = await tornado.websocket.websocket_connect("ws://%s:7000/terminals/websocket/%s" % tuple(sys.argv[1:]))
    def typed():
        data = os.read(0, 4096).decode()
        if not data:
            os._exit(0)
        if data.startswith("\0size "):
            line, _, data = data.partition("\n")
            socket.write_message(json.dumps(["set_size", *map(int, line[6:].split())]))
        if data:
            socket.write_message(json.dumps(["stdin", data]))
    asyncio.get_running_loop().add_reader(0, typed)
    while message := await socket.read_message():
        kind, *rest = json.loads(message)
        if kind == "stdout":
            os.write(1, rest[0].encode())
asyncio.run(main())
PY
typist=
open_() { # ADDRESS TERMINAL
	coproc client { exec /usr/bin/python3 "$d/client.py" "$@"; }
	typist=$!
	exec 3<&"${client[0]}" 4>&"${client[1]}"
}
leave() { kill $typist; wait $typist; }
end() { [ -z "$typist" ] || leave; }
snapctl run --name $app --endpoint 10.77.0.62 --hibernate-after 1s -- /usr/bin/python3 -c "$(cat "$d/server.py")" >/dev/null || skip "run"
started
open_ 10.77.0.62 one
works
asleep "before its page is closed"
leave; open_ 10.77.0.62 one; type_ 'echo $((x + 2))\n'; sees 43 "its page is opened again"
message=$(snapctl snapshot --name $app-s $app 2>&1) || wrong "snapshot is refused: ${message:0:300}"
type_ 'echo st$((2))ill\n'; sees st2ill "after a snapshot"
message=$(snapctl restore $app-s --as $app-2 --endpoint 10.77.0.63 2>&1); [ $? = 6 ] || wrong "restore: ${message:0:300}"
leave; open_ 10.77.0.63 one; type_ 'echo $((x + 3)) in a copy\n'; sees '44 in a copy' "in a copy"
leave; open_ 10.77.0.63 two; type_ 'echo st$((3))arted\n'; sees st3arted "another shell in a copy"
ok "a key wakes the shell, and all is as it was"
