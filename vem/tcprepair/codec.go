package tcprepair

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"
)

// Saved is what a snapshot keeps of an app's connections.
type Saved struct {
	Connections []Connection
	// Refused are those that could not be saved, and why.
	Refused []Refused
}

// Refused is one end of a connection that is not saved.
type Refused struct {
	Inode  uint64
	Reason string
}

// Sizes that bound what is encoded.
const (
	// MaxSaved bounds the bytes of all connections of one app.
	MaxSaved = 512 << 20

	maxItems  = 1 << 20
	maxText   = 1 << 10
	maxOption = 64

	maxOptions = 128 // of one end
)

// ErrMalformed is data that Encode has not made.
var ErrMalformed = errors.New("malformed TCP states")

// magic begins the data, with the version of the format.
const (
	magic   = "snapctl tcp\n"
	version = 1
)

// Size is about how many bytes the connection takes when encoded.
func (c Connection) Size() int {
	n := 0
	for i := range c.Ends {
		n += 1<<10 + len(c.Ends[i].Sent) + len(c.Ends[i].Received)
	}
	return n
}

// Encode makes bytes of states. The format does not depend on the machine.
func Encode(s Saved) []byte {
	size := 0
	for _, c := range s.Connections {
		size += c.Size()
	}
	w := &writer{b: append(make([]byte, 0, size+len(magic)+4), magic...)}
	v := uint32(version)
	w.u32(&v)
	visitSaved(w, &s)
	return w.b
}

// Decode is the inverse of Encode. The queues are parts of b. Returns an error wrapping
// [ErrMalformed].
func Decode(b []byte) (Saved, error) {
	var s Saved
	if len(b) < len(magic) || string(b[:len(magic)]) != magic {
		return s, fmt.Errorf("%w: no such file", ErrMalformed)
	}
	r := &reader{b: b[len(magic):]}
	var v uint32
	if r.u32(&v); r.err == nil && v != version {
		return s, fmt.Errorf("%w: version %d, this snapctl reads %d", ErrMalformed, v, version)
	}
	visitSaved(r, &s)
	if r.err == nil && len(r.b) > 0 {
		r.bad("%d bytes too many", len(r.b))
	}
	if r.err != nil {
		return Saved{}, r.err
	}
	return s, nil
}

// codec reads or writes one value after the other.
type codec interface {
	u8(*uint8)
	u32(*uint32)
	u64(*uint64)
	number(*int) // of 32 bits
	flag(*bool)
	bytes(b *[]byte, most int)
	// count handles the length of a list.
	count(n, most int) int
	// valid checks a value that was read.
	valid(ok bool, what string)
}

func visitSaved(c codec, s *Saved) {
	s.Connections = list(c, s.Connections, maxItems, visitConnection)
	s.Refused = list(c, s.Refused, maxItems, func(c codec, r *Refused) {
		c.u64(&r.Inode)
		text(c, &r.Reason)
	})
}

func visitConnection(c codec, conn *Connection) {
	conn.Ends = list(c, conn.Ends, 2, visitState)
	c.valid(len(conn.Ends) > 0, "a connection without ends")
}

func visitState(c codec, s *State) {
	c.u64(&s.Inode)
	c.number(&s.Family)
	c.valid(s.Family == unix.AF_INET || s.Family == unix.AF_INET6, "address family")
	visitAddress(c, &s.Local)
	visitAddress(c, &s.Remote)
	c.valid(s.Family == unix.AF_INET6 || s.Local.Addr().Is4() && s.Remote.Addr().Is4(), "addresses")
	c.u32(&s.Scope)
	c.bytes(&s.Sent, MaxQueue)
	c.number(&s.Unsent)
	c.valid(s.Unsent >= 0 && s.Unsent <= len(s.Sent), "unsent bytes")
	c.u32(&s.SendEnd)
	c.flag(&s.Finish)
	c.bytes(&s.Received, MaxQueue)
	c.u32(&s.ReceiveEnd)
	c.flag(&s.Finished)
	c.flag(&s.Deaf)
	for _, p := range []*uint32{&s.Window.SendUpdate, &s.Window.Send, &s.Window.Max, &s.Window.Receive, &s.Window.Announced} {
		c.u32(p)
	}
	n := &s.Negotiated
	c.u32(&n.MSS)
	c.flag(&n.Scaling)
	c.flag(&n.SACK)
	c.flag(&n.Timestamps)
	c.u8(&n.SendScale)
	c.u8(&n.ReceiveScale)
	const maxScale = 14 // RFC 7323
	c.valid(n.SendScale <= maxScale && n.ReceiveScale <= maxScale, "window scale")
	c.u32(&n.Timestamp)
	visitOptions(c, &s.Options)
}

