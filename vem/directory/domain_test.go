package directory_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/go-quicktest/qt"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/snapctl/snapctl/vem/address"
	"github.com/snapctl/snapctl/vem/directory"
	"github.com/snapctl/snapctl/vem/directory/memory"
)

var now = time.Date(2026, 11, 30, 8, 0, 0, 0, time.UTC)

var space = address.Space{Prefix4: netip.MustParsePrefix("10.77.0.0/16"), Prefix6: netip.MustParsePrefix("fd77::/64")}

// same compares values with addresses in them.
func same[T any](got, want T) qt.Checker {
	return qt.CmpEquals(got, want, cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{}))
}

// world is an installation with some hosts, each with a store of its own.
type world struct {
	*testing.T
	server *memory.Server
	hosts  map[string]*host
}

type host struct {
	w     *world
	name  string
	store *memory.Store
	d     *directory.Directory
	s     *directory.Session
}

// newWorld sets up an installation with a network and hosts.
func newWorld(t *testing.T, names ...string) *world {
	t.Helper()
	w := &world{T: t, server: memory.New(), hosts: make(map[string]*host)}
	_, err := directory.Init(t.Context(), w.server.Open(), "lab", names[0], now)
	qt.Assert(t, qt.IsNil(err))
	for _, name := range names {
		h := &host{w: w, name: name, store: w.server.Open()}
		h.d, err = directory.Open(t.Context(), h.store, "lab", directory.Known{})
		qt.Assert(t, qt.IsNil(err))
		_, err = h.d.PutHost(t.Context(), directory.Host{Name: name, Key: "key-" + name, JoinedAt: now})
		qt.Assert(t, qt.IsNil(err))
		h.begin()
		w.hosts[name] = h
	}
	_, err = w.hosts[names[0]].s.PutNetwork(t.Context(), "default", space, now)
	qt.Assert(t, qt.IsNil(err))
	return w
}

// begin begins a new session, as a daemon does that starts.
func (h *host) begin() {
	h.w.Helper()
	var err error
	h.s, err = h.d.Begin(h.w.Context(), h.name, "key-"+h.name, now)
	qt.Assert(h.w, qt.IsNil(err))
}

// alive makes the host be seen until stop is called.
func (h *host) alive() (stop func()) {
	ctx, cancel := context.WithCancel(h.w.Context())
	done := make(chan error)
	go func() { done <- h.d.BeSeen(ctx, h.name, time.Second) }()
	h.w.await(func() bool {
		seen, err := h.d.Seen(ctx)
		return err == nil && seen[h.name]
	})
	return sync.OnceFunc(func() { cancel(); <-done })
}

func (w *world) await(ask func() bool) {
	w.Helper()
	for tick := time.NewTicker(time.Millisecond); !ask(); {
		select {
		case <-w.Context().Done():
			w.Fatal("it did not happen")
		case <-tick.C:
		}
	}
}

func endpoint(app, addr string) directory.Endpoint {
	return directory.Endpoint{Network: "default", Addr: netip.MustParseAddr(addr), ID: "id-" + app, App: app, State: directory.Running}
}

// claim claims one endpoint.
func (h *host) claim(app, addr string) (directory.Endpoint, error) {
	out := h.s.Claim(h.w.Context(), []directory.Endpoint{endpoint(app, addr)})
	return out[0].Endpoint, out[0].Err
}

func (h *host) mustClaim(app, addr string) directory.Endpoint {
	h.w.Helper()
	e, err := h.claim(app, addr)
	qt.Assert(h.w, qt.IsNil(err))
	return e
}

func (h *host) lookup(addr string) (directory.Endpoint, error) {
	return h.d.Lookup(h.w.Context(), "default", netip.MustParseAddr(addr))
}

// owned fails the test unless a host owns an endpoint with an epoch.
func (w *world) owned(addr, owner string, epoch uint64) {
	w.Helper()
	d, err := directory.Open(w.Context(), w.server.Open(), "lab", directory.Known{})
	qt.Assert(w, qt.IsNil(err))
	e, err := d.Lookup(w.Context(), "default", netip.MustParseAddr(addr))
	qt.Assert(w, qt.IsNil(err))
	qt.Assert(w, qt.Equals(fmt.Sprint(e.Owner, " ", e.Epoch), fmt.Sprint(owner, " ", epoch)))
}

