package peer

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"time"
)

// socketBuffer is asked for where many flows share a socket; the kernel gives
// what net.core.rmem_max allows.
const socketBuffer = 1 << 20

// echoer sends datagrams back to where they came from, and checks them.
type echoer struct {
	conn   net.PacketConn
	role   role
	faults *faults
	stop   <-chan struct{}
	want   int // flows that a driver waits for

	enough chan struct{} // closed when all wanted flows are there
	quit   chan struct{} // closed when there is no more time
	giveUp func()        // closes quit, once

	mu    sync.Mutex
	flows map[uint64]*echoed
}

// echoed is a flow as its echoer sees it.
type echoed struct {
	seq     sequence
	account *datagram // nil until it is handed in
}

func newEchoer(conn net.PacketConn, mine role, all *faults, stop <-chan struct{}) *echoer {
	if big, ok := conn.(interface{ SetReadBuffer(bytes int) error }); ok {
		_ = big.SetReadBuffer(socketBuffer) // less will do
	}
	e := &echoer{
		conn: conn, role: mine, faults: all, stop: stop,
		enough: make(chan struct{}), quit: make(chan struct{}), flows: make(map[uint64]*echoed),
	}
	e.giveUp = sync.OnceFunc(func() { close(e.quit) })
	return e
}

// wait waits until all wanted flows are there.
func (e *echoer) wait(ctx context.Context) error {
	if e.want == 0 {
		return nil
	}
	select {
	case <-e.enough:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("wait for %d flows of peer: %w", e.want, ctx.Err())
	}
}

// run echoes. A driver ends when it shall stop and all flows have handed in
// their accounts; a responder goes on until ctx ends.
func (e *echoer) run(ctx context.Context) {
	defer e.conn.Close() //nolint:errcheck // it is done with
	var wg sync.WaitGroup
	defer wg.Wait()
	ended := make(chan struct{})
	defer close(ended)
	for _, event := range []<-chan struct{}{ctx.Done(), e.quit, e.stop} {
		wg.Go(func() {
			select {
			case <-event:
				_ = e.conn.SetReadDeadline(time.Unix(1, 0)) // ends ReadFrom
			case <-ended:
			}
		})
	}
	buf := make([]byte, headSize+maxBody+1)
	for !e.complete() {
		n, from, err := e.conn.ReadFrom(buf)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			// Cleared before a look at what happened: a later event sets it again.
			err = e.conn.SetReadDeadline(time.Time{})
			if err == nil && ctx.Err() == nil && !isClosed(e.quit) {
				continue
			}
		}
		if err != nil || ctx.Err() != nil || isClosed(e.quit) {
			if ctx.Err() == nil {
				e.broken(err)
			}
			return
		}
		d, got, ok := parseDatagram(buf[:n])
		if !ok {
			continue // somebody else's
		}
		if reply, ok := e.take(d, got); ok {
			// One that can't be sent is lost, which its sender notices.
			_, _ = e.conn.WriteTo(append(reply.head(), got...), from)
		}
	}
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// complete tells whether a driver has all it wants.
func (e *echoer) complete() bool {
	if !isClosed(e.stop) {
		return false
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, f := range e.flows {
		if f.account == nil {
			return false
		}
	}
	return true
}

// take accounts for a datagram and returns the one to send back.
func (e *echoer) take(d datagram, got []byte) (datagram, bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	f := e.flows[d.key]
	if f == nil {
		f = &echoed{}
		e.flows[d.key] = f
		if len(e.flows) == e.want {
			close(e.enough)
		}
	}
	reply := datagram{role: e.role, key: d.key, seq: d.seq}
	switch d.kind {
	case data:
		f.seq.add(d.seq)
		if string(got) != string(body(codeOf(d.key, Up), d.seq)) {
			e.fault(d.key, f, Corrupt, fmt.Sprintf("datagram %d came with another body", d.seq))
		}
		reply.kind = echo
		reply.ends = e.role == driver && isClosed(e.stop)
	case final:
		if f.account == nil {
			f.account = &d
			if d.fault != 0 {
				detail := fmt.Sprintf("the sender tells: of %d datagrams %d lost, %d answered again", d.sent, d.lost, d.duplicated)
				e.fault(d.key, f, d.fault, detail)
			}
		}
		reply.kind = bye
	default:
		return datagram{}, false
	}
	return reply, true
}

// broken records that the socket failed, or, without an error, that flows did
// not end in time.
func (e *echoer) broken(err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	kind, detail := Timeout, "the flow did not end"
	if err != nil {
		kind, detail = Reset, err.Error()
	}
	for key, f := range e.flows {
		if f.account == nil {
			e.fault(key, f, kind, detail)
		}
	}
}

// fault records a fault of a flow. e.mu is held.
func (e *echoer) fault(key uint64, f *echoed, kind Kind, detail string) {
	e.faults.add(&Fault{Kind: kind, Proto: "udp", Conn: key, Direction: Up, Offset: f.seq.next * maxBody, Detail: detail})
}

func (e *echoer) addTo(st *Stats) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for key, f := range e.flows {
		st.Flows++
		came := f.seq.next - f.seq.lost(f.seq.next)
		if f.account == nil {
			st.Datagrams += int64(f.seq.next)
			st.Answered += int64(came)
			continue
		}
		st.Datagrams += int64(f.account.sent)
		st.Answered += int64(f.account.answered)
		st.Lost += int64(f.account.lost)
		st.Duplicated += int64(f.account.duplicated)
		st.Reordered += int64(f.account.reordered)
		if longest := time.Duration(f.account.maxAnswer); longest > st.MaxAnswer {
			st.MaxAnswer, st.MaxAnswerOf = longest, key
		}
	}
}
