package e2e

import (
	"bufio"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"time"
)

// chaosProgram is a program that TestChaos runs.
type chaosProgram struct {
	name, user string
	program    string   // what is copied to be run from there, as $PROGRAM; "": nothing is
	args       []string // of it, or of the shell that executes it
	env, needs []string
	// connect connects a client, once the program is ready.
	connect func(*chaosApp) (chaosClient, error)
}

// chaosClient asks a program over one connection.
type chaosClient interface {
	deadline(time.Time) error
	ask(n int) (string, error)
}

// chaosPrograms are the programs. Each answers its n-th question with n, from its memory.
func chaosPrograms() []chaosProgram {
	count := func(ask string) func(*chaosApp) (chaosClient, error) { return dialed(lineClient(ask)) }
	web := dialed(webClient)
	return []chaosProgram{
		{name: "redis", program: "redis-server", needs: []string{"redis-server"}, args: strings.Fields("--port 8080 --save --protected-mode no"), connect: count("INCR n\r\n")},
		{name: "memcached", program: "memcached", needs: []string{"memcached"}, args: strings.Fields("-u root -p 8080 -U 0"), connect: func(c *chaosApp) (chaosClient, error) {
			client, err := count("incr n 1\r\n")(c)
			if err == nil {
				_, err = fmt.Fprintf(client.(*lines), "set n 0 0 1\r\n0\r\n")
			}
			if err == nil {
				_, err = client.(*lines).r.ReadString('\n')
			}
			return client, err
		}},
		{name: "postgres", user: "postgres", needs: []string{postgresBin + "/postgres", "psql"}, connect: psqlClient, args: []string{"sh", "-ec", `
			initdb -D /tmp/data --auth=trust --no-sync >/dev/null
			echo 'host all all all trust' >>/tmp/data/pg_hba.conf
			exec postgres -D /tmp/data -c listen_addresses='*' -c port=8080 -c unix_socket_directories=/tmp -c fsync=off`}},
		{name: "nginx", program: "nginx", needs: []string{"nginx"}, env: []string{"CONF=" + strings.NewReplacer(
			"user www-data", "user root", "access_log off", "access_log BIND/access.log", "root /tmp/www;", `location / { return 200 "$connection_requests"; }`,
		).Replace(nginxConf)}, connect: web, args: []string{"sh", "-ec", `
			echo "$CONF" | sed "s#BIND#$BIND#" >/tmp/nginx.conf
			exec "$PROGRAM" -c /tmp/nginx.conf -e /dev/stderr`}},
		{name: "haproxy", program: "haproxy", needs: []string{"haproxy"}, connect: web, env: []string{"CONF=" + haproxyConf}, args: []string{"sh", "-ec", `
			echo "$CONF" >/tmp/haproxy.cfg
			exec "$PROGRAM" -db -f /tmp/haproxy.cfg`}},
		{name: "node", program: "node", needs: []string{"node"}, connect: web, args: []string{"-e", `
			let n = 0, s = require("http").createServer((q, r) => r.end(String(++n)))
			s.keepAliveTimeout = 0; s.requestTimeout = 0; s.headersTimeout = 0; s.listen(8080, "0.0.0.0")`}},
		{name: "java", needs: []string{"java", "javac"}, connect: web, env: []string{"SOURCE=" + javaServer}, args: []string{
			"sh", "-ec", `echo "$SOURCE" >/tmp/Count.java; exec java -Xmx64m -XX:+UseSerialGC -Dsun.net.httpserver.idleInterval=36000 /tmp/Count.java`,
		}},
		{name: "asyncio", program: "/usr/bin/python3", env: []string{"PYTHONHOME=/usr"}, args: []string{"-c", asyncioCount}, connect: count("next\n")},
		{name: "sqlite", program: "/usr/bin/python3", env: []string{"PYTHONHOME=/usr"}, args: []string{"-c", sqliteCount}, connect: count("next\n")},
		{name: "go", program: "survivor", args: []string{"web"}, connect: dialed(webClient)},
		{name: "tmux", needs: []string{"tmux", "socat", "bash"}, connect: count("next\n"), args: []string{"sh", "-c", `
			tmux -f /dev/null new-session -d bash
			exec socat TCP-LISTEN:8080,fork,reuseaddr SYSTEM:'n=0; while read -r _; do n=$((n+1)); echo $n; done'`}},
	}
}

