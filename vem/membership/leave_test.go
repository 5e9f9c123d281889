package membership

import (
	"context"
	"errors"
	"os"
	"testing"

	"github.com/go-quicktest/qt"

	"github.com/snapctl/snapctl/vem/directory"
)

// A host leaves when no other host needs it, forgets all, and may come back under another name.
func TestLeave(t *testing.T) {
	w := newWorld()
	a, b := w.host(t, "a"), w.host(t, "b")
	var failed *Error
	qt.Assert(t, qt.ErrorAs(a.Leave(t.Context(), true), &failed))
	a.init()
	_, err := b.join(a, a.invite())
	qt.Assert(t, qt.IsNil(err))

	// The only host that has the CA stays.
	err = a.Leave(t.Context(), false)
	qt.Assert(t, qt.ErrorMatches(err, "host a is the only one that has the CA.*"))
	_, err = b.Invite(t.Context(), 1)
	qt.Assert(t, qt.ErrorAs(err, &failed))
	qt.Check(t, qt.ErrorMatches(errors.New(failed.Remedy), "invite on a, which has it.*"))
	qt.Check(t, qt.IsFalse(b.HasCA()))

	// So does one whose directory can't be reached, and one that can't take its member out.
	b.leaving = errors.New("no quorum")
	qt.Assert(t, qt.ErrorIs(b.Leave(t.Context(), false), b.leaving))
	b.leaving = nil

	came := *b.came.Load()
	qt.Assert(t, qt.IsNil(b.Leave(t.Context(), false)))
	<-came
	qt.Check(t, qt.Equals(b.leftTimes, 1))
	qt.Check(t, qt.IsNil(b.Identity()))
	entries, err := os.ReadDir(b.dir)
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.HasLen(entries, 0))
	list, err := a.List(t.Context())
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.Equals(list[1].Health, Removed))
	_, err = b.join(a, a.invite())
	qt.Check(t, qt.ErrorMatches(err, ".*another host of the installation has this name.*"))
	b.name = "c"
	_, err = b.join(a, a.invite())
	qt.Assert(t, qt.IsNil(err))

	// The next daemon goes on with what a killed one has begun.
	r, err := b.load()
	qt.Assert(t, qt.IsNil(err))
	r.Phase = left
	qt.Assert(t, qt.IsNil(b.save(r)))
	b.restart()
	begun, told := b.Departing()
	qt.Check(t, qt.IsTrue(begun && told))
	qt.Assert(t, qt.IsNil(b.Depart(t.Context())))
	qt.Check(t, qt.Equals(b.leftTimes, 2))
	qt.Check(t, qt.IsNil(b.Identity()))
	qt.Assert(t, qt.IsNil(a.Remove(t.Context(), "c", false)))

	// Who asks for hosts while this one leaves gets none.
	qt.Check(t, qt.HasLen(b.Show([]directory.Host{{Name: "a"}}, nil, nil), 0))

	// The last host ends the installation.
	qt.Assert(t, qt.IsNil(a.Leave(t.Context(), false)))
	qt.Check(t, qt.IsNil(a.Identity()))
}

// A host says where the directory is now, and what it is, in the same words to itself and to others.
func TestUpdate(t *testing.T) {
	w := newWorld()
	a := w.host(t, "a")
	qt.Check(t, qt.IsNotNil(a.SetDirectory(t.Context(), nil)))
	_, err := a.Update(t.Context(), func(*directory.Host) {})
	qt.Check(t, qt.IsNotNil(err))
	qt.Check(t, qt.HasLen(a.DirectoryURLs(), 0))
	host := a.init()
	qt.Check(t, qt.IsTrue(host.Directory && host.CA))
	qt.Check(t, qt.DeepEquals(a.DirectoryURLs(), []string{"https://192.0.2.7:2379"}))
	urls := []string{"https://192.0.2.7:2379", "https://192.0.2.8:2379"}
	qt.Assert(t, qt.IsNil(a.SetDirectory(t.Context(), urls)))
	a.restart()
	qt.Check(t, qt.DeepEquals(a.DirectoryURLs(), urls))
	host, err = a.Update(t.Context(), func(h *directory.Host) { h.Member, h.Release = nil, "2.0" })
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.IsFalse(host.Directory))
	list, err := a.List(t.Context())
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.Equals(list[0].Version, "2.0"))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	a.turn <- struct{}{}
	qt.Check(t, qt.ErrorIs(a.Leave(ctx, false), context.Canceled))
	qt.Check(t, qt.ErrorIs(a.SetDirectory(ctx, nil), context.Canceled))
}
