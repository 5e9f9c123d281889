package slowpath

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/go-quicktest/qt"
)

// world is queues with a kernel and a resolver that write down what happens. It lives in a
// bubble of synctest, where time is not real.
type world struct {
	*queues
	t      *testing.T
	cancel context.CancelFunc
	wait   func()

	mu      sync.Mutex
	answers map[netip.Addr]func(ctx context.Context) (Way, error)
	events  []string
}

func newWorld(t *testing.T, limits Limits) *world {
	t.Helper()
	w := &world{t: t, answers: map[netip.Addr]func(context.Context) (Way, error){}}
	ctx, cancel := context.WithCancel(t.Context())
	w.cancel = cancel
	o := Options{Network: "default", Limits: limits.withDefaults(), Resolver: w, Log: slog.New(slog.DiscardHandler)}
	w.queues, w.wait = newQueues(ctx, o, w.write1, func(raw []byte) { w.note("refuse " + label(raw)) })
	return w
}

// end ends the goroutines of the queues.
func (w *world) end(how ending) {
	w.close(how)
	w.cancel()
	w.wait()
}

func (w *world) note(event string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.events = append(w.events, event)
}

// happened returns what was noted since it was called last, once nothing happens any more.
func (w *world) happened() []string {
	synctest.Wait()
	w.mu.Lock()
	defer w.mu.Unlock()
	list := w.events
	w.events = nil
	return list
}

func (w *world) write1(raw []byte) error {
	if label(raw) == "broken" {
		return errors.New("the kernel refuses")
	}
	w.note("write " + label(raw))
	return nil
}

// answer sets what the resolver says of a destination.
func (w *world) answer(to string, fn func(ctx context.Context) (Way, error)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.answers[addr(to)] = fn
}

func (w *world) Resolve(ctx context.Context, q Query) (Way, error) {
	w.note(fmt.Sprintf("resolve %s for %s", q.Destination, q.Source))
	w.mu.Lock()
	fn := w.answers[q.Destination]
	w.mu.Unlock()
	if fn == nil {
		return nil, ErrNobody
	}
	return fn(ctx)
}

// send lets a packet arrive, whose label is from the source address on.
func (w *world) send(from, to, label string) {
	w.t.Helper()
	raw := build(addr(from), addr(to), 17, append(binary.BigEndian.AppendUint64(nil, 1), label...))
	p, ok := parse(raw)
	qt.Assert(w.t, qt.IsTrue(ok))
	w.arrive(p, raw)
	clear(raw) // as the reader's buffer is used again
}

func label(raw []byte) string {
	p, _ := parse(raw)
	return string(p.ip[p.at+8:])
}

// road is a way that notes what is done with it. A nil step succeeds at once.
type road struct {
	w             *world
	prepare, open func(ctx context.Context) error
}

func (r road) Prepare(ctx context.Context) error { return r.step(ctx, "prepare", r.prepare) }
func (r road) Open(ctx context.Context) error    { return r.step(ctx, "open", r.open) }

func (r road) step(ctx context.Context, name string, fn func(context.Context) error) error {
	r.w.note(name)
	if fn == nil {
		return nil
	}
	return fn(ctx)
}

// until returns a step that waits for a channel.
func until(ch <-chan struct{}) func(ctx context.Context) error {
	return func(ctx context.Context) error {
		select {
		case <-ch:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
