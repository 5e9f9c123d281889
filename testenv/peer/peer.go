// Package peer makes traffic that proves what happened to it: programs on two
// sides number every byte that they send, in both directions of every
// connection at once, and check every byte that they receive.
//
// One side is the driver, which is the test; the other is the responder, which
// is the program testenv/cmd/peer in an app. Either may be the one that opens
// the connections:
//
//	                    driver (test)       responder (app)
//	test connects       Dial                Serve
//	app connects        Await               Connect
//
// The driver decides when it ends. Stop ends every TCP stream in order: the
// driver says how much it sent and closes its half; the responder goes on
// sending for a while in the half that is left, then says how much it sent and
// what it thinks of what it got, and closes too. So a byte that is lost,
// double, out of place or changed in either direction is found, and so is a
// connection that was reset or that can't be half closed.
//
// Datagrams are numbered and echoed, never resent. Those without an answer at
// the end are lost. Only a few per flow are under way at a time: a full socket
// buffer would be loss too, and nobody's fault.
package peer

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"time"
)

// Direction is that of a stream, seen from who opened the connection.
type Direction int

// The directions.
const (
	Up   Direction = iota // from who opened the connection
	Down                  // to who opened the connection
)

func (d Direction) String() string {
	switch d {
	case Up:
		return "up"
	case Down:
		return "down"
	}
	return fmt.Sprintf("Direction(%d)", int(d))
}

// MarshalText returns the direction's name.
func (d Direction) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText is the inverse of MarshalText.
func (d *Direction) UnmarshalText(text []byte) error {
	switch string(text) {
	case "up":
		*d = Up
	case "down":
		*d = Down
	default:
		return fmt.Errorf("parse direction %q", text)
	}
	return nil
}

// Pattern is how traffic is spread over time. Who opens the connections
// chooses it, for both directions. The zero value is light: 200 connections
// take about a sixth of a processor on each side.
type Pattern struct {
	MaxChunk int           // a write has 1 to this many bytes; 2048 if 0
	MaxPause time.Duration // after each write, up to this long; 400 ms if 0, none if negative
	Window   int           // datagrams of a flow under way at a time; 8 if 0
}

// Limits of a pattern, so that one from the network can't take all memory.
const (
	defaultChunk  = 2048
	defaultPause  = 400 * time.Millisecond
	defaultWindow = 8
	maxChunk      = 1 << 20
)

func (p Pattern) withDefaults() Pattern {
	if p.MaxChunk <= 0 {
		p.MaxChunk = defaultChunk
	}
	p.MaxChunk = min(p.MaxChunk, maxChunk)
	switch {
	case p.MaxPause == 0:
		p.MaxPause = defaultPause
	case p.MaxPause < 0:
		p.MaxPause = 0
	}
	if p.Window <= 0 {
		p.Window = defaultWindow
	}
	return p
}

// Dialer opens connections: a net.Dialer, or a scratch host.
type Dialer interface {
	DialContext(ctx context.Context, network, address string) (net.Conn, error)
}

// Target is what to connect to, and how often. An empty address means none.
type Target struct {
	TCP         string
	Connections int
	UDP         string
	Flows       int
	Pattern     Pattern
	Valve       *Valve // pauses what this side sends; may be nil
}

// role says who decides when it ends.
type role uint32

const (
	driver role = iota + 1
	responder
)

func (r role) other() role {
	if r == driver {
		return responder
	}
	return driver
}

// hello is the first thing sent on a connection, by who opened it.
type hello struct {
	role    role // of the sender
	key     uint64
	pattern Pattern
}

const (
	helloMagic = 0x31524545_50504e53 // "SNPPEER1"
	helloSize  = 32
	helloTime  = 30 * time.Second
)

var errHello = errors.New("not a peer of this version")

func (h hello) write(w io.Writer) error {
	var b [helloSize]byte
	binary.LittleEndian.PutUint64(b[0:], helloMagic)
	binary.LittleEndian.PutUint64(b[8:], h.key)
	binary.LittleEndian.PutUint32(b[16:], uint32(h.role))
	binary.LittleEndian.PutUint32(b[20:], uint32(h.pattern.MaxChunk))
	binary.LittleEndian.PutUint64(b[24:], uint64(h.pattern.MaxPause))
	_, err := w.Write(b[:])
	return err
}

func readHello(r io.Reader) (hello, error) {
	var b [helloSize]byte
	if _, err := io.ReadFull(r, b[:]); err != nil {
		return hello{}, fmt.Errorf("read hello: %w", err)
	}
	h := hello{
		key:  binary.LittleEndian.Uint64(b[8:]),
		role: role(binary.LittleEndian.Uint32(b[16:])),
		pattern: Pattern{
			MaxChunk: int(binary.LittleEndian.Uint32(b[20:])),
			MaxPause: time.Duration(binary.LittleEndian.Uint64(b[24:])),
		},
	}
	if binary.LittleEndian.Uint64(b[:]) != helloMagic || h.role != driver && h.role != responder ||
		h.pattern.MaxChunk < 1 || h.pattern.MaxChunk > maxChunk || h.pattern.MaxPause < 0 {
		return hello{}, fmt.Errorf("read hello: %w", errHello)
	}
	return h, nil
}