func TestClaimAndLookup(t *testing.T) {
	w := newWorld(t, "a", "b")
	a, b := w.hosts["a"], w.hosts["b"]
	e := a.mustClaim("cache", "10.77.0.2")
	qt.Check(t, qt.Equals(e.Owner, "a"))
	qt.Check(t, qt.Equals(e.Epoch, 1))
	again := a.mustClaim("cache", "10.77.0.2")
	qt.Check(t, same(again, e))
	for _, addr := range []string{"10.77.0.2", "fd77::2"} {
		got, err := b.lookup(addr)
		qt.Assert(t, qt.IsNil(err))
		qt.Check(t, same(got, e))
	}
	got, err := b.d.LookupApp(t.Context(), "cache")
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, same(got, e))

	_, err = b.claim("other", "10.77.0.2")
	var taken *directory.TakenError
	qt.Assert(t, qt.ErrorAs(err, &taken))
	qt.Check(t, qt.Equals(taken.There.App, "cache"))
	_, err = b.claim("cache", "10.77.0.9")
	var named *directory.NameError
	qt.Assert(t, qt.ErrorAs(err, &named))
	qt.Check(t, qt.Equals(named.Addr.String(), "10.77.0.2"))
	for _, addr := range []string{"10.77.0.9", "fd77::9", "10.78.0.2", "fd77::1:0:0:2", "fd78::2"} {
		_, err := b.lookup(addr)
		qt.Check(t, qt.ErrorIs(err, directory.ErrNotFound), qt.Commentf("%s", addr))
	}
	_, err = b.d.Lookup(t.Context(), "none", netip.MustParseAddr("10.77.0.2"))
	qt.Check(t, qt.ErrorIs(err, directory.ErrNotFound))
	_, err = b.d.LookupApp(t.Context(), "none")
	qt.Check(t, qt.ErrorIs(err, directory.ErrNotFound))
	_, err = a.claim("gateway", "10.77.0.1")
	qt.Check(t, qt.ErrorIs(err, address.ErrReserved))
	_, err = a.claim("a/b", "10.77.0.4")
	qt.Check(t, qt.ErrorMatches(err, `claim endpoint 10.77.0.4 of network default: app name "a/b": (.|\n)*`))

	qt.Check(t, qt.IsNil(a.s.Release(t.Context(), []directory.Endpoint{e})[0].Err))
	qt.Check(t, qt.IsNil(a.s.Release(t.Context(), []directory.Endpoint{e})[0].Err))
	_, err = b.lookup("10.77.0.2")
	qt.Check(t, qt.ErrorIs(err, directory.ErrNotFound))
	// The name and the address are free again; whoever had them before does not own them.
	b.mustClaim("cache", "10.77.0.9")
	other := b.mustClaim("new", "10.77.0.2")
	qt.Check(t, qt.IsNil(a.s.Release(t.Context(), []directory.Endpoint{e})[0].Err))
	got, err = a.lookup("10.77.0.2")
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, same(got, other))
	_, err = a.s.Update(t.Context(), e, directory.Held, "")
	var owner *directory.OwnerError
	qt.Assert(t, qt.ErrorAs(err, &owner))
	qt.Check(t, qt.ErrorMatches(err, ".*it was released, and app new on host b has the address now"))
}

// Many endpoints at once, of which some can't be had.
func TestClaimMany(t *testing.T) {
	w := newWorld(t, "a", "b")
	a, b := w.hosts["a"], w.hosts["b"]
	b.mustClaim("taken", "10.77.0.100")
	b.mustClaim("clone-7", "10.77.9.9")
	before := w.server.Revision()
	var want []directory.Endpoint
	for i := range 200 {
		want = append(want, endpoint(fmt.Sprintf("clone-%d", i), fmt.Sprintf("10.77.%d.%d", i/100, i%100+20)))
	}
	want[80].Addr = netip.MustParseAddr("10.77.0.100") // as is that of 199, and of taken
	want[199].Addr = want[198].Addr
	out := a.s.Claim(t.Context(), want)
	var taken *directory.TakenError
	var named *directory.NameError
	for i, o := range out {
		switch i {
		case 7:
			qt.Check(t, qt.ErrorAs(o.Err, &named))
		case 80:
			qt.Check(t, qt.ErrorAs(o.Err, &taken))
		case 199:
			qt.Check(t, qt.IsNotNil(o.Err))
		default:
			qt.Assert(t, qt.IsNil(o.Err), qt.Commentf("%d", i))
			qt.Assert(t, qt.IsTrue(o.Endpoint.Revision > before))
		}
	}
	qt.Check(t, qt.IsTrue(w.server.Revision()-before <= 4), qt.Commentf("%d revisions", w.server.Revision()-before))
	list, err := b.d.Endpoints(t.Context())
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.HasLen(list, 199))
	var mine []directory.Endpoint
	for _, o := range out {
		mine = append(mine, o.Endpoint)
	}
	verdicts, err := a.s.Confirm(t.Context(), mine, "boot")
	qt.Assert(t, qt.IsNil(err))
	for i, v := range verdicts {
		qt.Check(t, qt.Equals(v.Standing == directory.Owner, i != 7 && i != 80 && i != 199), qt.Commentf("%d %s", i, v.Standing))
	}
	for _, o := range a.s.Release(t.Context(), mine) {
		qt.Check(t, qt.IsNil(o.Err))
	}
	list, err = b.d.Endpoints(t.Context())
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.HasLen(list, 2))
}

