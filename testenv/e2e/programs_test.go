package e2e

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/go-quicktest/qt"

	"github.com/snapctl/snapctl/runtime/api"
	"github.com/snapctl/snapctl/testenv"
	"github.com/snapctl/snapctl/testenv/host"
)

const postgresBin = "/usr/lib/postgresql/15/bin"

// runs runs a program on the host to its end.
func (w *World) runs(name string, args ...string) string {
	w.t.Helper()
	r, err := host.Run(w.Command(w.t.Context(), name, args...))
	qt.Assert(w.t, qt.IsNil(err))
	qt.Assert(w.t, qt.Equals(r.Code, 0), qt.Commentf("%s %v: %s%s", name, args, r.Stdout, r.Stderr))
	return r.Stdout
}

// TestPostgresServesThroughHibernation keeps eight clients of pgbench busy
// while the database is hibernated and woken again and again, once across the
// death of the daemon. No transaction fails and the sums add up.
func TestPostgresServesThroughHibernation(t *testing.T) {
	testenv.Need(t, testenv.Program(filepath.Join(postgresBin, "postgres")), testenv.Program(filepath.Join(postgresBin, "pgbench")))
	t.Setenv("SNAPCTL_CRIU", criuForOtherUsers(t)) // postgres refuses to run as root
	w := New(t)
	const endpoint = "10.77.0.30"
	w.Run(&api.RunRequest{
		Name: "db", Endpoint: endpoint, User: "postgres", Env: []string{"PATH=" + postgresBin + ":/usr/bin:/bin", "LC_ALL=C"},
		Args: []string{"sh", "-ec", `
			initdb -D /tmp/data --auth=trust --no-sync >/dev/null
			echo 'host all all all trust' >> /tmp/data/pg_hba.conf
			exec postgres -D /tmp/data -c listen_addresses='*' -c unix_socket_directories=/tmp`},
	})
	psql := func(query string) string {
		return strings.TrimSpace(w.runs("psql", "-h", endpoint, "-U", "postgres", "-Atc", query, "postgres"))
	}
	w.Until("postgres serves", func() error {
		r, err := host.Run(w.Command(t.Context(), filepath.Join(postgresBin, "pg_isready"), "-h", endpoint))
		if err == nil && r.Code != 0 {
			err = fmt.Errorf("pg_isready: %s", r.Stdout)
		}
		return err
	})
	pgbench := filepath.Join(postgresBin, "pgbench")
	w.runs(pgbench, "-h", endpoint, "-U", "postgres", "-i", "-q", "-s", "2", "postgres")

	const transactions = 500 // of each client
	bench := w.Command(t.Context(), pgbench, "-h", endpoint, "-U", "postgres", "-c", "8", "-j", "2", "-t", fmt.Sprint(transactions), "--rate=400", "postgres")
	var out bytes.Buffer
	bench.Stdout, bench.Stderr = &out, &out
	qt.Assert(t, qt.IsNil(bench.Start()))
	done := make(chan error, 1)
	go func() { done <- bench.Wait() }()
	w.Until("pgbench works", func() error {
		if n := psql("select count(*) from pgbench_history"); n == "0" {
			return fmt.Errorf("no transaction yet")
		}
		return nil
	})
	rounds := 0
	for len(done) == 0 && rounds < 8 {
		w.Hibernate("db")
		if rounds == 4 {
			w.killDaemon()
		}
		// Its clients may all wait for an answer: then no traffic wakes it.
		w.Wake("db")
		rounds++
	}
	qt.Assert(t, qt.IsNil(<-done), qt.Commentf("%s", out.String()))
	t.Logf("%d rounds\n%s", rounds, out.String())
	qt.Assert(t, qt.IsTrue(rounds >= 3))
	qt.Assert(t, qt.Matches(out.String(), `(?s).*number of transactions actually processed: 4000/4000.*`))
	qt.Assert(t, qt.Matches(out.String(), `(?s).*number of failed transactions: 0 .*`))
	qt.Assert(t, qt.Equals(psql(`select (select sum(abalance) from pgbench_accounts) = (select sum(delta) from pgbench_history),
		(select sum(bbalance) from pgbench_branches) = (select sum(delta) from pgbench_history), (select count(*) from pgbench_history)`), "t|t|4000"))
	// And it is in order on disk: stopped and started again.
	psql("checkpoint")
}

