#!/usr/bin/env bash
# Somebody works over ssh on a development machine that sleeps: OpenSSH's server with the settings of Debian, its client with
# a terminal whose window changes. Nobody types for a while, the app hibernates, and a key is typed.
# Right: it wakes and the shell answers, with its variables, jobs and terminal; the session can end, and another begin. A
# restored copy lets others in. Needs: openssh-server, openssh-client, python3, procps.
# shellcheck source=testenv/cases/case.bash
. "$(dirname "$0")/case.bash"
# shellcheck source=testenv/cases/terminal.bash
. "$(dirname "$0")/terminal.bash"
[ -x /usr/sbin/sshd ] && command -v ssh >/dev/null || skip "no OpenSSH"
cat >"$d/client.py" <<'PY'
import fcntl, os, pty, select, struct, sys, termios
pid, master = pty.fork()
if pid == 0:
    os.execvp(sys.argv[1], sys.argv[1:])
while True:
    ready = select.select([0, master], [], [])[0]
    try:
        if master in ready:
            os.write(1, os.read(master, 4096))
        if 0 in ready:
            data = os.read(0, 4096)
            if not data:
                break
            if data.startswith(b"\0size "):
                line, _, data = data.partition(b"\n")
                fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack("HHHH", *map(int, line[6:].split()), 0, 0))
            os.write(master, data)
    except OSError:  # ssh has ended
        break
os.close(master)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
PY
chmod 755 "$d"
ssh-keygen -q -t ed25519 -N '' -f "$d/host"; ssh-keygen -q -t ed25519 -N '' -f "$d/user"
typist=
login() { # ADDRESS
	coproc client { exec /usr/bin/python3 "$d/client.py" ssh -F none -i "$d/user" -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null \
		-o LogLevel=ERROR -o IdentitiesOnly=yes "root@$1"; }
	typist=$!
	exec 3<&"${client[0]}" 4>&"${client[1]}"
}
leave() { kill $typist; wait $typist; }
end() { [ -z "$typist" ] || leave; }
# A login shell of root's own settings would say what the case does not expect.
snapctl run --name $app --endpoint 10.77.0.60 --hibernate-after 1s -- sh -c "mkdir -p /run/sshd /root/.ssh; cp $d/user.pub /root/.ssh/authorized_keys
	chmod -R go= /root/.ssh; echo PS1='\\$ ' >/root/.bash_profile; exec /usr/sbin/sshd -D -e -h $d/host -o PermitRootLogin=yes" >/dev/null || skip "run"
for _ in {1..100}; do snapctl logs $app | grep "Server listening" >/dev/null && break; sleep 0.1; done
login 10.77.0.60
works
message=$(snapctl snapshot --name $app-s $app 2>&1) || wrong "snapshot is refused: ${message:0:300}"
type_ 'echo st$((2))ill\n'; sees st2ill "after a snapshot"
asleep "before its end"
type_ 'exit 7\n'; wait $typist; [ $? = 7 ] || wrong "the client does not learn how the shell ended"
login 10.77.0.60; type_ 'echo st$((3))arted\n'; sees st3arted "another session"
message=$(snapctl restore $app-s --as $app-2 --endpoint 10.77.0.61 2>&1); [ $? = 6 ] || wrong "restore: ${message:0:300}"
leave; login 10.77.0.61; type_ 'echo st$((4))arted\n'; sees st4arted "in a copy"
left() { snapctl exec $app-2 -- ps -C bash -o pid= | wc -l; }
for _ in {1..100}; do [ "$(left)" = 1 ] && break; sleep 0.1; done
[ "$(left)" = 1 ] || wrong "the copy has the shell of a session that has ended: $(snapctl exec $app-2 -- ps -e)"
ok "a key wakes the shell, and all is as it was"
