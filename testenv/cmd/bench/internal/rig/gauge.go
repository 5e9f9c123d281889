package rig

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"strconv"
	"strings"
	"time"
)

// Gauge is a connection to the program of that name, which measures from inside.
type Gauge struct {
	conn net.Conn
	in   *bufio.Reader
}

// Gauge runs the program as an app, whose memory is filled when this returns.
func (w *World) Gauge(ctx context.Context, name, at string, mib int) (*Gauge, error) {
	if err := w.Program(ctx, name, at, "gauge", "-memory", fmt.Sprint(mib)); err != nil {
		return nil, err
	}
	return w.DialGauge(ctx, at)
}

// DialGauge connects to a gauge as soon as it listens.
func (w *World) DialGauge(ctx context.Context, at string) (*Gauge, error) {
	conn, err := w.Dial(ctx, at)
	if err != nil {
		return nil, err
	}
	return &Gauge{conn: conn, in: bufio.NewReader(conn)}, nil
}

// Close closes the connection.
func (g *Gauge) Close() { _ = g.conn.Close() } // a client that is done

// Do has the program do something and returns how long it took by its own clock.
func (g *Gauge) Do(words ...any) (time.Duration, error) {
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
