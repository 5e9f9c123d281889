package membership

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/go-quicktest/qt"

	"github.com/snapctl/snapctl/vem/directory"
	"github.com/snapctl/snapctl/vem/directory/memory"
	"github.com/snapctl/snapctl/vem/trust"
)

func TestAlone(t *testing.T) {
	a := newWorld().host(t, "a")
	list, err := a.List(t.Context())
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.HasLen(list, 0))
	qt.Assert(t, qt.IsNil(a.Identity()))
	var failed *Error
	_, err = a.Invite(t.Context(), time.Hour)
	qt.Assert(t, qt.ErrorAs(err, &failed))
	qt.Assert(t, qt.ErrorMatches(err, "this host is in no installation"))
	qt.Assert(t, qt.ErrorAs(a.Remove(t.Context(), "b", false), &failed))
	_, err = a.Directory(t.Context())
	qt.Assert(t, qt.ErrorAs(err, &failed))
	_, err = os.Stat(a.dir)
	qt.Assert(t, qt.ErrorIs(err, os.ErrNotExist))
	qt.Assert(t, qt.IsNil(a.Close()))
}

func TestThreeHosts(t *testing.T) {
	w := newWorld()
	a, b, c := w.host(t, "a"), w.host(t, "b"), w.host(t, "c")
	host := a.init()
	qt.Assert(t, qt.Equals(host.Name, "a"))
	qt.Assert(t, qt.IsTrue(host.Self))
	qt.Assert(t, qt.Equals(host.Port, 7077))
	for _, h := range []*machine{b, c} {
		host, err := h.join(a, a.invite())
		qt.Assert(t, qt.IsNil(err))
		qt.Assert(t, qt.Equals(host.Name, h.name))
		qt.Assert(t, qt.Equals(host.Installation, string(a.Identity().Installation())))
	}
	for _, h := range []*machine{a, b, c} {
		h.restart()
		list, err := h.List(t.Context())
		qt.Assert(t, qt.IsNil(err))
		qt.Assert(t, qt.HasLen(list, 3))
		for i, name := range []string{"a", "b", "c"} {
			qt.Assert(t, qt.Equals(list[i].Name, name))
			qt.Assert(t, qt.Equals(list[i].Self, name == h.name))
			qt.Assert(t, qt.Equals(list[i].Port, 7077))
			qt.Assert(t, qt.HasLen(list[i].Addresses, 1))
			qt.Assert(t, qt.Equals(list[i].Version, "1.0"))
			qt.Assert(t, qt.Equals(list[i].Health == Up, name == h.name))
		}
	}
	qt.Assert(t, qt.Equals(b.Identity().Installation(), a.Identity().Installation()))
	// A host without the CA says who has it.
	_, err := b.Invite(t.Context(), time.Hour)
	qt.Assert(t, qt.ErrorMatches(err, "host b does not have the CA.*"))
	// The directory knows each host by the key that its certificates name.
	d, err := c.Directory(t.Context())
	qt.Assert(t, qt.IsNil(err))
	for _, h := range []*machine{a, b, c} {
		entry, err := d.Host(t.Context(), h.name)
		qt.Assert(t, qt.IsNil(err))
		qt.Assert(t, qt.Equals(entry.Key, string(h.Identity().Member())))
	}
	qt.Assert(t, qt.IsNil(c.Close()))
}

func TestComeTwice(t *testing.T) {
	w := newWorld()
	a, b, c := w.host(t, "a"), w.host(t, "b"), w.host(t, "b")
	a.init()
	token := a.invite()
	_, err := b.join(a, token)
	qt.Assert(t, qt.IsNil(err))
	for _, h := range []*machine{a, b} {
		_, err = h.Init(t.Context(), InitRequest{Place: Place{Name: h.name}})
		qt.Assert(t, qt.ErrorMatches(err, "this host is host . of installation .* already"))
		_, err = h.join(a, a.invite())
		qt.Assert(t, qt.ErrorMatches(err, "this host is host . of installation .* already"))
	}
	_, err = c.join(a, token) // the same token
	qt.Assert(t, qt.ErrorMatches(err, "(?s).*the token was used already.*by host b.*"))
	fresh := a.invite()
	_, err = c.join(a, fresh) // the same name
	qt.Assert(t, qt.ErrorMatches(err, "(?s).*another host of the installation has this name.*"))
	c.name = "c" // the token is still good
	_, err = c.join(a, fresh)
	qt.Assert(t, qt.IsNil(err))
}