const nginxConf = `
daemon off;
master_process on;
worker_processes 2;
user www-data;
pid /tmp/nginx.pid;
error_log /dev/stderr;
events { worker_connections 256; }
http {
	access_log off;
	client_body_temp_path /tmp/nginx-body; proxy_temp_path /tmp/nginx-proxy; fastcgi_temp_path /tmp/nginx-fcgi;
	uwsgi_temp_path /tmp/nginx-uwsgi; scgi_temp_path /tmp/nginx-scgi;
	sendfile on;
	keepalive_timeout 1h;
	keepalive_requests 1000000;
	server { listen 8080; root /tmp/www; }
}
`

// TestNginxServesThroughHibernation downloads over kept connections: whole
// files between the hibernations, and one that is under way while they happen.
func TestNginxServesThroughHibernation(t *testing.T) {
	t.Setenv("SNAPCTL_CRIU", criuForOtherUsers(t)) // its workers are not root's
	w := New(t, "nginx", "python3")
	const endpoint, size = "10.77.0.31", 48 << 20
	w.Run(&api.RunRequest{
		Name: "web", Endpoint: endpoint, Env: []string{"PATH=" + os.Getenv("PATH"), "CONF=" + nginxConf},
		Args: []string{"sh", "-ec", fmt.Sprintf(`
			mkdir -p /tmp/www
			python3 -c 'import sys
for i in range(0, %d, 8): sys.stdout.buffer.write(i.to_bytes(8, "big"))' > /tmp/www/big
			echo "$CONF" > /tmp/nginx.conf
			exec nginx -c /tmp/nginx.conf -e /dev/stderr`, size)},
	})
	_ = w.Connect(endpoint, 8080).Close()
	kept := &http.Client{Transport: &http.Transport{DialContext: w.dials(1)}}
	qt.Assert(t, qt.IsNil(download(t.Context(), kept, "http://"+endpoint+":8080/big", size, nil)))
	// A third of it, three times, then the rest.
	slow := &http.Client{Transport: &http.Transport{DialContext: w.dials(1)}}
	err := download(t.Context(), slow, "http://"+endpoint+":8080/big", size, func() {
		w.Hibernate("web")
		qt.Assert(t, qt.IsNil(download(t.Context(), kept, "http://"+endpoint+":8080/big", size, nil)))
		w.Running("web")
	})
	qt.Assert(t, qt.IsNil(err))
}

// dials allows so many connections and no more: clients must keep theirs.
func (w *World) dials(n int) func(context.Context, string, string) (net.Conn, error) {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		if n--; n < 0 {
			return nil, fmt.Errorf("connect to %s: the connection was not kept", address)
		}
		conn, err := w.DialContext(ctx, network, address)
		if err == nil {
			w.t.Cleanup(func() { _ = conn.Close() })
		}
		return conn, err
	}
}

// download compares every number of the file, and stops to call between after
// each third of it.
func download(ctx context.Context, c *http.Client, url string, size int, between func()) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	resp, err := c.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	buf := make([]byte, 1<<20)
	third := size / 3
	for at, next := 0, third; ; {
		n, err := io.ReadFull(resp.Body, buf)
		for i := 0; i+8 <= n; i += 8 {
			b := buf[i : i+8]
			got := int(b[4])<<24 | int(b[5])<<16 | int(b[6])<<8 | int(b[7])
			if got != at+i {
				return fmt.Errorf("number %d at byte %d", got, at+i)
			}
		}
		at += n
		if err == io.EOF || err == io.ErrUnexpectedEOF {
			if at != size {
				return fmt.Errorf("the file has %d bytes, want %d", at, size)
			}
			return nil
		}
		if err != nil {
			return err
		}
		if between != nil && at >= next && next < size {
			between()
			next += third
		}
	}
}

