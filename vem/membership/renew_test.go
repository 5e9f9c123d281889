package membership

import (
	"context"
	"errors"
	"log/slog"
	"runtime"
	"testing"
	"time"

	"github.com/go-quicktest/qt"

	"github.com/snapctl/snapctl/vem/directory"
	"github.com/snapctl/snapctl/vem/trust"
)

// TestKeepRenewed has the certificates of two hosts renewed, of which one has the CA.
func TestKeepRenewed(t *testing.T) {
	w := newWorld()
	a, b := w.host(t, "a"), w.host(t, "b")
	a.init()
	_, err := b.join(a, a.invite())
	qt.Assert(t, qt.IsNil(err))
	for _, h := range []*machine{a, b} {
		before := h.Identity().Expires()
		w.advance(time.Until(h.Identity().RenewAt()) - time.Until(w.now()) + time.Minute)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() {
			defer close(done)
			h.KeepRenewed(ctx)
		}()
		for !h.Identity().Expires().After(before) {
			runtime.Gosched()
		}
		cancel()
		<-done
		qt.Assert(t, qt.IsTrue(h.Identity().RenewAt().After(w.now())))
	}
	// A host that was removed gets no certificate; nor does one that there is not.
	qt.Assert(t, qt.IsNil(a.Remove(t.Context(), "b", false)))
	qt.Assert(t, qt.ErrorIs(b.renew(t.Context()), trust.ErrRemoved))
	var host *directory.HostError
	_, err = a.Membership.Renew(t.Context(), trust.Peer{Host: "c"}, nil)
	qt.Assert(t, qt.ErrorAs(err, &host))
	_, err = b.Membership.Renew(t.Context(), a.Identity().Peer(), nil)
	qt.Assert(t, qt.ErrorMatches(err, "host b does not have the CA.*"))
}

// TestKeepRenewedFails has nobody sign.
func TestKeepRenewedFails(t *testing.T) {
	w := newWorld()
	a, b := w.host(t, "a"), w.host(t, "b")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	a.init()
	_, err := b.join(a, a.invite())
	qt.Assert(t, qt.IsNil(err))
	b.broken["renew"] = errors.New("nobody signs")
	w.advance(25 * 24 * time.Hour)
	logged := make(chan slog.Record, 1)
	b.opt.Log = slog.New(recorder{slog.DiscardHandler, logged})
	done := make(chan struct{})
	go func() {
		defer close(done)
		b.KeepRenewed(ctx)
	}()
	r := <-logged
	qt.Assert(t, qt.StringContains(r.Message, "can't renew"))
	cancel()
	<-done
	newWorld().host(t, "z").KeepRenewed(ctx) // one that is in no installation
}

// recorder hands log records out.
type recorder struct {
	slog.Handler
	to chan<- slog.Record
}

func (recorder) Enabled(context.Context, slog.Level) bool { return true }

func (r recorder) Handle(_ context.Context, rec slog.Record) error {
	r.to <- rec
	return nil
}

// TestShareCA has the first host of an installation go for good.
func TestShareCA(t *testing.T) {
	w := newWorld()
	a, b, c := w.host(t, "a"), w.host(t, "b"), w.host(t, "c")
	a.init()
	_, err := b.join(a, a.invite())
	qt.Assert(t, qt.IsNil(err))
	token := a.invite()
	_, err = b.ShareCA(t.Context(), "a")
	qt.Assert(t, qt.ErrorMatches(err, "host b does not have the CA.*"))
	exported, err := a.ShareCA(t.Context(), "b")
	qt.Assert(t, qt.IsNil(err))
	for range 2 {
		qt.Assert(t, qt.IsNil(b.AdoptCA(t.Context(), exported)))
	}
	b.restart()
	b.listen()
	qt.Assert(t, qt.IsNil(b.Remove(t.Context(), "a", false)))
	_, err = b.ShareCA(t.Context(), "a")
	qt.Assert(t, qt.ErrorIs(err, trust.ErrRemoved))
	_, err = c.join(b, token) // that the first host had made
	qt.Assert(t, qt.IsNil(err))
	_, err = w.host(t, "d").join(b, b.invite())
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.IsNil(c.renew(t.Context())))
	other := newWorld().host(t, "z")
	qt.Assert(t, qt.IsNotNil(other.AdoptCA(t.Context(), exported)))
	other.init()
	qt.Assert(t, qt.ErrorIs(other.AdoptCA(t.Context(), exported), trust.ErrStranger))
}
