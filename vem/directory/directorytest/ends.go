package directorytest

import (
	"context"
	"sync"
	"time"

	"github.com/go-quicktest/qt"

	"github.com/snapctl/snapctl/vem/directory"
)

var endTests = []test{
	{"cancelled", testCancelled, nil},
	{"deadline-passed", testDeadlinePassed, nil},
	{"close", testClose, nil},
	{"close-meanwhile", testCloseMeanwhile, nil},
}

// calls are all methods that do something, with a context.
func (h *harness) calls(s directory.Store) map[string]func(ctx context.Context) error {
	h.Helper()
	_, after := h.list("")
	return map[string]func(ctx context.Context) error{
		"get": func(ctx context.Context) error {
			_, err := s.Get(ctx, h.key("a"))
			return err
		},
		"list": func(ctx context.Context) error {
			_, _, err := s.List(ctx, h.key("a"))
			return err
		},
		"commit": func(ctx context.Context) error {
			_, err := s.Commit(ctx, directory.Txn{Puts: []directory.Put{{Key: h.key("a"), Value: []byte("1")}}})
			return err
		},
		"watch": func(ctx context.Context) error {
			for next := s.Watch(ctx, h.key("none"), after); ; {
				if _, err := next(); err != nil {
					return err
				}
			}
		},
		"keep": func(ctx context.Context) error { return s.KeepAlive(ctx, h.key("k"), nil, h.opt.TTL) },
	}
}

func testCancelled(h *harness) {
	ctx, cancel := context.WithCancel(h.ctx)
	cancel()
	for name, call := range h.calls(h.store) {
		qt.Check(h, qt.ErrorIs(call(ctx), context.Canceled), qt.Commentf("%s", name))
	}
	h.put("a", "2") // others go on
}

func testDeadlinePassed(h *harness) {
	ctx, cancel := context.WithDeadline(h.ctx, time.Now().Add(-time.Second))
	defer cancel()
	for name, call := range h.calls(h.store) {
		want := directory.ErrUnavailable
		if name == "watch" || name == "keep" {
			want = context.DeadlineExceeded
		}
		qt.Check(h, qt.ErrorIs(call(ctx), want), qt.Commentf("%s", name))
	}
}

func testClose(h *harness) {
	s := h.another()
	qt.Assert(h, qt.IsNil(s.Close()))
	for name, call := range h.calls(s) {
		qt.Check(h, qt.IsNotNil(call(h.ctx)), qt.Commentf("%s", name))
		qt.Check(h, qt.IsNil(h.ctx.Err()), qt.Commentf("%s hung", name))
	}
	qt.Check(h, qt.IsNil(s.Close()))
	h.put("a", "2")
}

// What waits ends when the store is closed.
func testCloseMeanwhile(h *harness) {
	s := h.another()
	h.put("before", "")
	var all sync.WaitGroup
	for _, name := range []string{"watch", "keep"} {
		call := h.calls(s)[name]
		all.Go(func() {
			if err := call(h.ctx); err == nil || h.ctx.Err() != nil {
				h.Errorf("%s ended with %v", name, err)
			}
		})
	}
	h.await("the entry appears", func() bool {
		_, rev := h.get("k")
		return rev > 0
	})
	qt.Check(h, qt.IsNil(s.Close()))
	all.Wait()
	h.await("the entry vanishes", func() bool {
		_, rev := h.get("k")
		return rev == 0
	})
}
