package event

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/go-quicktest/qt"
)

// next returns the next n events of a subscription, in short.
func next(t *testing.T, s *Subscription, n int) []string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	var got []string
	for range n {
		e, ok := s.Next(ctx)
		qt.Assert(t, qt.IsTrue(ok), qt.Commentf("after %v", got))
		got = append(got, short(e))
	}
	return got
}

func short(e Event) string {
	switch e.Type { //nolint:exhaustive // the others are told alike
	case Step:
		return fmt.Sprintf("%d %s %s %s", e.Number, e.Kind, e.App, e.Step)
	case Missed:
		return fmt.Sprintf("missed %d", e.Missed)
	case Begun, Ended:
		return fmt.Sprintf("%d %s %s %s", e.Number, e.Kind, e.App, e.Type)
	default:
		return fmt.Sprintf("%d %s %s", e.Number, e.App, e.Type)
	}
}

func TestOperation(t *testing.T) {
	b := NewBus(nil)
	s := b.Subscribe(Options{})
	defer s.Close()

	op := b.Begin(Hibernate, About{App: "cache", Reason: "idle"})
	op.Step("freeze")
	op.Step("save memory")
	op.Step("freeze") // once more
	op.Froze(7 * time.Millisecond)
	op.EndStep()
	failure := errors.New("no room")
	ended := op.End(failure)

	qt.Assert(t, qt.DeepEquals(next(t, s, 5), []string{
		"1 hibernate cache begun", "2 hibernate cache freeze", "3 hibernate cache save memory", "4 hibernate cache freeze", "5 hibernate cache ended",
	}))
	qt.Check(t, qt.Equals(op.ID(), ID(1)))
	qt.Check(t, qt.Equals(ended.Operation, op.ID()))
	qt.Check(t, qt.Equals(ended.Reason, "idle"))
	qt.Check(t, qt.Equals(ended.Frozen, 7*time.Millisecond))
	qt.Check(t, qt.ErrorIs(ended.Err, failure))
	qt.Check(t, qt.HasLen(ended.Steps, 2))
	sum := ended.Steps["freeze"] + ended.Steps["save memory"]
	qt.Check(t, qt.IsTrue(sum > 0 && sum <= ended.Took), qt.Commentf("steps took %v of %v", ended.Steps, ended.Took))
}

// What an operation does after a step has ended, and before the next, is no step's.
func TestEndStep(t *testing.T) {
	b := NewBus(nil)
	op := b.Begin(Run, About{App: "cache"})
	op.Step("one")
	op.EndStep()
	before := op.took["one"]
	op.EndStep()
	qt.Check(t, qt.Equals(op.End(nil).Steps["one"], before))
}

func TestSavedIsInTheEnd(t *testing.T) {
	b := NewBus(nil)
	op := b.Begin(Snapshot, About{App: "cache"})
	op.Saved("cache-1")
	qt.Check(t, qt.Equals(op.End(nil).Snapshot, "cache-1"))
}

func TestFilter(t *testing.T) {
	begin := time.Date(2026, 1, 2, 15, 4, 5, 0, time.UTC)
	e := Event{Type: Step, Kind: Clone, Operation: 8, At: begin, About: About{App: "web-1", Within: 7}}
	for name, tt := range map[string]struct {
		filter Filter
		want   bool
	}{
		"all":              {Filter{}, true},
		"type":             {Filter{Types: []Type{Begun, Step}}, true},
		"other type":       {Filter{Types: []Type{Begun}}, false},
		"kind":             {Filter{Kinds: []Kind{Clone}}, true},
		"other kind":       {Filter{Kinds: []Kind{HandOut}}, false},
		"app":              {Filter{Apps: []string{"web-2", "web-1"}}, true},
		"other app":        {Filter{Apps: []string{"web"}}, false},
		"operation":        {Filter{Operation: 8}, true},
		"part":             {Filter{Operation: 7}, true},
		"other operation":  {Filter{Operation: 9}, false},
		"since":            {Filter{Since: begin}, true},
		"since later":      {Filter{Since: begin.Add(1)}, false},
		"one of two is it": {Filter{Types: []Type{Step}, Apps: []string{"web-2"}}, false},
	} {
		t.Run(name, func(t *testing.T) {
			qt.Check(t, qt.Equals(tt.filter.Chooses(&e), tt.want))
		})
	}
}

// Who comes late gets the recent events and then the new ones, each once and in order.
func TestRecentAndThenNew(t *testing.T) {
	b := NewBus(nil)
	b.Emit(Exited, About{App: "a"})
	op := b.Begin(Wake, About{App: "b"})
	op.Step("restore processes") // is not kept
	b.Emit(Removed, About{App: "a"})
	s := b.Subscribe(Options{Recent: true})
	defer s.Close()
	b.Emit(Woken, About{App: "b"})
	qt.Assert(t, qt.DeepEquals(next(t, s, 4), []string{"1 a exited", "2 wake b begun", "4 a removed", "5 b woken"}))
}

