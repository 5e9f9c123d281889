package peer

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// graceTime is how long the last answers are waited for.
const graceTime = 2 * time.Second

// kind of a datagram.
const (
	data  byte = iota + 1 // to be echoed
	echo                  // the same, sent back
	final                 // the sender's account, at the end
	bye                   // the account was understood
)

// datagram is the head of each one; a data datagram goes on with its part of
// the flow's numbered bytes.
type datagram struct {
	kind byte
	role role // of the sender
	ends bool // in an echo: the driver wants the flow to end
	key  uint64
	seq  uint64
	// The account, in a final one.
	fault                                                  Kind
	sent, answered, lost, duplicated, reordered, maxAnswer uint64
}

const (
	datagramMagic = 0x31504455 // "UDP1"
	headSize      = 72
	maxBody       = 512
)

// head encodes the head.
func (d datagram) head() []byte {
	b := binary.LittleEndian.AppendUint32(make([]byte, 0, headSize+maxBody), datagramMagic)
	ends := byte(0)
	if d.ends {
		ends = 1
	}
	b = append(b, d.kind, ends, byte(d.role), byte(d.fault))
	for _, v := range []uint64{d.key, d.seq, d.sent, d.answered, d.lost, d.duplicated, d.reordered, d.maxAnswer} {
		b = binary.LittleEndian.AppendUint64(b, v)
	}
	return b
}

// parseDatagram returns the head and the body.
func parseDatagram(b []byte) (datagram, []byte, bool) {
	if len(b) < headSize || len(b) > headSize+maxBody || binary.LittleEndian.Uint32(b) != datagramMagic {
		return datagram{}, nil, false
	}
	d := datagram{kind: b[4], ends: b[5] != 0, role: role(b[6]), fault: Kind(b[7])}
	for i, v := range []*uint64{&d.key, &d.seq, &d.sent, &d.answered, &d.lost, &d.duplicated, &d.reordered, &d.maxAnswer} {
		*v = binary.LittleEndian.Uint64(b[8+8*i:])
	}
	return d, b[headSize:], true
}

// body is what datagram seq of a flow has after its head. Its length, too, is
// told by its number.
func body(c code, seq uint64) []byte {
	b := make([]byte, mix(uint64(c)^seq)%maxBody)
	c.fill(b, seq*maxBody)
	return b
}

// flow sends numbered datagrams and takes the echoes.
type flow struct {
	conn    net.Conn
	key     uint64
	role    role
	pattern Pattern
	faults  *faults
	stop    <-chan struct{}
	valve   *Valve

	signals

	mu sync.Mutex
	tally
}

// signals tell a flow what has happened.
type signals struct {
	ended chan struct{} // closed when the other side wants it to end
	byes  chan struct{} // one, when the account was understood
	wake  chan struct{} // one, when an echo came
	quit  chan struct{} // closed when there is no more time

	end    func() // closes ended, once
	giveUp func() // closes quit, once
}

// tally is what a flow has counted.
type tally struct {
	sent       uint64
	seq        sequence // of the echoes
	underWay   map[uint64]time.Time
	maxAnswer  time.Duration
	lost       uint64 // set at the end
	fault      *Fault
	isFinished bool
}

func newFlow(conn net.Conn, mine role, p Pattern, all *faults, stop <-chan struct{}) *flow {
	f := &flow{
		conn: conn, key: rand.Uint64(), role: mine, pattern: p, faults: all, stop: stop,
		signals: signals{ended: make(chan struct{}), byes: make(chan struct{}, 1), wake: make(chan struct{}, 1), quit: make(chan struct{})},
		tally:   tally{underWay: make(map[uint64]time.Time)},
	}
	f.end = sync.OnceFunc(func() { close(f.ended) })
	f.giveUp = sync.OnceFunc(func() { close(f.quit) })
	return f
}

// run sends until it is time to end, waits for the last echoes, and, as a
// responder, hands in its account.
func (f *flow) run(ctx context.Context) {
	var wg sync.WaitGroup
	wg.Go(func() { f.receive() })
	defer func() {
		_ = f.conn.Close() // ends receive
		wg.Wait()
		f.mu.Lock()
		defer f.mu.Unlock()
		f.faults.add(f.fault)
	}()
	if !f.send(ctx) {
		return
	}
	f.drain(ctx)
	f.account()
	if f.role == responder {
		f.handIn(ctx)
	}
}

// send sends datagrams while few enough are under way. It returns false if it
// was broken off.
func (f *flow) send(ctx context.Context) bool {
	random := rand.New(rand.NewPCG(f.key, 0))
	c := codeOf(f.key, Up)
	last, probe := time.Now(), graceTime
	pause := time.NewTimer(0)
	defer pause.Stop()
	for {
		pause.Reset(time.Duration(1 + random.Int64N(int64(max(f.pattern.MaxPause, 2*time.Millisecond)))))
		select {
		case <-ctx.Done():
			return false
		case <-f.stop:
			return true
		case <-f.ended:
			return true
		case <-pause.C:
		}
		if !isClosed(f.valve.opened()) {
			continue // and look again after the next pause
		}
		f.mu.Lock()
		n, full := f.sent, len(f.underWay) >= f.pattern.Window
		// What is lost fills the window for ever: now and then one more is
		// sent, ever more seldom, for a long hold not to fill the socket.
		if full && time.Since(last) < probe {
			f.mu.Unlock()
			continue
		}
		probe *= 2
		if !full {
			probe = graceTime
		}
		last = time.Now()
		f.sent++
		f.underWay[n] = last
		f.mu.Unlock()
		d := datagram{kind: data, role: f.role, key: f.key, seq: n}
		if _, err := f.conn.Write(append(d.head(), body(c, n)...)); err != nil {
			f.broken(err)
		}
	}
}

