package rig

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/runtime/api"
	"github.com/snapctl/snapctl/runtime/client"
	"github.com/snapctl/snapctl/testenv/host"
)

// Where the benchmarked server is, unless there are several.
const (
	Endpoint = "10.77.0.7"
	port     = 7000
)

// World is a scratch host with a daemon.
type World struct {
	*host.Host
	API *client.Client
}

// WithWorld runs fn on a fresh scratch host and removes it.
func WithWorld(ctx context.Context, fn func(*World) error) error {
	return WithHost(ctx, host.Config{Name: "bench"}, fn)
}

// WithHost is withWorld on a host of the caller's choice.
func WithHost(ctx context.Context, cfg host.Config, fn func(*World) error) (err error) {
	// The clients' ends of all connections are this process's.
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return err
	}
	limit.Cur = limit.Max
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return err
	}
	h, err := host.Open(ctx, cfg)
	if err != nil {
		return err
	}
	defer func() {
		clean, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
		defer cancel()
		err = errors.Join(err, h.Close(clean))
	}()
	w := &World{Host: h}
	if err := w.Start(ctx); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, w.API.Close()) }()
	return fn(w)
}

// Start starts the daemon and connects to it.
func (w *World) Start(ctx context.Context) error {
	if err := w.StartDaemon(ctx, host.Daemon{}); err != nil {
		return err
	}
	c, err := client.Dial(ctx, w.Socket())
	w.API = c
	return err
}

// Subject runs the benchmarked server as an app.
func (w *World) Subject(ctx context.Context, name, at string, mib int) error {
	return w.Program(ctx, name, at, "subject", "-memory", fmt.Sprint(mib))
}

// Swept waits until no memory file is left, which what is saved next would find.
func (w *World) Swept(ctx context.Context) error {
	return Until(ctx, time.Minute, func() error {
		left, err := os.ReadDir(filepath.Join(w.StateDir(), "memory"))
		if err == nil && len(left) > 0 {
			err = fmt.Errorf("%d memory files are left", len(left))
		}
		return err
	})
}

// Program runs a program of this module as an app.
func (w *World) Program(ctx context.Context, name, at, program string, args ...string) error {
	_, err := w.App(ctx, name, at, program, args...)
	return err
}

// App is Program for callers that ask where the app is; with an empty at the daemon chooses that.
func (w *World) App(ctx context.Context, name, at, program string, args ...string) (*api.App, error) {
	path, err := w.Install(ctx, program)
	if err != nil {
		return nil, err
	}
	return w.API.Run(ctx, &api.RunRequest{
		Name: name, Endpoint: at, Args: append([]string{path}, args...),
		Env: []string{"GOMAXPROCS=1"}, Wake: &api.WakePolicy{Mode: api.WakeMode_WAKE_MODE_ON_DATA},
	})
}

// Cycle hibernates an app and wakes it by command: its memory is mapped then.
func (w *World) Cycle(ctx context.Context, app string) error {
	if _, err := w.API.Hibernate(ctx, &api.HibernateRequest{Name: app}, nil); err != nil {
		return err
	}
	_, err := w.API.Wake(ctx, &api.WakeRequest{Name: app}, nil)
	return err
}

// Timed runs a program inside the host and returns how long it took, from the
// moment it is executed: a shell that is inside by then does that.
func (w *World) Timed(ctx context.Context, name string, args ...string) (time.Duration, host.Result, error) {
	args = append([]string{"-c", `echo; read -r go; exec "$0" "$@" </dev/null`, name}, args...)
	cmd := w.Command(ctx, "sh", args...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return 0, host.Result{}, err
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return 0, host.Result{}, errors.Join(err, stdin.Close())
	}
	if err := cmd.Start(); err != nil {
		return 0, host.Result{}, err
	}
	_, err = io.ReadFull(stdout, make([]byte, 1))
	began := time.Now()
	if err == nil {
		_, err = stdin.Write([]byte{'\n'})
	}
	out, rerr := io.ReadAll(stdout)
	werr := cmd.Wait()
	r := host.Result{Stdout: string(out), Stderr: stderr.String()}
	if exit, ok := errors.AsType[*exec.ExitError](werr); ok {
		r.Code, werr = exit.ExitCode(), nil
	}
	return time.Since(began), r, errors.Join(err, rerr, werr)
}

// Remove ends an app and removes it.
func (w *World) Remove(ctx context.Context, name string) error {
	return w.API.Remove(context.WithoutCancel(ctx), &api.RemoveRequest{Name: name, Force: true})
}

// Crowd opens n connections and has each echoed once.
func (w *World) Crowd(ctx context.Context, at string, n int) ([]net.Conn, error) {
	conns := make([]net.Conn, 0, n)
	for len(conns) < n {
		conn, err := w.Dial(ctx, at)
		if err == nil {
			_, err = Ping(conn)
		}
		if err != nil {
			CloseAll(conns)
			return nil, err
		}
		conns = append(conns, conn)
	}
	return conns, nil
}

// Dial connects as soon as the server listens.
func (w *World) Dial(ctx context.Context, at string) (conn net.Conn, err error) {
	err = Until(ctx, time.Minute, func() error {
		conn, err = w.DialContext(ctx, "tcp", net.JoinHostPort(at, fmt.Sprint(port)))
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("wait for the server: %w", err)
	}
	return conn, nil
}

// Until repeats fn until it succeeds, for what announces itself by nothing else.
func Until(ctx context.Context, patience time.Duration, fn func() error) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for {
		err := fn()
		if err == nil {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return errors.Join(err, ctx.Err())
		}
	}
}

// CloseAll closes clients' connections.
func CloseAll(conns []net.Conn) {
	for _, c := range conns {
		_ = c.Close() // a client that is done
	}
}

// Ping sends a byte and returns how long its echo took.
func Ping(conn net.Conn) (time.Duration, error) {
	began := time.Now()
	if err := conn.SetDeadline(began.Add(2 * time.Minute)); err != nil {
		return 0, err
	}
	buf := []byte{'x'}
	if _, err := conn.Write(buf); err != nil {
		return 0, err
	}
	if _, err := conn.Read(buf); err != nil {
		return 0, err
	}
	return time.Since(began), nil
}

// Rest lets some time go by, less if ctx ends.
func Rest(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// MS is a duration in milliseconds.
func MS(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