func TestOnlyTheMostRecentAreKept(t *testing.T) {
	b := NewBus(nil)
	for range Kept + 3 {
		b.Emit(Removed, About{App: "a"})
	}
	all := b.Recent(Filter{})
	qt.Assert(t, qt.HasLen(all, Kept))
	for i, e := range all {
		qt.Assert(t, qt.Equals(e.Number, uint64(4+i)))
	}
	qt.Check(t, qt.HasLen(b.Recent(Filter{Apps: []string{"b"}}), 0))
}

// A subscriber that does not listen holds nobody up, and is told what it has missed where
// the gap is.
func TestMissed(t *testing.T) {
	b := NewBus(nil)
	slow := b.Subscribe(Options{Queue: 2})
	defer slow.Close()
	for range 5 {
		b.Emit(Removed, About{App: "a"})
	}
	qt.Check(t, qt.DeepEquals(next(t, slow, 1), []string{"1 a removed"}))
	// It has taken what waited, so that there is room again.
	b.Emit(Removed, About{App: "b"})
	qt.Check(t, qt.DeepEquals(next(t, slow, 3), []string{"2 a removed", "missed 3", "6 b removed"}))
}

// A closed subscription still has what came before.
func TestClose(t *testing.T) {
	b := NewBus(nil)
	s := b.Subscribe(Options{})
	b.Emit(Removed, About{App: "a"})
	s.Close()
	s.Close()
	b.Emit(Removed, About{App: "b"})
	qt.Check(t, qt.DeepEquals(next(t, s, 1), []string{"1 a removed"}))
	_, ok := s.Next(t.Context())
	qt.Check(t, qt.IsFalse(ok))
	qt.Check(t, qt.HasLen(b.subscribers, 0))
}

func TestNextWaits(t *testing.T) {
	b := NewBus(nil)
	s := b.Subscribe(Options{})
	defer s.Close()
	ctx, cancel := context.WithCancel(t.Context())
	got := make(chan bool)
	go func() {
		for {
			_, ok := s.Next(ctx)
			got <- ok
			if !ok {
				return
			}
		}
	}()
	b.Emit(Removed, About{App: "a"})
	qt.Check(t, qt.IsTrue(<-got))
	cancel()
	qt.Check(t, qt.IsFalse(<-got))
}

// A listener has had everything when it has been stopped.
func TestListen(t *testing.T) {
	b := NewBus(nil)
	var got []string
	stop := b.Listen(t.Context(), Options{Filter: Filter{Types: []Type{Removed}}}, func(e Event) { got = append(got, short(e)) })
	b.Emit(Removed, About{App: "a"})
	b.Emit(Exited, About{App: "b"})
	b.Emit(Removed, About{App: "c"})
	stop()
	b.Emit(Removed, About{App: "d"})
	qt.Check(t, qt.DeepEquals(got, []string{"1 a removed", "3 c removed"}))
}

// counter counts events by type. Its mutex would be waited for for ever if the bus held
// its own while it calls.
type counter struct {
	bus *Bus
	mu  sync.Mutex
	n   map[Type]int
}

func (c *counter) Count(e *Event) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.n[e.Type]++
	c.bus.Recent(Filter{Apps: []string{"nobody"}})
}

// A counter sees every event, also those that slow subscribers miss, however many emit.
func TestCounterSeesAll(t *testing.T) {
	c := &counter{n: make(map[Type]int)}
	b := NewBus(c)
	c.bus = b
	slow := b.Subscribe(Options{Queue: 1})
	defer slow.Close()
	quick := b.Subscribe(Options{Queue: 10000})
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for range 100 {
				op := b.Begin(Clone, About{App: fmt.Sprint(i)})
				op.Step("start criu")
				op.End(nil)
			}
		})
	}
	wg.Wait()
	qt.Check(t, qt.DeepEquals(c.n, map[Type]int{Begun: 800, Step: 800, Ended: 800}))
	quick.Close()
	last := uint64(0)
	for {
		e, ok := quick.Next(t.Context())
		if !ok {
			break
		}
		qt.Assert(t, qt.Equals(e.Number, last+1))
		last = e.Number
	}
	qt.Check(t, qt.Equals(last, uint64(2400)))
}

// BenchmarkOperation is what an operation of ten steps pays for its events while somebody
// listens.
func BenchmarkOperation(b *testing.B) {
	bus := NewBus(nil)
	s := bus.Subscribe(Options{Filter: Filter{Types: []Type{Ended}}})
	defer s.Close()
	b.ReportAllocs()
	for b.Loop() {
		op := bus.Begin(Wake, About{App: "cache"})
		for _, step := range []string{"a", "b", "c", "d", "e", "f", "g", "h", "i", "j"} {
			op.Step(step)
		}
		op.End(nil)
	}
}