func TestMove(t *testing.T) {
	w := newWorld(t, "a", "b", "c")
	a, b := w.hosts["a"], w.hosts["b"]
	e := a.mustClaim("cache", "10.77.0.2")
	var state *directory.StateError
	_, err := a.s.Transfer(t.Context(), e, "b")
	qt.Assert(t, qt.ErrorAs(err, &state))
	_, err = a.s.Update(t.Context(), e, directory.Moving, "a")
	qt.Assert(t, qt.ErrorAs(err, &state))
	moving, err := a.s.Update(t.Context(), e, directory.Moving, "b")
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.Equals(moving.Target, "b"))
	_, err = a.s.Transfer(t.Context(), moving, "c")
	qt.Assert(t, qt.ErrorAs(err, &state))
	qt.Check(t, qt.ErrorMatches(err, ".*give it to host c: endpoint 10.77.0.2 of network default is moving from host a to host b"))
	// The target's copy waits until it is the owner's.
	copied := moving
	copied.Owner, copied.Epoch = "b", 2
	verdicts, err := b.s.Confirm(t.Context(), []directory.Endpoint{copied}, "boot")
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.Equals(verdicts[0].Standing, directory.Pending))
	qt.Check(t, qt.Equals(verdicts[0].Permit, directory.Permit{}))

	moved, err := a.s.Transfer(t.Context(), moving, "b")
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.Equals(moved.Epoch, 2))
	again, err := a.s.Transfer(t.Context(), moving, "b")
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, same(again, moved))
	w.owned("10.77.0.2", "b", 2)
	verdicts, err = b.s.Confirm(t.Context(), []directory.Endpoint{copied}, "boot")
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.Equals(verdicts[0].Standing, directory.Owner))
	permit := verdicts[0].Permit
	qt.Check(t, qt.IsTrue(permit.Allows(e.ID, 2, "boot")))
	qt.Check(t, qt.IsFalse(permit.Allows(e.ID, 2, "another boot")))
	qt.Check(t, qt.IsFalse(permit.Allows(e.ID, 3, "boot")))
	qt.Check(t, qt.IsFalse(permit.Allows("id-other", 2, "boot")))
	qt.Check(t, qt.IsFalse((directory.Permit{}).Allows("", 0, "")))
	verdicts, err = a.s.Confirm(t.Context(), []directory.Endpoint{e}, "boot")
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.Equals(verdicts[0].Standing, directory.Lost))
	qt.Check(t, qt.Equals(verdicts[0].Now.Owner, "b"))
	var owner *directory.OwnerError
	qt.Check(t, qt.ErrorAs(a.s.Release(t.Context(), []directory.Endpoint{e})[0].Err, &owner))
	// To a host that is none, or no more.
	mine, err := b.s.Update(t.Context(), moved, directory.Moving, "d")
	qt.Assert(t, qt.IsNil(err))
	var host *directory.HostError
	_, err = b.s.Transfer(t.Context(), mine, "d")
	qt.Assert(t, qt.ErrorAs(err, &host))
	mine, err = b.s.Update(t.Context(), mine, directory.Moving, "c")
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.IsNil(a.d.RemoveHost(t.Context(), "c")))
	_, err = b.s.Transfer(t.Context(), mine, "c")
	qt.Assert(t, qt.ErrorAs(err, &host))
	qt.Check(t, qt.Equals(host.Why, directory.HostRemoved))
	mine, err = b.s.Update(t.Context(), mine, directory.Running, "")
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.Equals(mine.Target, ""))
}

