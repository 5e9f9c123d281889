package rig

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

// RedisPort is where redis listens.
const RedisPort = 6379

// RedisArgs is how a server runs that keeps its data in memory alone, and reads it
// from a directory when it starts.
func RedisArgs(dir string) []string {
	return []string{
		"redis-server", "--save", "", "--protected-mode", "no", "--enable-debug-command", "yes",
		"--rdbcompression", "no", "--dir", dir,
	}
}

// Redis runs a redis as an app.
func (w *World) Redis(ctx context.Context, name, at string) (*Redis, error) {
	_, err := w.API.Run(ctx, &api.RunRequest{Name: name, Endpoint: at, Args: RedisArgs("/tmp")})
	if err != nil {
		return nil, err
	}
	return w.DialRedis(ctx, at)
}

// Redis is a connection to a server.
type Redis struct {
	conn net.Conn
	in   *bufio.Reader
}

// DialRedis connects as soon as the server serves, and has its data.
func (w *World) DialRedis(ctx context.Context, at string) (*Redis, error) {
	return DialRedis(ctx, func() (net.Conn, error) {
		return w.DialContext(ctx, "tcp", net.JoinHostPort(at, strconv.Itoa(RedisPort)))
	})
}

// DialRedis connects by dial as soon as the server serves, and has its data.
func DialRedis(ctx context.Context, dial func() (net.Conn, error)) (r *Redis, err error) {
	err = Until(ctx, 2*time.Minute, func() error {
		conn, err := dial()
		if err != nil {
			return err
		}
		r = &Redis{conn: conn, in: bufio.NewReader(conn)}
		if err = r.Want("PING", "+PONG"); err != nil { // it is loading
			r.Close()
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("wait for redis: %w", err)
	}
	return r, nil
}

// Close closes the connection.
func (r *Redis) Close() { _ = r.conn.Close() } // a client that is done

// do sends a command and returns the first line of the answer.
func (r *Redis) do(command string) (string, error) {
	if err := r.conn.SetDeadline(time.Now().Add(2 * time.Minute)); err != nil {
		return "", err
	}
	if _, err := r.conn.Write([]byte(command + "\r\n")); err != nil {
		return "", err
	}
	line, err := r.in.ReadString('\n')
	return strings.TrimSpace(line), err
}

// Want sends a command that must be answered so.
func (r *Redis) Want(command, answer string) error {
	got, err := r.do(command)
	if err == nil && got != answer {
		err = fmt.Errorf("redis: %s: %q instead of %q", command, got, answer)
	}
	return err
}

// Populate fills the server with so much data, all of it different.
func (r *Redis) Populate(mib int) error {
	return r.Want(fmt.Sprintf("DEBUG POPULATE %d key 1000", mib<<10), "+OK")
}

// Check asks the server for what populate filled it with.
func (r *Redis) Check(mib int) error {
	if err := r.Want("DBSIZE", fmt.Sprintf(":%d", mib<<10)); err != nil {
		return err
	}
	return r.Want("STRLEN key:7", ":1000")
}

// RedisLoad is one run of redis-benchmark.
type RedisLoad struct {
	At, Command string
	Requests    int
	Pipeline    int
	Keys, Bytes int
}

// Run returns the requests a second.
func (l RedisLoad) Run(ctx context.Context, w *World) (float64, error) {
	r, err := host.Run(w.Command(ctx, "redis-benchmark", "-h", l.At, "-t", l.Command, "-n", strconv.Itoa(l.Requests),
		"-P", strconv.Itoa(l.Pipeline), "-r", strconv.Itoa(l.Keys), "-d", strconv.Itoa(l.Bytes), "-c", "20", "--csv"))
	if err != nil {
		return 0, err
	}
	// "SET","123456.78","0.1",... after a line of titles
	for line := range strings.Lines(r.Stdout) {
		fields := strings.Split(strings.TrimSpace(line), ",")
		if len(fields) > 1 && strings.EqualFold(strings.Trim(fields[0], `"`), l.Command) {
			return strconv.ParseFloat(strings.Trim(fields[1], `"`), 64)
		}
	}
	return 0, fmt.Errorf("redis-benchmark: exit status %d: %s%s", r.Code, r.Stdout, r.Stderr)
}