func visitOptions(c codec, o *Options) {
	o.List = list(c, o.List, maxOptions, func(c codec, o *Option) {
		c.number(&o.Level)
		c.number(&o.Name)
		c.bytes(&o.Value, maxOption)
		c.valid(known(*o), "socket option")
	})
	text(c, &o.Device)
	text(c, &o.Congestion)
	c.number(&o.SendBuffer)
	c.number(&o.ReceiveBuffer)
	c.number(&o.BufferLock)
	c.number(&o.ReuseAddress)
	c.flag(&o.NonBlock)
	c.u32(&o.UID)
	c.u32(&o.GID)
}

func visitAddress(c codec, a *netip.AddrPort) {
	var b []byte
	if a.IsValid() {
		b = a.Addr().AsSlice()
	}
	port := uint32(a.Port())
	c.bytes(&b, 16)
	c.u32(&port)
	addr, ok := netip.AddrFromSlice(b)
	c.valid(ok && port < 1<<16, "address")
	*a = netip.AddrPortFrom(addr, uint16(port))
}

func list[T any](c codec, have []T, most int, each func(codec, *T)) []T {
	n := c.count(len(have), most)
	if have == nil && n > 0 {
		have = make([]T, n)
	}
	for i := range have {
		each(c, &have[i])
	}
	return have
}

func text(c codec, s *string) {
	b := []byte(*s)
	if len(b) > maxText {
		b = b[:maxText]
	}
	c.bytes(&b, maxText)
	*s = string(b)
}

// writer appends.
type writer struct{ b []byte }

func (w *writer) u8(p *uint8)   { w.b = append(w.b, *p) }
func (w *writer) u32(p *uint32) { w.b = binary.LittleEndian.AppendUint32(w.b, *p) }
func (w *writer) u64(p *uint64) { w.b = binary.LittleEndian.AppendUint64(w.b, *p) }

func (w *writer) number(p *int) { w.b = binary.LittleEndian.AppendUint32(w.b, uint32(int32(*p))) }

func (w *writer) flag(p *bool) {
	v := byte(0)
	if *p {
		v = 1
	}
	w.b = append(w.b, v)
}

func (w *writer) bytes(p *[]byte, _ int) {
	w.b = binary.LittleEndian.AppendUint32(w.b, uint32(len(*p)))
	w.b = append(w.b, *p...)
}

func (w *writer) count(n, _ int) int {
	w.b = binary.LittleEndian.AppendUint32(w.b, uint32(n))
	return n
}

func (w *writer) valid(bool, string) {}

// reader takes from the front. After the first error it gives zeros.
type reader struct {
	b   []byte
	err error
}

func (r *reader) bad(format string, args ...any) {
	if r.err == nil {
		r.err = fmt.Errorf("%w: %s", ErrMalformed, fmt.Sprintf(format, args...))
		r.b = nil
	}
}

func (r *reader) take(n int) []byte {
	if n > len(r.b) {
		r.bad("it is cut off")
		return nil
	}
	part := r.b[:n:n]
	r.b = r.b[n:]
	return part
}

func (r *reader) u8(p *uint8) {
	if b := r.take(1); b != nil {
		*p = b[0]
	}
}

func (r *reader) u32(p *uint32) {
	if b := r.take(4); b != nil {
		*p = binary.LittleEndian.Uint32(b)
	}
}

func (r *reader) u64(p *uint64) {
	if b := r.take(8); b != nil {
		*p = binary.LittleEndian.Uint64(b)
	}
}

func (r *reader) number(p *int) {
	if b := r.take(4); b != nil {
		*p = int(int32(binary.LittleEndian.Uint32(b)))
	}
}

func (r *reader) flag(p *bool) {
	b := r.take(1)
	r.valid(b == nil || b[0] <= 1, "flag")
	*p = b != nil && b[0] == 1
}

func (r *reader) bytes(p *[]byte, most int) {
	var n uint32
	r.u32(&n)
	if int64(n) > int64(most) {
		r.bad("%d bytes where at most %d are", n, most)
		return
	}
	if n > 0 {
		*p = slices.Clip(r.take(int(n)))
	}
}

func (r *reader) count(_, most int) int {
	var n uint32
	r.u32(&n)
	// Every item takes a byte at least.
	if int64(n) > int64(most) || int64(n) > int64(len(r.b)) {
		r.bad("%d items", n)
		return 0
	}
	return int(n)
}

func (r *reader) valid(ok bool, what string) {
	if !ok {
		r.bad("%s is not what it can be", what)
	}
}