func TestTakeover(t *testing.T) {
	w := newWorld(t, "a", "b", "c")
	a, b := w.hosts["a"], w.hosts["b"]
	e := a.mustClaim("cache", "10.77.0.2")
	stop := a.alive()
	var host *directory.HostError
	_, err := b.s.Takeover(t.Context(), e)
	qt.Assert(t, qt.ErrorAs(err, &host))
	qt.Check(t, qt.Equals(host.Why, directory.HostAlive))
	stop()
	_, err = a.s.Takeover(t.Context(), e)
	qt.Assert(t, qt.ErrorAs(err, &host))
	got, err := b.s.Takeover(t.Context(), e)
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.Equals(got.TakenFrom, "a"))
	qt.Check(t, qt.Equals(got.Epoch, 2))
	w.owned("10.77.0.2", "b", 2)
	again, err := b.s.Takeover(t.Context(), e)
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.Equals(again, got))
	// Another one is too late, and a, when it is back, sees it.
	var owner *directory.OwnerError
	_, err = w.hosts["c"].s.Takeover(t.Context(), e)
	qt.Assert(t, qt.ErrorAs(err, &owner))
	a.begin()
	verdicts, err := a.s.Confirm(t.Context(), []directory.Endpoint{e}, "second boot")
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.Equals(verdicts[0].Standing, directory.Lost))
	_, err = a.s.Update(t.Context(), e, directory.Held, "")
	qt.Assert(t, qt.ErrorAs(err, &owner))
	qt.Check(t, qt.ErrorMatches(err, ".*host b took it over, and owns it with epoch 2"))
	_, err = a.claim("cache", "10.77.0.2")
	qt.Check(t, qt.IsNotNil(err))
}

// A takeover that is under way when the dead host comes back does not happen.
func TestLateTakeover(t *testing.T) {
	w := newWorld(t, "a", "b")
	a, b := w.hosts["a"], w.hosts["b"]
	e := a.mustClaim("cache", "10.77.0.2")
	b.store.Set(memory.Cut)
	_, err := b.s.Takeover(t.Context(), e)
	qt.Assert(t, qt.ErrorIs(err, directory.ErrUnavailable))
	qt.Assert(t, qt.IsFalse(errors.Is(err, directory.ErrUnsure))) // it could not even look
	b.store.Set(memory.None)
	late := b.takeoverLate(e)
	a.begin()
	_, err = a.s.Confirm(t.Context(), []directory.Endpoint{e}, "second boot")
	qt.Assert(t, qt.IsNil(err))
	for _, err := range late() {
		var conflict *directory.ConflictError
		qt.Check(t, qt.ErrorAs(err, &conflict))
	}
	w.owned("10.77.0.2", "a", 1)
}

// takeoverLate begins a takeover whose commit happens when late is called.
func (h *host) takeoverLate(e directory.Endpoint) (late func() []error) {
	h.w.Helper()
	h.store.Next(memory.Late, memory.Cut, memory.Cut, memory.Cut, memory.Cut, memory.Cut)
	_, err := h.s.Takeover(h.w.Context(), e)
	qt.Assert(h.w, qt.ErrorIs(err, directory.ErrUnsure))
	return h.store.Deliver
}

// hooked is a store with something that happens before a commit.
type hooked struct {
	directory.Store
	before func()
}

func (h *hooked) Commit(ctx context.Context, t directory.Txn) (int64, error) {
	if before := h.before; before != nil {
		h.before = nil
		before()
	}
	return h.Store.Commit(ctx, t)
}

// A dead host that comes back while it is taken over keeps the endpoint, also if nobody sees it.
func TestBackMeanwhile(t *testing.T) {
	w := newWorld(t, "a", "b")
	a := w.hosts["a"]
	e := a.mustClaim("cache", "10.77.0.2")
	store := &hooked{Store: w.server.Open()}
	d, err := directory.Open(t.Context(), store, "lab", directory.Known{})
	qt.Assert(t, qt.IsNil(err))
	s, err := d.Begin(t.Context(), "b", "key-b", now)
	qt.Assert(t, qt.IsNil(err))
	store.before = a.begin
	_, err = s.Takeover(t.Context(), e)
	var host *directory.HostError
	qt.Assert(t, qt.ErrorAs(err, &host))
	qt.Check(t, qt.Equals(host.Why, directory.HostAlive))
	w.owned("10.77.0.2", "a", 1)
	store.before = func() {
		_, err := a.s.Update(t.Context(), e, directory.Held, "") // another change is no reason
		qt.Check(t, qt.IsNil(err))
	}
	_, err = s.Takeover(t.Context(), e)
	qt.Assert(t, qt.IsNil(err))
	w.owned("10.77.0.2", "b", 2)
}