// drain waits until all is answered, or nothing more comes.
func (f *flow) drain(ctx context.Context) {
	grace := time.NewTimer(graceTime)
	defer grace.Stop()
	for {
		f.mu.Lock()
		left := len(f.underWay)
		f.mu.Unlock()
		if left == 0 {
			return
		}
		select {
		case <-f.wake:
			grace.Reset(graceTime)
		case <-grace.C:
			return
		case <-f.quit:
			return
		case <-ctx.Done():
			return
		}
	}
}

// account closes the books.
func (f *flow) account() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.isFinished = true
	f.lost = f.seq.lost(f.sent)
	switch {
	case f.lost > 0:
		f.fail(Loss, fmt.Sprintf("%d of %d datagrams were never answered", f.lost, f.sent))
	case f.seq.duplicated > 0:
		f.fail(Duplicate, fmt.Sprintf("%d datagrams were answered again", f.seq.duplicated))
	}
}

// handIn sends the account until it is understood.
func (f *flow) handIn(ctx context.Context) {
	f.mu.Lock()
	d := datagram{
		kind: final, role: f.role, key: f.key, sent: f.sent, answered: f.seq.next - f.seq.lost(f.seq.next),
		lost: f.lost, duplicated: f.seq.duplicated, reordered: f.seq.reordered, maxAnswer: uint64(f.maxAnswer),
	}
	if f.fault != nil {
		d.fault = f.fault.Kind
	}
	f.mu.Unlock()
	const attempts = 50
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for range attempts {
		_, _ = f.conn.Write(d.head()) // tried again
		select {
		case <-f.byes:
			return
		case <-f.quit:
			return
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// receive takes echoes until the socket is closed.
func (f *flow) receive() {
	c := codeOf(f.key, Up)
	buf := make([]byte, headSize+maxBody+1)
	for {
		n, err := f.conn.Read(buf)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			if !f.broken(err) {
				return
			}
			continue
		}
		d, got, ok := parseDatagram(buf[:n])
		switch {
		case !ok || d.key != f.key:
			f.mu.Lock()
			f.fail(Corrupt, fmt.Sprintf("a datagram of %d bytes is not of this flow", n))
			f.mu.Unlock()
		case d.kind == bye:
			signal(f.byes)
		case d.kind == echo:
			f.answered(d, string(got) == string(body(c, d.seq)))
			if d.ends {
				f.end()
			}
			signal(f.wake)
		}
	}
}

func (f *flow) answered(d datagram, intact bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if d.seq >= f.sent || !intact {
		f.fail(Corrupt, fmt.Sprintf("the answer to datagram %d is not what was sent", d.seq))
		return
	}
	f.seq.add(d.seq)
	if at, ok := f.underWay[d.seq]; ok {
		f.maxAnswer = max(f.maxAnswer, time.Since(at))
		delete(f.underWay, d.seq)
	}
	for n, at := range f.underWay {
		if n < d.seq && time.Since(at) > graceTime {
			delete(f.underWay, n) // lost, or so late that it makes no difference
		}
	}
}

// broken records an error of the socket and tells whether it can be used on.
func (f *flow) broken(err error) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.isFinished || errors.Is(err, net.ErrClosed) {
		return true // the other side may be gone already
	}
	f.fail(Reset, err.Error())
	return errors.Is(err, unix.ECONNREFUSED) || errors.Is(err, unix.EHOSTUNREACH) || errors.Is(err, os.ErrDeadlineExceeded)
}

// fail records the first fault. f.mu is held.
func (f *flow) fail(kind Kind, detail string) {
	if f.fault == nil {
		f.fault = &Fault{Kind: kind, Proto: "udp", Conn: f.key, Direction: Up, Offset: f.seq.next * maxBody, Detail: detail}
	}
}

func (f *flow) addTo(st *Stats) {
	f.mu.Lock()
	defer f.mu.Unlock()
	st.Flows++
	st.Datagrams += int64(f.sent)
	st.Answered += int64(f.seq.next - f.seq.lost(f.seq.next))
	st.Lost += int64(f.lost)
	st.Duplicated += int64(f.seq.duplicated)
	st.Reordered += int64(f.seq.reordered)
	longest := f.maxAnswer
	for _, at := range f.underWay {
		if !f.isFinished {
			longest = max(longest, time.Since(at))
		}
	}
	if longest > st.MaxAnswer {
		st.MaxAnswer, st.MaxAnswerOf = longest, f.key
	}
}

// signal leaves a note in a channel of one.
func signal(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