func TestJoinRefuses(t *testing.T) {
	w := newWorld()
	a, b := w.host(t, "a"), w.host(t, "b")
	a.init()
	token := a.invite()
	var failed *Error
	_, err := b.join(a, token[:50])
	qt.Assert(t, qt.ErrorAs(err, &failed))
	qt.Assert(t, qt.ErrorIs(err, error(failed)))
	b.name = "B.example"
	_, err = b.join(a, token)
	qt.Assert(t, qt.ErrorAs(err, &failed))
	b.name = "b"
	other := newWorld().host(t, "a")
	other.init()
	_, err = b.join(other, token) // the host of another installation answers
	qt.Assert(t, qt.ErrorIs(err, trust.ErrStranger))
	b.broken["addresses"] = errors.New("no addresses")
	_, err = b.join(a, token)
	qt.Assert(t, qt.ErrorMatches(err, ".*no addresses"))
	delete(b.broken, "addresses")
	w.advance(2 * time.Hour)
	_, err = b.join(a, token)
	qt.Assert(t, qt.ErrorMatches(err, ".*the token has expired.*"))
	w.advance(-2 * time.Hour)
	_, err = b.join(a, token)
	qt.Assert(t, qt.IsNil(err))
}

// TestGoOn has each step of Init and Join fail, restarts the host, and does it again.
func TestGoOn(t *testing.T) {
	w := newWorld()
	a, b := w.host(t, "a"), w.host(t, "b")
	failed := errors.New("out of order")
	init := func() error {
		_, err := a.Init(t.Context(), InitRequest{Place: Place{Name: "a"}})
		return err
	}
	a.broken["make"] = failed
	qt.Assert(t, qt.ErrorIs(init(), failed))
	delete(a.broken, "make")
	a.restart()
	// The first two are of the commit that sets the directory up, the others of the one that
	// enters the host.
	for _, fault := range []memory.Fault{memory.Cut, memory.Lost, memory.Cut, memory.Lost} {
		a.store.Next(fault)
		qt.Assert(t, qt.IsNotNil(init()))
		qt.Assert(t, qt.IsNil(a.Identity()))
		a.restart()
	}
	qt.Assert(t, qt.IsNil(init()))
	a.listen()

	token := a.invite()
	join := func() error {
		_, err := b.join(a, token)
		return err
	}
	b.broken["answer"] = failed // it was let in, and does not hear of it
	qt.Assert(t, qt.ErrorIs(join(), failed))
	b.restart()
	delete(b.broken, "answer")
	b.broken["open"] = failed // the directory
	qt.Assert(t, qt.ErrorIs(join(), failed))
	qt.Assert(t, qt.IsNil(b.Identity()))
	delete(b.broken, "open")
	b.restart()
	for _, fault := range []memory.Fault{memory.Cut, memory.Lost} {
		b.store.Next(fault)
		qt.Assert(t, qt.IsNotNil(join()))
		b.restart()
	}
	qt.Assert(t, qt.IsNil(join()))
	list, err := b.List(t.Context())
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.HasLen(list, 2))
}

// TestOtherWay has a host that did not make an installation, and did not get into another one, go
// into a third.
func TestOtherWay(t *testing.T) {
	a, b, other := newWorld().host(t, "a"), newWorld().host(t, "b"), newWorld()
	a.init()
	failed := errors.New("out of order")
	b.broken["open"], b.broken["make"] = failed, failed
	_, err := b.Init(t.Context(), InitRequest{Place: Place{Name: "b"}})
	qt.Assert(t, qt.ErrorIs(err, failed))
	_, err = b.join(a, a.invite())
	qt.Assert(t, qt.ErrorIs(err, failed))
	delete(b.broken, "open")
	c := other.host(t, "c")
	c.init()
	b.store = other.directory.Open()
	_, err = b.join(c, c.invite())
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.Equals(b.Identity().Installation(), c.Identity().Installation()))
	exported, err := c.ShareCA(t.Context(), "b")
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.IsNil(b.AdoptCA(t.Context(), exported)))
}

func TestDirectoryCannotBeReached(t *testing.T) {
	w := newWorld()
	a, b := w.host(t, "a"), w.host(t, "b")
	a.init()
	token := a.invite()
	a.store.Set(memory.Cut)
	a.restart() // nothing of it is needed to start
	qt.Assert(t, qt.IsNotNil(a.Identity()))
	_, err := a.List(t.Context())
	qt.Assert(t, qt.IsTrue(IsUnavailable(err)))
	_, err = a.Invite(t.Context(), time.Hour)
	qt.Assert(t, qt.IsTrue(IsUnavailable(err)))
	_, err = b.join(a, token)
	qt.Assert(t, qt.ErrorMatches(err, ".*the directory can't be reached.*"))
	a.store.Set(memory.None)
	_, err = b.join(a, token)
	qt.Assert(t, qt.IsNil(err))
}

