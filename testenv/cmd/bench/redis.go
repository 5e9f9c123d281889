package main

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/snapctl/snapctl/runtime/api"
	"github.com/snapctl/snapctl/testenv/host"
)

const redisPort = 6379

// redisArgs is how a server runs that keeps its data in memory alone, and reads it
// from a directory when it starts.
func redisArgs(dir string) []string {
	return []string{
		"redis-server", "--save", "", "--protected-mode", "no", "--enable-debug-command", "yes",
		"--rdbcompression", "no", "--dir", dir,
	}
}

// redis runs a redis as an app.
func (w *world) redis(ctx context.Context, name, at string) (*redis, error) {
	_, err := w.api.Run(ctx, &api.RunRequest{Name: name, Endpoint: at, Args: redisArgs("/tmp")})
	if err != nil {
		return nil, err
	}
	return w.dialRedis(ctx, at)
}

// redis is a connection to a server.
type redis struct {
	conn net.Conn
	in   *bufio.Reader
}

// dialRedis connects as soon as the server serves, and has its data.
func (w *world) dialRedis(ctx context.Context, at string) (*redis, error) {
	return dialRedis(ctx, func() (net.Conn, error) {
		return w.DialContext(ctx, "tcp", net.JoinHostPort(at, strconv.Itoa(redisPort)))
	})
}

func dialRedis(ctx context.Context, dial func() (net.Conn, error)) (r *redis, err error) {
	err = until(ctx, 2*time.Minute, func() error {
		conn, err := dial()
		if err != nil {
			return err
		}
		r = &redis{conn: conn, in: bufio.NewReader(conn)}
		if err = r.want("PING", "+PONG"); err != nil { // it is loading
			r.close()
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("wait for redis: %w", err)
	}
	return r, nil
}

func (r *redis) close() { _ = r.conn.Close() } // a client that is done

// do sends a command and returns the first line of the answer.
func (r *redis) do(command string) (string, error) {
	if err := r.conn.SetDeadline(time.Now().Add(2 * time.Minute)); err != nil {
		return "", err
	}
	if _, err := r.conn.Write([]byte(command + "\r\n")); err != nil {
		return "", err
	}
	line, err := r.in.ReadString('\n')
	return strings.TrimSpace(line), err
}

// want sends a command that must be answered so.
func (r *redis) want(command, answer string) error {
	got, err := r.do(command)
	if err == nil && got != answer {
		err = fmt.Errorf("redis: %s: %q instead of %q", command, got, answer)
	}
	return err
}

// populate fills the server with so much data, all of it different.
func (r *redis) populate(mib int) error {
	return r.want(fmt.Sprintf("DEBUG POPULATE %d key 1000", mib<<10), "+OK")
}

// check asks the server for what populate filled it with.
func (r *redis) check(mib int) error {
	if err := r.want("DBSIZE", fmt.Sprintf(":%d", mib<<10)); err != nil {
		return err
	}
	return r.want("STRLEN key:7", ":1000")
}

// redisLoad is one run of redis-benchmark.
type redisLoad struct {
	at, command string
	requests    int
	pipeline    int
	keys, bytes int
}

// run returns the requests a second.
func (l redisLoad) run(ctx context.Context, w *world) (float64, error) {
	r, err := host.Run(w.Command(ctx, "redis-benchmark", "-h", l.at, "-t", l.command, "-n", strconv.Itoa(l.requests),
		"-P", strconv.Itoa(l.pipeline), "-r", strconv.Itoa(l.keys), "-d", strconv.Itoa(l.bytes), "-c", "20", "--csv"))
	if err != nil {
		return 0, err
	}
	// "SET","123456.78","0.1",... after a line of titles
	for line := range strings.Lines(r.Stdout) {
		fields := strings.Split(strings.TrimSpace(line), ",")
		if len(fields) > 1 && strings.EqualFold(strings.Trim(fields[0], `"`), l.command) {
			return strconv.ParseFloat(strings.Trim(fields[1], `"`), 64)
		}
	}
	return 0, fmt.Errorf("redis-benchmark: exit status %d: %s%s", r.Code, r.Stdout, r.Stderr)
}
