package handover

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/vem/handover/plain"
	"github.com/snapctl/snapctl/vem/hold"
	"github.com/snapctl/snapctl/vem/tcprepair"
)

// Saved is all that is needed to make the sockets again.
type Saved struct {
	// Sockets describe what is made: Inode is the number by which the app's images know
	// it.
	Sockets     []hold.Socket
	Connections []tcprepair.Connection
	Others      []plain.Socket
	// Waiting are the connections that wait to be accepted, in their order at each
	// listener.
	Waiting []Waiting
	// Alone lists the connections, by Inode of their only end, whose other end was in the app
	// and is closed.
	Alone []uint64
	// Async lists the sockets, by Inode, that have O_ASYNC. Who is sent the signal is in the
	// app's images.
	Async []uint64
	// Refused are those that are not made, and why.
	Refused []Refused
	// Window is the largest congestion window of a connection, in segments: a hint for
	// the route by which the app talks at the target (initcwnd), since a connection that
	// is made again starts slowly.
	Window uint32
}

// whole are the ends of a connection as they are made again.
func (s *Saved) whole(c tcprepair.Connection) (tcprepair.Connection, error) {
	if slices.Contains(s.Alone, c.Ends[0].Inode) {
		c = c.Whole()
	}
	return c.Join()
}

func (s *Saved) refuse(k *hold.Socket, reason string) {
	s.Refused = append(s.Refused, Refused{Inode: k.ImageInode(), What: what(k), Reason: reason})
}

func (s *Saved) describe(k *hold.Socket) {
	if flags, err := unix.FcntlInt(k.File.Fd(), unix.F_GETFL, 0); err == nil && flags&unix.O_ASYNC != 0 {
		s.Async = append(s.Async, k.ImageInode())
	}
	d := *k
	d.Inode, d.Saved, d.File = k.ImageInode(), 0, nil
	s.Sockets = append(s.Sockets, d)
}

func (s *Saved) addConnection(c *connection, made tcprepair.Connection) {
	for _, k := range c.sockets {
		s.describe(k)
	}
	s.Connections = append(s.Connections, made)
	if c.inside && len(c.sockets) == 1 {
		s.Alone = append(s.Alone, c.sockets[0].ImageInode())
	}
}

func (s *Saved) addOther(o *other) {
	s.describe(o.socket)
	s.Others = append(s.Others, *o.state)
}

// ErrMalformed is data that Encode has not made.
var ErrMalformed = errors.New("malformed handover")

const (
	magic   = "snapctl handover\n"
	version = 1

	maxHead    = 256 << 20
	maxSockets = 1 << 20
)

// MaxEncoded bounds what Encode makes.
const MaxEncoded = maxHead + tcprepair.MaxSaved + 1<<20

// head is what is written as JSON.
type head struct {
	Version int            `json:"version"`
	Sockets []hold.Socket  `json:"sockets,omitempty"`
	Others  []plain.Socket `json:"others,omitempty"`
	Refused []Refused      `json:"refused,omitempty"`
	Waiting []uint64       `json:"waiting,omitempty"` // their listeners: their states are the last connections
	Alone   []uint64       `json:"alone,omitempty"`
	Async   []uint64       `json:"async,omitempty"`
	Window  uint32         `json:"window,omitempty"`
}

// Encode makes bytes of it, which do not depend on the machine: the length of a head in JSON,
// the head, and the connections as package tcprepair writes them.
func (s *Saved) Encode() ([]byte, error) {
	out := head{Version: version, Sockets: s.Sockets, Others: s.Others, Refused: s.Refused, Alone: s.Alone, Async: s.Async, Window: s.Window}
	all := slices.Clip(s.Connections)
	for _, w := range s.Waiting {
		out.Waiting = append(out.Waiting, w.Listener)
		all = append(all, tcprepair.Connection{Ends: []tcprepair.State{w.State}})
	}
	h, err := json.Marshal(out)
	if err == nil && len(h) > maxHead {
		err = fmt.Errorf("more than %d MiB wait in its sockets", maxHead>>20)
	}
	if err != nil {
		return nil, fmt.Errorf("encode handover: %w", err)
	}
	b := binary.LittleEndian.AppendUint32([]byte(magic), uint32(len(h)))
	return slices.Concat(b, h, tcprepair.Encode(tcprepair.Saved{Connections: all})), nil
}

// Decode is the inverse of Encode. The queues of connections are parts of b. Returns an error
// wrapping [ErrMalformed].
func Decode(b []byte) (*Saved, error) {
	s, err := decode(b)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	return s, nil
}

func decode(b []byte) (*Saved, error) {
	if len(b) < len(magic)+4 || string(b[:len(magic)]) != magic {
		return nil, errors.New("no such data")
	}
	n, b := binary.LittleEndian.Uint32(b[len(magic):]), b[len(magic)+4:]
	if n > maxHead || int64(n) > int64(len(b)) {
		return nil, fmt.Errorf("a head of %d bytes", n)
	}
	var h head
	if err := json.Unmarshal(b[:n], &h); err != nil {
		return nil, err
	}
	if h.Version != version {
		return nil, fmt.Errorf("version %d, this snapctl reads %d", h.Version, version)
	}
	c, err := tcprepair.Decode(b[n:])
	if err != nil {
		return nil, err
	}
	s := &Saved{Sockets: h.Sockets, Connections: c.Connections, Others: h.Others, Refused: h.Refused, Alone: h.Alone, Async: h.Async, Window: h.Window}
	at := len(c.Connections) - len(h.Waiting)
	if at < 0 {
		return nil, fmt.Errorf("%d connections, of which %d wait", len(c.Connections), len(h.Waiting))
	}
	for i, one := range c.Connections[at:] {
		if len(one.Ends) != 1 {
			return nil, errors.New("both ends of a connection that waits to be accepted")
		}
		s.Waiting = append(s.Waiting, Waiting{h.Waiting[i], one.Ends[0]})
	}
	s.Connections = c.Connections[:at]
	return s, s.check()
}

// check makes sure that each socket is described, and made, once.
func (s *Saved) check() error {
	if len(s.Sockets) > maxSockets {
		return fmt.Errorf("%d sockets", len(s.Sockets))
	}
	const described, made = 1, 2
	seen := make(map[uint64]int, len(s.Sockets))
	for i := range s.Sockets {
		k := &s.Sockets[i]
		if seen[k.Inode] != 0 || k.Inode == 0 || k.Saved != 0 || len(k.Owners) == 0 {
			return fmt.Errorf("socket %d is described badly", k.Inode)
		}
		seen[k.Inode] = described
	}
	make1 := func(inode uint64) error {
		if seen[inode] != described {
			return fmt.Errorf("socket %d is made twice, or not described", inode)
		}
		seen[inode] = made
		return nil
	}
	for _, c := range s.Connections {
		for i := range c.Ends {
			if err := make1(c.Ends[i].Inode); err != nil {
				return err
			}
		}
	}
	for i := range s.Others {
		o := &s.Others[i]
		if err := errors.Join(make1(o.Inode), o.Check()); err != nil {
			return fmt.Errorf("socket %d: %w", o.Inode, err)
		}
	}
	for _, w := range s.Waiting {
		if !slices.ContainsFunc(s.Others, func(o plain.Socket) bool { return o.Inode == w.Listener && o.Listening }) {
			return fmt.Errorf("a connection waits at %d, which is no listener", w.Listener)
		}
	}
	for inode, n := range seen {
		if n != made {
			return fmt.Errorf("socket %d is not made", inode)
		}
	}
	return nil
}
