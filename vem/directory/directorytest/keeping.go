package directorytest

import (
	"context"
	"errors"
	"time"

	"github.com/go-quicktest/qt"

	"github.com/snapctl/snapctl/vem/directory"
)

var keepTests = []test{
	{"keep", testKeep, nil},
	{"keep-again", testKeepAgain, nil},
	{"keep-two", testKeepTwo, nil},
	{"keep-dropped", testKeepDropped, drop},
	{"keep-while-cut", testKeepWhileCut, cut},
}

// keep keeps an entry alive until stop is called, which waits until KeepAlive has returned.
func (h *harness) keep(s directory.Store, name, value string) (stop func()) {
	ctx, cancel := context.WithCancel(h.ctx)
	done := make(chan error, 1)
	go func() { done <- s.KeepAlive(ctx, h.key(name), []byte(value), h.opt.TTL) }()
	stopped := false
	stop = func() {
		h.Helper()
		if stopped {
			return
		}
		stopped = true
		select {
		case err := <-done:
			h.Errorf("KeepAlive returned while its context had not ended: %v", err)
			cancel()
			return
		default:
		}
		cancel()
		select {
		case err := <-done:
			qt.Check(h, qt.ErrorIs(err, context.Canceled))
		case <-time.After(h.opt.Wait):
			h.Errorf("KeepAlive goes on though its context has ended")
		}
	}
	h.Cleanup(stop)
	return stop
}

func (h *harness) there(name, value string) func() bool {
	return func() bool {
		got, rev := h.get(name)
		return rev > 0 && got == value
	}
}

func (h *harness) gone(name string) func() bool {
	return func() bool {
		_, rev := h.get(name)
		return rev == 0
	}
}

// An entry that is kept appears, is there after several times its ttl, and vanishes.
func testKeep(h *harness) {
	_, after := h.list("")
	w := h.watch(h.ctx, "", after)
	stop := h.keep(h.store, "a", "1")
	w.expect("a=1")
	// The time that passes is what is tried here.
	several, cancel := context.WithTimeout(h.ctx, 3*h.opt.TTL)
	defer cancel()
	<-several.Done()
	h.await("the entry is there", h.there("a", "1"))
	got, _ := h.list("")
	qt.Check(h, qt.DeepEquals(got, []string{"a=1"}))
	stop()
	h.await("the entry vanishes", h.gone("a"))
	for {
		told, _, err := w.read()
		qt.Assert(h, qt.IsNil(err))
		if told[0] == "-a" && h.gone("a")() {
			return
		}
	}
}

// An entry that somebody has deleted is put again.
func testKeepAgain(h *harness) {
	h.keep(h.store, "a", "1")
	h.await("the entry appears", h.there("a", "1"))
	for range 3 {
		_, before := h.get("a")
		h.remove("a")
		h.await("the entry is put again", func() bool {
			value, rev := h.get("a")
			return value == "1" && rev > before
		})
	}
}

// What one keeps has nothing to do with what another keeps.
func testKeepTwo(h *harness) {
	other := h.another()
	stop := h.keep(h.store, "a", "1")
	h.keep(h.store, "b", "2")
	h.keep(other, "c", "3")
	for name, value := range map[string]string{"a": "1", "b": "2", "c": "3"} {
		h.await("entry "+name+" appears", h.there(name, value))
	}
	stop()
	h.await("entry a vanishes", h.gone("a"))
	for name, value := range map[string]string{"b": "2", "c": "3"} {
		h.await("entry "+name+" is there", h.there(name, value))
	}
	// It can be kept again, by anybody.
	h.keep(other, "a", "4")
	h.await("entry a appears", h.there("a", "4"))
}

// Entries that the store has dropped are put again.
func testKeepDropped(h *harness) {
	h.keep(h.store, "a", "1")
	h.await("the entry appears", h.there("a", "1"))
	_, before := h.get("a")
	h.opt.Drop(h.T)
	h.await("the entry is put again", func() bool {
		value, rev := h.get("a")
		return value == "1" && rev > before
	})
}

// What is to be kept while the store can't be reached appears when it can.
func testKeepWhileCut(h *harness) {
	h.keep(h.store, "a", "1")
	h.await("the entry appears", h.there("a", "1"))
	heal := h.opt.Cut(h.T, h.store)
	defer heal()
	ctx, cancel := context.WithTimeout(h.ctx, 100*time.Millisecond)
	defer cancel()
	_, err := h.store.Get(ctx, h.key("a"))
	qt.Assert(h, qt.ErrorIs(err, directory.ErrUnavailable))
	stopped := h.keep(h.store, "gone", "3")
	h.keep(h.store, "b", "2")
	stopped() // returns although the store can't be reached
	heal()
	for name, value := range map[string]string{"a": "1", "b": "2"} {
		h.await("entry "+name+" is there", func() bool {
			ctx, cancel := context.WithTimeout(h.ctx, time.Second)
			defer cancel()
			e, err := h.store.Get(ctx, h.key(name))
			qt.Assert(h, qt.IsTrue(err == nil || errors.Is(err, directory.ErrUnavailable) || errors.Is(err, directory.ErrNotFound)), qt.Commentf("%v", err))
			return err == nil && string(e.Value) == value
		})
	}
	h.await("entry gone is not there", h.gone("gone"))
}