// TestGoServerServesThroughHibernation runs a Go web server that was not told
// about MPTCP, which Go listens with by default.
func TestGoServerServesThroughHibernation(t *testing.T) {
	w := New(t)
	const endpoint, lines = "10.77.0.32", 2_000_000
	path, err := w.Install(t.Context(), "survivor")
	qt.Assert(t, qt.IsNil(err))
	w.Run(&api.RunRequest{Name: "web", Endpoint: endpoint, Args: []string{path, "web"}})
	_ = w.Connect(endpoint, 8080).Close()
	kept := &http.Client{Transport: &http.Transport{DialContext: w.dials(1)}}
	get := func(path string) io.ReadCloser {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+endpoint+":8080"+path, nil)
		qt.Assert(t, qt.IsNil(err))
		client := kept
		if path != "/count" {
			client = &http.Client{Transport: &http.Transport{DialContext: w.dials(1)}}
		}
		resp, err := client.Do(req)
		qt.Assert(t, qt.IsNil(err))
		return resp.Body
	}
	stream := get(fmt.Sprintf("/stream/%d", lines))
	line := make([]byte, len("line 000000000\n"))
	for i := range lines {
		if i%(lines/4) == 0 {
			w.Hibernate("web")
			body, err := io.ReadAll(get("/count"))
			qt.Assert(t, qt.IsNil(err))
			qt.Assert(t, qt.Equals(string(body), fmt.Sprint(1+i/(lines/4))))
			w.Running("web")
		}
		_, err := io.ReadFull(stream, line)
		qt.Assert(t, qt.IsNil(err))
		if string(line) != fmt.Sprintf("line %09d\n", i) {
			t.Fatalf("line %d is %q", i, line)
		}
	}
	_, err = stream.Read(line)
	qt.Assert(t, qt.ErrorIs(err, io.EOF))
}

const asyncioServer = `
import asyncio, sys

class UDP(asyncio.DatagramProtocol):
    count = 0
    def connection_made(self, transport): self.transport = transport
    def datagram_received(self, data, addr):
        self.count += 1
        self.transport.sendto(b"%d " % self.count + data, addr)

async def tcp(reader, writer):
    n = 0
    while line := await reader.readline():
        n += 1
        writer.write(b"%d " % n + line)
        await writer.drain()

async def main():
    loop = asyncio.get_running_loop()
    await loop.create_datagram_endpoint(UDP, local_addr=("0.0.0.0", 9000))
    await asyncio.start_server(tcp, "0.0.0.0", 9000)
    async def tick():
        while True: await asyncio.sleep(0.01)
    await tick()

asyncio.run(main())
`

// TestAsyncioServesThroughHibernation has clients of a Python server: a
// datagram and a line are sent while it has no process, and wake it.
func TestAsyncioServesThroughHibernation(t *testing.T) {
	w := New(t, "python3")
	const endpoint = "10.77.0.33"
	w.Run(&api.RunRequest{Name: "py", Endpoint: endpoint, Env: []string{"PATH=" + os.Getenv("PATH")}, Args: []string{"python3", "-c", asyncioServer}})
	tcp := w.Connect(endpoint, 9000)
	udp, err := w.DialContext(t.Context(), "udp", endpoint+":9000")
	qt.Assert(t, qt.IsNil(err))
	defer udp.Close()
	deadline := time.Now().Add(time.Minute)
	qt.Assert(t, qt.IsNil(udp.SetDeadline(deadline)))
	qt.Assert(t, qt.IsNil(tcp.SetDeadline(deadline)))
	answer := func(conn net.Conn, want string) {
		t.Helper()
		got := make([]byte, len(want))
		_, err := io.ReadFull(conn, got)
		qt.Assert(t, qt.IsNil(err))
		qt.Assert(t, qt.Equals(string(got), want))
	}
	datagrams := 0
	for round := range 3 {
		w.Hibernate("py")
		for i := range 3 {
			_, err := fmt.Fprintf(udp, "datagram %d", i)
			qt.Assert(t, qt.IsNil(err))
		}
		for i := range 3 {
			datagrams++
			answer(udp, fmt.Sprintf("%d datagram %d", datagrams, i))
		}
		w.Running("py")
		w.Hibernate("py")
		_, err := fmt.Fprintln(tcp, "line")
		qt.Assert(t, qt.IsNil(err))
		answer(tcp, fmt.Sprintf("%d line\n", round+1))
		w.Running("py")
	}
}