const haproxyConf = `
defaults
	mode http
	timeout connect 1h
	timeout client 10h
	timeout server 1h
	timeout http-request 10h
	timeout http-keep-alive 10h
frontend count
	bind :8080
	stick-table type ip size 100 store http_req_cnt
	http-request track-sc0 src
	http-request return status 200 content-type text/plain lf-string "%[sc0_http_req_cnt]"
`

const asyncioCount = `
import asyncio
n = 0
async def serve(r, w):
    global n
    while await r.readline():
        n += 1; w.write(b"%d\n" % n); await w.drain()
async def main():
    await (await asyncio.start_server(serve, "0.0.0.0", 8080)).serve_forever()
asyncio.run(main())`

// Its database is on the bind, so that its journal is, too.
const sqliteCount = `
import os, socket, sqlite3
db = sqlite3.connect(os.environ["BIND"] + "/rows.db", isolation_level=None)
db.execute("pragma journal_mode=wal"); db.execute("create table t (n)")
s = socket.socket(); s.bind(("", 8080)); s.listen()
while True:
    c, _ = s.accept()
    for line in c.makefile():
        db.execute("insert into t values (1)")
        c.sendall(b"%d\n" % db.execute("select count(*) from t").fetchone()[0])`

const javaServer = `
import com.sun.net.httpserver.HttpServer;
import java.net.InetSocketAddress;
import java.util.concurrent.atomic.AtomicInteger;
public class Count {
    public static void main(String[] args) throws Exception {
        AtomicInteger n = new AtomicInteger();
        HttpServer s = HttpServer.create(new InetSocketAddress(8080), 0);
        s.createContext("/", x -> {
            byte[] b = String.valueOf(n.incrementAndGet()).getBytes();
            x.sendResponseHeaders(200, b.length); x.getResponseBody().write(b); x.close();
        });
        s.start();
    }
}`

// dialed connects by TCP.
func dialed(make func(io.Writer, *bufio.Reader) func(int) (string, error)) func(*chaosApp) (chaosClient, error) {
	return func(c *chaosApp) (chaosClient, error) {
		conn := c.Connect(c.endpoint, 8080)
		r := bufio.NewReader(conn)
		return &lines{Writer: conn, r: r, set: conn.SetDeadline, next: make(conn, r)}, nil
	}
}

// lines is a client of a stream.
type lines struct {
	io.Writer
	r    *bufio.Reader
	set  func(time.Time) error
	next func(int) (string, error)
}

func (l *lines) deadline(at time.Time) error { return l.set(at) }
func (l *lines) ask(n int) (string, error)   { return l.next(n) }

// lineClient asks and reads a line: those of redis begin with a colon.
func lineClient(question string) func(io.Writer, *bufio.Reader) func(int) (string, error) {
	return func(w io.Writer, r *bufio.Reader) func(int) (string, error) {
		return func(int) (string, error) {
			if _, err := io.WriteString(w, question); err != nil {
				return "", err
			}
			line, err := r.ReadString('\n')
			return strings.TrimPrefix(strings.TrimSpace(line), ":"), err
		}
	}
}

// webClient asks by HTTP over one connection.
func webClient(w io.Writer, r *bufio.Reader) func(int) (string, error) {
	return func(int) (string, error) {
		if _, err := io.WriteString(w, "GET /count HTTP/1.1\r\nHost: app\r\n\r\n"); err != nil {
			return "", err
		}
		resp, err := http.ReadResponse(r, nil)
		if err != nil {
			return "", err
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		return strings.TrimSpace(string(b)), err
	}
}

// psqlClient asks by a psql that stays connected.
func psqlClient(c *chaosApp) (chaosClient, error) {
	conn := c.Connect(c.endpoint, 8080) // it listens
	if err := conn.Close(); err != nil {
		return nil, err
	}
	args := []string{"-h", c.endpoint, "-p", "8080", "-U", "postgres", "-v", "ON_ERROR_STOP=1", "-Atq", "postgres"}
	c.Until("postgres serves", func() error {
		out, err := c.Command(c.t.Context(), "psql", append(args, "-c", "create table if not exists t (n int)")...).CombinedOutput()
		if err != nil {
			err = fmt.Errorf("%w: %s", err, out)
		}
		return err
	})
	cmd := c.Command(c.t.Context(), "psql", args...)
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	c.t.Cleanup(func() { _ = in.Close(); _ = cmd.Wait() })
	r := bufio.NewReader(out)
	return &lines{Writer: in, r: r, set: out.(*os.File).SetReadDeadline, next: lineClient("insert into t values (1); select count(*) from t;\n")(in, r)}, nil
}
