package peer

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// tailSize is how much a responder sends after the driver closed its half, to
// show that the other half works.
const tailSize = 4 << 10

// halfCloser is a connection that can be closed in one direction.
type halfCloser interface {
	net.Conn
	CloseWrite() error
}

// session is one connection, seen from one of its sides.
type session struct {
	conn    halfCloser
	key     uint64
	role    role
	pattern Pattern
	outward Direction // of what this side sends
	faults  *faults
	stop    <-chan struct{} // closed when the driver wants it to end
	valve   *Valve          // pauses what this side sends
	heard   chan struct{}   // closed when all has been received

	sent, received atomic.Int64
	stall          stall
	peerStall      time.Duration // set before run returns
	finding        *Fault        // of the receiver; set before heard is closed
}

// report is what a responder tells at the end.
type report struct {
	Received int64         `json:"received_bytes"`
	MaxStall time.Duration `json:"max_stall_ns"`
	Fault    *Fault        `json:"fault,omitempty"`
}

// newSession describes one side of the connection that h opened.
func newSession(conn net.Conn, h hello, mine role, outward Direction, f *faults, stop <-chan struct{}) (*session, error) {
	half, ok := conn.(halfCloser)
	if !ok {
		return nil, fmt.Errorf("use connection: a %T can't be half closed", conn)
	}
	s := &session{
		conn: half, key: h.key, role: mine, pattern: h.pattern, outward: outward,
		faults: f, stop: stop, heard: make(chan struct{}),
	}
	s.stall.begin()
	return s, nil
}

func (s *session) inward() Direction { return Up + Down - s.outward }

// run sends and receives until both sides have ended, or something broke, or
// ctx ended, which closes the connection at once.
func (s *session) run(ctx context.Context) {
	defer s.conn.Close() //nolint:errcheck // all was said by then
	defer s.valve.watch(&s.stall)()
	stop := context.AfterFunc(ctx, func() { _ = s.conn.Close() })
	defer stop()
	var wg sync.WaitGroup
	wg.Go(func() {
		defer close(s.heard)
		s.finding = s.receive(ctx)
	})
	err := s.send()
	wg.Wait()
	s.stall.end()
	// Word of a reset is given once: if it is to who sends, who receives sees an end
	// (sk_err, net/core/sock.c, sock_error).
	reset := errors.Is(err, unix.ECONNRESET) && s.finding != nil && s.finding.Kind == Truncated
	if err != nil && ctx.Err() == nil && (s.finding == nil || reset) {
		s.finding = s.broken(s.outward, s.sent.Load(), err)
	}
	s.faults.add(s.finding)
}

// send sends until it is time to end, and then the end.
func (s *session) send() error {
	c := codeOf(s.key, s.outward)
	// Not secret, and the same each time for the same key.
	random := rand.New(rand.NewPCG(s.key, uint64(s.outward)))
	buf := make([]byte, s.pattern.MaxChunk+wordSize)
	pause := time.NewTimer(0)
	defer pause.Stop()
	var pos uint64
	put := func(n int) error {
		c.fill(buf[:n], pos)
		pos += uint64(n)
		n, err := s.conn.Write(buf[:n])
		s.sent.Add(int64(n))
		return err
	}
	for run := true; run; {
		if s.pattern.MaxPause > 0 {
			pause.Reset(time.Duration(random.Int64N(int64(s.pattern.MaxPause))))
		} else {
			pause.Reset(0)
		}
		select {
		case <-s.stop:
			run = false
		case <-s.heard:
			run = false
		case <-pause.C:
			if !isClosed(s.valve.opened()) {
				run = s.paused()
				continue
			}
			if err := put(1 + random.IntN(s.pattern.MaxChunk)); err != nil {
				return err
			}
		}
	}
	if s.role == responder {
		<-s.heard // the driver's half is closed now
		for left := tailSize; left > 0; left -= s.pattern.MaxChunk {
			if err := put(min(left, s.pattern.MaxChunk)); err != nil {
				return err
			}
		}
	}
	if rest := pos % wordSize; rest != 0 { // to the end of the word
		if err := put(int(wordSize - rest)); err != nil {
			return err
		}
	}
	end := binary.LittleEndian.AppendUint64(nil, c.end())
	end = binary.LittleEndian.AppendUint64(end, pos/wordSize)
	if s.role == responder {
		b, err := json.Marshal(report{Received: s.received.Load(), MaxStall: s.stall.max(), Fault: s.finding})
		if err != nil {
			return err
		}
		end = append(end, b...)
	}
	if _, err := s.conn.Write(end); err != nil {
		return err
	}
	return s.conn.CloseWrite()
}

// paused waits until the valve opens, and returns false if it is time to end.
func (s *session) paused() bool {
	select {
	case <-s.valve.opened():
		return true
	case <-s.stop:
		return false
	case <-s.heard:
		return false
	}
}

// receive checks what comes until the other side closes its half. It returns
// the first fault, which may be one that the other side found.
func (s *session) receive(ctx context.Context) *Fault {
	v := newVerifier(s.key, s.inward())
	buf := make([]byte, max(4<<10, min(64<<10, 2*s.pattern.MaxChunk)))
	for {
		n, err := s.conn.Read(buf)
		if n > 0 {
			s.stall.news()
			s.received.Add(int64(n))
			v.write(buf[:n])
		}
		switch {
		case err == nil:
			continue
		case ctx.Err() != nil:
			return nil //nolint:nilerr // our own side closed the connection
		case !errors.Is(err, io.EOF):
			if v.fault == nil {
				return s.broken(s.inward(), s.received.Load(), err)
			}
		}
		break
	}
	v.close()
	if v.fault != nil {
		v.fault.Conn, v.fault.Direction = s.key, s.inward()
		return v.fault
	}
	if s.role == responder {
		return nil
	}
	var r report
	if err := json.Unmarshal(v.trailer, &r); err != nil {
		return &Fault{
			Kind: Truncated, Proto: "tcp", Conn: s.key, Direction: s.inward(),
			Offset: v.checked, Detail: fmt.Sprintf("read report: %v", err),
		}
	}
	s.peerStall = r.MaxStall
	return r.Fault
}

// broken is the fault for an error of the connection.
func (s *session) broken(d Direction, offset int64, err error) *Fault {
	f := &Fault{Kind: Reset, Proto: "tcp", Conn: s.key, Direction: d, Offset: uint64(offset), Detail: err.Error()}
	if errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, unix.ETIMEDOUT) {
		f.Kind = Timeout
	}
	return f
}