// pipeline numbers lines, sorts of works on them, and writes what is left to a
// file; it stands between two of its lines whenever it is asked.
const pipeline = `
set -o pipefail
n=0; while [ $n -lt 20000 ]; do n=$((n+1)); echo $n; done | grep -v 7 | while read x; do echo $((x*2)); done | sort -n | tee /tmp/out | sha256sum
echo "status ${PIPESTATUS[*]}"
sleep 1000
`

// TestPipelineSurvives hibernates a bash pipeline at work, and compares what it
// writes with what it must.
func TestPipelineSurvives(t *testing.T) {
	w := New(t, "bash")
	w.Run(&api.RunRequest{Name: "pipe", Endpoint: "10.77.0.34", Args: []string{"bash", "-c", pipeline}})
	r, err := host.Run(w.Command(t.Context(), "bash", "-c", strings.ReplaceAll(strings.ReplaceAll(pipeline, "sleep 1000", ""), "/tmp/out", "/dev/null")))
	qt.Assert(t, qt.IsNil(err))
	rounds := 0
	status := regexp.MustCompile(`status[ 0-9]+\n`)
	var log string
	for !status.MatchString(log) {
		w.Hibernate("pipe")
		w.Wake("pipe")
		rounds++
		res, err := w.Snapctl(t.Context(), "logs", "pipe")
		qt.Assert(t, qt.IsNil(err))
		log = res.Stdout
	}
	t.Logf("%d rounds", rounds)
	qt.Assert(t, qt.Equals(log, r.Stdout))
}

// TestRedisPipelinedWritesSurvive keeps writing without waiting for answers
// through several hibernations, and then counts.
func TestRedisPipelinedWritesSurvive(t *testing.T) {
	w := New(t, "redis-server")
	const endpoint, writes = "10.77.0.35", 60_000
	const least = 3 // hibernations while writes are under way
	runRedis(w, "cache", endpoint)
	writer := w.redis(endpoint)
	answers := make(chan error, 1)
	go func() {
		for i := range writes {
			line, err := writer.in.ReadString('\n')
			if want := fmt.Sprintf(":%d\r\n", i+1); err == nil && line != want {
				err = fmt.Errorf("answer %q, want %q", line, want)
			}
			if err != nil {
				answers <- err
				return
			}
		}
		answers <- nil
	}()
	sent, round := make(chan error, 1), make(chan struct{}, 1000)
	go func() {
		var err error
		for i := 0; i < writes && err == nil; i++ {
			if i > 0 && i%(writes/(least+1)) == 0 {
				<-round // however fast the writer is, it is not done before
			}
			_, err = fmt.Fprintf(writer.conn, "RPUSH list %d\r\n", i)
		}
		sent <- err
	}()
	rounds := 0
	for done := false; !done; {
		select {
		case err := <-answers:
			qt.Assert(t, qt.IsNil(err))
			done = true
		default:
			w.Hibernate("cache")
			select {
			case round <- struct{}{}: // the next writes go to a held app
			default:
			}
			w.Wake("cache")
			rounds++
		}
	}
	qt.Assert(t, qt.IsNil(<-sent))
	t.Logf("%d rounds", rounds)
	qt.Assert(t, qt.IsTrue(rounds >= least))
	reader := w.redis(endpoint)
	qt.Assert(t, qt.Equals(reader.do("LLEN list"), fmt.Sprintf(":%d", writes)))
	reader.send("LINDEX list -1")
	reader.line()
	qt.Assert(t, qt.Equals(reader.line(), fmt.Sprint(writes-1)))
}
