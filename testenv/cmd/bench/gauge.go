package main

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"strconv"
	"strings"
	"time"
)

// gauge is a connection to the program of that name, which measures from inside.
type gauge struct {
	conn net.Conn
	in   *bufio.Reader
}

// gauge runs the program as an app, whose memory is filled when this returns.
func (w *world) gauge(ctx context.Context, name, at string, mib int) (*gauge, error) {
	if err := w.program(ctx, name, at, "gauge", "-memory", fmt.Sprint(mib)); err != nil {
		return nil, err
	}
	return w.dialGauge(ctx, at)
}

func (w *world) dialGauge(ctx context.Context, at string) (*gauge, error) {
	conn, err := w.dial(ctx, at)
	if err != nil {
		return nil, err
	}
	return &gauge{conn: conn, in: bufio.NewReader(conn)}, nil
}

func (g *gauge) close() { _ = g.conn.Close() } // a client that is done

// do has the program do something and returns how long it took by its own clock.
func (g *gauge) do(words ...any) (time.Duration, error) {
	if err := g.conn.SetDeadline(time.Now().Add(2 * time.Minute)); err != nil {
		return 0, err
	}
	if _, err := fmt.Fprintln(g.conn, words...); err != nil {
		return 0, err
	}
	line, err := g.in.ReadString('\n')
	if err != nil {
		return 0, err
	}
	ns, err := strconv.ParseInt(strings.TrimSpace(line), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("%s: answer %q", strings.TrimSpace(fmt.Sprintln(words...)), line)
	}
	return time.Duration(ns), nil
}
