// Package once remembers the answers of calls, so that a call that is repeated because its
// answer was lost is done once, and gets the same answer.
package once

import (
	"container/list"
	"context"
	"crypto/sha256"
	"errors"
	"sync"
	"time"
)

// ErrOther is that the name of a call was used before, for a call that asked for something else.
var ErrOther = errors.New("the name of this call was used for another call")

// Name names a call: who calls, and what the caller names it.
type Name struct {
	Peer string
	ID   [16]byte
}

// Limits bound a [Memory].
type Limits struct {
	Answers int           // that are remembered for each peer
	Bytes   int           // of these answers together
	For     time.Duration // how long an answer is remembered
}

// Memory remembers answers: those of calls that failed are not, since a call that fails has done
// nothing. Its methods may be called at the same time.
type Memory[A any] struct {
	limits Limits
	size   func(A) int

	mu    sync.Mutex
	peers map[string]*memory[A]
}

// memory is what is remembered for one peer.
type memory[A any] struct {
	calls map[[16]byte]*call[A]
	done  *list.List // of *call, the oldest first
	bytes int
}

// call is one that is under way, or that was done.
type call[A any] struct {
	id      [16]byte
	request [sha256.Size]byte
	over    chan struct{} // closed when it is not under way any more
	answer  A             // if it was done
	ended   time.Time     // zero: it is under way, or failed
	bytes   int
}

// New returns an empty memory. size tells how many bytes an answer has.
func New[A any](limits Limits, size func(A) int) *Memory[A] {
	return &Memory[A]{limits: limits, size: size, peers: make(map[string]*memory[A])}
}

// Do returns the answer that a call got when it was done before; otherwise it does it by run. If
// the same call is under way, it waits for that; and if that fails, it does it again. request is
// a digest of what the caller asks for: Do returns [ErrOther] if it is not what was asked for by
// this name before.
func (m *Memory[A]) Do(ctx context.Context, name Name, request [sha256.Size]byte, run func(context.Context) (A, error)) (A, error) {
	var none A
	for {
		c, mine := m.claim(name, request, time.Now())
		switch {
		case c.request != request:
			return none, ErrOther
		case mine:
			answer, err := run(ctx)
			m.finish(name.Peer, c, answer, err)
			return answer, err
		}
		select {
		case <-c.over:
		case <-ctx.Done():
			return none, context.Cause(ctx)
		}
		if !c.ended.IsZero() {
			return c.answer, nil
		}
	}
}

// claim returns the call of a name, and whether it is the caller's to do.
func (m *Memory[A]) claim(name Name, request [sha256.Size]byte, now time.Time) (c *call[A], mine bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	p := m.peers[name.Peer]
	if p == nil {
		p = &memory[A]{calls: make(map[[16]byte]*call[A]), done: list.New()}
		m.peers[name.Peer] = p
	}
	m.trim(p, now)
	if c = p.calls[name.ID]; c != nil {
		return c, false
	}
	c = &call[A]{id: name.ID, request: request, over: make(chan struct{})}
	p.calls[name.ID] = c
	return c, true
}

// finish says how a call ended.
func (m *Memory[A]) finish(peer string, c *call[A], answer A, err error) {
	bytes := 0
	if err == nil {
		bytes = m.size(answer)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	defer close(c.over)
	p := m.peers[peer]
	if p == nil || p.calls[c.id] != c {
		// The peer was forgotten meanwhile. Who waits for this call is told, all the same.
		p = &memory[A]{calls: make(map[[16]byte]*call[A]), done: list.New()}
	}
	if err != nil {
		delete(p.calls, c.id)
		return
	}
	c.answer, c.ended, c.bytes = answer, time.Now(), bytes
	p.done.PushBack(c)
	p.bytes += bytes
	m.trim(p, c.ended)
}

// trim forgets the oldest answers, as many as the limits ask for. m.mu is held.
func (m *Memory[A]) trim(p *memory[A], now time.Time) {
	for p.done.Len() > 0 {
		first := p.done.Front()
		c := first.Value.(*call[A]) //nolint:errcheck,forcetypeassert // nothing else is in it
		if p.done.Len() <= m.limits.Answers && p.bytes <= m.limits.Bytes && now.Sub(c.ended) < m.limits.For {
			return
		}
		p.done.Remove(first)
		p.bytes -= c.bytes
		delete(p.calls, c.id)
	}
}

// Forget drops what is remembered for a peer.
func (m *Memory[A]) Forget(peer string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.peers, peer)
}