// TestLostCommit has the answer to the commit that lets a host in get lost.
func TestLostCommit(t *testing.T) {
	for name, fault := range map[string]memory.Fault{"it happened": memory.Lost, "it did not": memory.Cut, "it happens later": memory.Late} {
		t.Run(name, func(t *testing.T) {
			w := newWorld()
			a, b, c := w.host(t, "a"), w.host(t, "b"), w.host(t, "c")
			a.init()
			token := a.invite()
			a.store.Next(fault)
			_, err := b.join(a, token)
			qt.Assert(t, qt.IsNotNil(err))
			a.store.Deliver()
			_, err = b.join(a, token)
			qt.Assert(t, qt.IsNil(err))
			_, err = c.join(a, token)
			qt.Assert(t, qt.ErrorMatches(err, ".*the token was used already.*"))
			list, err := a.List(t.Context())
			qt.Assert(t, qt.IsNil(err))
			qt.Assert(t, qt.HasLen(list, 2))
		})
	}
}

func TestRemove(t *testing.T) {
	w := newWorld()
	a, b := w.host(t, "a"), w.host(t, "b")
	a.init()
	_, err := b.join(a, a.invite())
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.ErrorMatches(a.Remove(t.Context(), "a", false), "this host can't remove itself"))
	var host *directory.HostError
	qt.Assert(t, qt.ErrorAs(a.Remove(t.Context(), "z", false), &host))
	d, err := a.Directory(t.Context())
	qt.Assert(t, qt.IsNil(err))
	check := Check(func(name string) (directory.Host, bool) {
		h, err := d.Host(t.Context(), name)
		return h, err == nil
	})
	peer := trust.Peer{Host: "b", Member: b.Identity().Member()}
	qt.Assert(t, qt.IsNil(check(peer)))
	qt.Assert(t, qt.IsNil(check(trust.Peer{Host: "new"})))
	qt.Assert(t, qt.ErrorIs(check(trust.Peer{Host: "b", Member: a.Identity().Member()}), trust.ErrRemoved))
	for range 2 {
		qt.Assert(t, qt.IsNil(a.Remove(t.Context(), "b", false)))
	}
	qt.Assert(t, qt.DeepEquals(w.removed, []string{"b", "b"}))
	qt.Assert(t, qt.ErrorIs(check(peer), trust.ErrRemoved))
	list, err := a.List(t.Context())
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.Equals(list[1].Health, Removed))
}

// TestOldTokensAreSweptAway has tokens expire.
func TestOldTokensAreSweptAway(t *testing.T) {
	w := newWorld()
	a := w.host(t, "a")
	a.init()
	count := func() int {
		s := a.self.Load()
		entries, _, err := a.store.List(t.Context(), s.invites.key(""))
		qt.Assert(t, qt.IsNil(err))
		return len(entries)
	}
	for range 5 {
		a.invite()
	}
	w.advance(90 * time.Minute)
	a.invite() // those that have just expired are still known
	qt.Assert(t, qt.Equals(count(), 6))
	w.advance(time.Hour)
	a.invite()
	qt.Assert(t, qt.Equals(count(), 2))
}

func TestDamagedRecord(t *testing.T) {
	w := newWorld()
	a := w.host(t, "a")
	a.init()
	qt.Assert(t, qt.IsNil(os.WriteFile(filepath.Join(a.dir, "membership.json"), []byte("x"), 0o600)))
	_, err := Open(t.Context(), a.opt)
	qt.Assert(t, qt.ErrorMatches(err, ".*membership.json is damaged.*"))
}

func TestFullDisk(t *testing.T) {
	w := newWorld()
	a := w.host(t, "a")
	qt.Assert(t, qt.IsNil(os.MkdirAll(a.dir, 0o700)))
	qt.Assert(t, qt.IsNil(os.Symlink("/dev/full", filepath.Join(a.dir, "membership.json.new"))))
	_, err := a.Init(t.Context(), InitRequest{Place: Place{Name: "a"}})
	qt.Assert(t, qt.ErrorMatches(err, "(?s).*no space left on device.*"))
	a.restart()
	qt.Assert(t, qt.IsNil(a.Identity()))
	a.init()
}
