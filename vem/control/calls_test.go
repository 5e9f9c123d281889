package control

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/go-quicktest/qt"

	"github.com/snapctl/snapctl/vem/control/message"
)

func TestCalls(t *testing.T) {
	ca, w := newAuthority(t), newWorld()
	s := serve(t, ca, w.handlers(), nil)
	p, _ := ask(t, ca, nil, s.addr)
	ctx := t.Context()

	t.Run("Resolve", func(t *testing.T) {
		o, err := p.Resolve(ctx, "b", "default", netip.MustParseAddr("10.77.0.3"))
		qt.Assert(t, qt.IsNil(err))
		qt.Check(t, qt.Equals(o, message.Owner{Host: "b", Epoch: 7, State: message.Held}))
		qt.Check(t, qt.Equals(w.lastCall.Host, "a"))
		qt.Check(t, qt.Equals(w.lastCall.Protocol, uint32(1)))
		qt.Check(t, qt.Equals(w.lastCall.Address.Addr(), netip.MustParseAddr("127.0.0.1")))
	})
	t.Run("Connect", func(t *testing.T) {
		r := connectRequest()
		ch, err := p.Connect(ctx, "b", r)
		qt.Assert(t, qt.IsNil(err))
		// What is local to the one is remote to the other.
		qt.Check(t, qt.DeepEquals(ch.Parameters, []byte("b's")))
		qt.Check(t, qt.Equals(ch.Local, netip.MustParseAddrPort("192.0.2.1:4789")))
		qt.Check(t, qt.Equals(ch.Remote, netip.MustParseAddrPort("192.0.2.2:4789")))
		qt.Check(t, qt.Equals(ch.Generation, uint64(11)))
		qt.Check(t, qt.Equals(ch.MTU, 1420))
	})
	t.Run("Again", func(t *testing.T) {
		before := w.count("connect")
		r := connectRequest()
		for range 3 {
			_, err := p.Connect(ctx, "b", r)
			qt.Assert(t, qt.IsNil(err))
		}
		qt.Check(t, qt.Equals(w.count("connect"), before+1))
		r.Generation++ // another request under the same ID
		_, err := p.Connect(ctx, "b", r)
		var refused *message.RefusedError
		qt.Assert(t, qt.ErrorAs(err, &refused))
		qt.Check(t, qt.StringContains(err.Error(), "used for another call"))
	})
	t.Run("Switch", func(t *testing.T) {
		ch, err := p.Switch(ctx, "b", message.SwitchRequest{Network: "default", Offers: connectRequest().Offers, Generation: 12})
		qt.Assert(t, qt.IsNil(err))
		qt.Check(t, qt.Equals(ch.Generation, uint64(12)))
	})
	t.Run("Disconnect", func(t *testing.T) {
		r := message.DisconnectRequest{Network: "default", Routes: []message.Route{{Address: netip.MustParseAddr("10.77.0.3"), Owner: "b", Epoch: 5}}, Generation: 13}
		qt.Assert(t, qt.IsNil(p.Disconnect(ctx, "b", r)))
		qt.Check(t, qt.Equals(w.count("disconnect"), 1))
		r.Routes[0].Owner = "c"
		var invalid *message.InvalidError
		qt.Check(t, qt.ErrorAs(p.Disconnect(ctx, "b", r), &invalid))
		qt.Check(t, qt.Equals(w.count("disconnect"), 1))
	})
	t.Run("Counters", func(t *testing.T) {
		all, err := p.Counters(ctx, "b", "default")
		qt.Assert(t, qt.IsNil(err))
		qt.Check(t, qt.DeepEquals(all, []message.Counters{{Network: "default", Module: "tunnel", BytesIn: 1 << 40, UpFor: time.Hour, IdleFor: time.Second}}))
	})
	t.Run("Renew", func(t *testing.T) {
		cr, err := p.Renew(ctx, "b", message.ID{}, []byte("csr"))
		qt.Assert(t, qt.IsNil(err))
		qt.Check(t, qt.Equals(string(cr.Chain), "chain of csr"))
	})
	t.Run("Greeting", func(t *testing.T) {
		st, ok := p.Status("b")
		qt.Assert(t, qt.IsTrue(ok))
		qt.Check(t, qt.IsTrue(st.Connected))
		qt.Check(t, qt.Equals(st.Address.To, s.addr))
		qt.Check(t, qt.Equals(st.Greeting.Boot, "boot-of-b"))
		qt.Check(t, qt.IsTrue(st.Greeting.Skew.Abs() <= st.Greeting.RoundTrip))
		qt.Check(t, qt.Equals(w.greeted[0].Host, "a"))
	})
}

func TestErrorsReachTheCaller(t *testing.T) {
	ca, w := newAuthority(t), newWorld()
	s := serve(t, ca, w.handlers(), nil)
	p, _ := ask(t, ca, nil, s.addr)
	ctx := t.Context()

	r := connectRequest()
	r.Wanted.Epoch = 99
	_, err := p.Connect(ctx, "b", r)
	var notOwner *message.NotOwnerError
	qt.Assert(t, qt.ErrorAs(err, &notOwner))
	qt.Check(t, qt.Equals(*notOwner, message.NotOwnerError{By: "b", Network: "default", Address: r.Wanted.Address, Owner: "c", Epoch: 100}))
	qt.Check(t, qt.Equals(notOwner.Remedy(), "ask c"))

	r = connectRequest()
	r.Wanted.Epoch = 98
	_, err = p.Connect(ctx, "b", r)
	var refused *message.RefusedError
	qt.Assert(t, qt.ErrorAs(err, &refused))
	qt.Check(t, qt.Equals(*refused, message.RefusedError{By: "b", Why: "the host is ending", Hint: "wait"}))

	_, err = p.Resolve(ctx, "b", "default", netip.MustParseAddr("10.77.0.99"))
	var notFound *message.NotFoundError
	qt.Assert(t, qt.ErrorAs(err, &notFound))
	qt.Check(t, qt.Equals(notFound.By, "b"))

	w.hold(func(context.Context) error { return errors.New("disk\x00 full\n" + string(make([]byte, 5000))) })
	_, err = p.Resolve(ctx, "b", "default", netip.MustParseAddr("10.77.0.3"))
	qt.Assert(t, qt.ErrorAs(err, &refused))
	qt.Check(t, qt.StringContains(refused.Why, "disk  full "))
	qt.Check(t, qt.IsTrue(len(refused.Why) <= 1024))

	_, err = p.Resolve(ctx, "c", "default", netip.MustParseAddr("10.77.0.3"))
	var unreachable *UnreachableError
	qt.Assert(t, qt.ErrorAs(err, &unreachable))
	qt.Check(t, qt.StringContains(err.Error(), "host c can't be reached: no address of it is known"))
}

func TestUnservedIsRefused(t *testing.T) {
	ca := newAuthority(t)
	s := serve(t, ca, Handlers{}, nil)
	p, _ := ask(t, ca, nil, s.addr)
	_, err := p.Connect(t.Context(), "b", connectRequest())
	qt.Check(t, qt.ErrorMatches(err, "host b refuses: this host does not serve channels"))
	_, err = p.Resolve(t.Context(), "b", "default", netip.MustParseAddr("10.77.0.3"))
	qt.Check(t, qt.ErrorMatches(err, "host b refuses: this host does not serve owners"))
	_, err = p.Renew(t.Context(), "b", message.ID{}, []byte("csr"))
	qt.Check(t, qt.ErrorMatches(err, "host b refuses: this host does not serve certificates"))
	_, err = p.Open(t.Context(), "b", "move", nil)
	qt.Check(t, qt.ErrorMatches(err, "host b refuses: this host does not serve streams of kind move"))
}

func TestCancelIsPassedOn(t *testing.T) {
	ca, w := newAuthority(t), newWorld()
	s := serve(t, ca, w.handlers(), nil)
	p, _ := ask(t, ca, nil, s.addr)
	entered, left := make(chan struct{}), make(chan error, 1)
	w.hold(func(ctx context.Context) error {
		close(entered)
		<-ctx.Done()
		left <- ctx.Err()
		return ctx.Err()
	})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		_, err := p.Connect(ctx, "b", connectRequest())
		done <- err
	}()
	<-entered
	cancel()
	qt.Check(t, qt.ErrorIs(<-done, context.Canceled))
	qt.Check(t, qt.ErrorIs(<-left, context.Canceled))
}

func TestDeadline(t *testing.T) {
	ca, w := newAuthority(t), newWorld()
	s := serve(t, ca, w.handlers(), nil)
	p, _ := ask(t, ca, nil, s.addr)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	w.hold(func(ctx context.Context) error {
		if _, ok := ctx.Deadline(); !ok {
			return errors.New("the handler has no deadline")
		}
		<-ctx.Done()
		return ctx.Err()
	})
	eventually(t, "connected", func() bool { st, _ := p.Status("b"); return st.Connected })
	_, err := p.Connect(ctx, "b", connectRequest())
	var unreachable *UnreachableError
	qt.Assert(t, qt.ErrorAs(err, &unreachable), qt.Commentf("%v", err))
	qt.Check(t, qt.ErrorIs(err, context.DeadlineExceeded))
	qt.Check(t, qt.StringContains(err.Error(), "no answer in time"))
}

func TestIntroduce(t *testing.T) {
	ca, w := newAuthority(t), newWorld()
	s := serve(t, ca, w.handlers(), nil)
	p, _ := ask(t, ca, nil, s.addr)
	r := message.IntroduceRequest{Network: "default", Generation: 3}
	var invalid *message.InvalidError
	qt.Check(t, qt.ErrorAs(p.Introduce(t.Context(), "b", r), &invalid)) // of nothing
	for a := netip.MustParseAddr("2001:db8::1"); len(r.Endpoints) < message.MaxIntroduce; a = a.Next() {
		r.Endpoints = append(r.Endpoints, message.Endpoint{Address: a, Epoch: 1 << 60})
	}
	qt.Assert(t, qt.IsNil(p.Introduce(t.Context(), "b", r)))
	qt.Check(t, qt.Equals(w.count("introduce"), 1))
	r.Endpoints = append(r.Endpoints, r.Endpoints[0])
	qt.Check(t, qt.ErrorAs(p.Introduce(t.Context(), "b", r), &invalid))
	qt.Check(t, qt.Equals(w.count("introduce"), 1))
}

func TestReconcile(t *testing.T) {
	ca, w := newAuthority(t), newWorld()
	s := serve(t, ca, w.handlers(), nil)
	p, _ := ask(t, ca, nil, s.addr)

	// Three parts of a table.
	ours := message.Table{Network: "default", Channel: &message.Channel{
		Module: "tunnel", Local: netip.MustParseAddrPort("192.0.2.1:4789"), Remote: netip.MustParseAddrPort("192.0.2.2:4789"), MTU: 1420, Generation: 3,
	}}
	for a := netip.MustParseAddr("10.77.1.1"); len(ours.Routes) < 2500; a = a.Next() {
		ours.Routes = append(ours.Routes, message.Route{Address: a, Owner: []string{"a", "b"}[len(ours.Routes)%2], Epoch: uint64(1 + len(ours.Routes))})
	}
	merged, equal, err := p.Reconcile(t.Context(), "b", ours)
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.IsFalse(equal))
	qt.Check(t, qt.IsTrue(slices.Equal(merged.Routes, ours.Routes)))
	qt.Check(t, qt.Equals(merged.Channel.Local, ours.Channel.Local))
	qt.Check(t, qt.Equals(w.table.Channel.Local, ours.Channel.Remote)) // as the other host sees it
	qt.Check(t, qt.Equals(w.count("reconcile"), 1))

	// Now both have the same: one round trip.
	_, equal, err = p.Reconcile(t.Context(), "b", ours)
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.IsTrue(equal))
	qt.Check(t, qt.Equals(w.count("reconcile"), 1))

	// Nothing at all is a table, too.
	merged, equal, err = p.Reconcile(t.Context(), "b", message.Table{Network: "default"})
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.IsFalse(equal))
	qt.Check(t, qt.IsNil(merged.Channel))
	qt.Check(t, qt.HasLen(merged.Routes, 0))
}

func TestProbe(t *testing.T) {
	ca := newAuthority(t)
	s := serve(t, ca, Handlers{}, nil)
	p, _ := ask(t, ca, nil, s.addr)
	for _, padding := range []int{0, 9000, MaxPadding} {
		r, err := p.Probe(t.Context(), "b", Address{To: s.addr, From: netip.MustParseAddr("127.0.0.1"), Device: "lo"}, padding)
		qt.Assert(t, qt.IsNil(err), qt.Commentf("%d bytes", padding))
		qt.Check(t, qt.Equals(r.MTU, 65535))
		qt.Check(t, qt.IsTrue(r.RoundTrip > 0))
	}
	_, err := p.Probe(t.Context(), "c", Address{To: s.addr}, 0)
	var unreachable *UnreachableError
	qt.Assert(t, qt.ErrorAs(err, &unreachable))
	_, err = p.Probe(t.Context(), "b", Address{To: s.addr, Device: "nonesuch"}, 0)
	qt.Check(t, qt.ErrorMatches(err, fmt.Sprintf("host b can't be reached: %v by nonesuch: .*use interface nonesuch: no such device", s.addr)))
}

func TestJoin(t *testing.T) {
	ca, w := newAuthority(t), newWorld()
	s := serve(t, ca, w.handlers(), nil)
	o := JoinOptions{Addresses: to(s.addr), TLS: ca.client()("b")}
	r := message.JoinRequest{
		ID: message.NewID(), TokenID: "t1", Secret: []byte("secret"), Host: "c", CSR: []byte("csr"), Version: "1.2.3",
		Addresses: []message.HostAddress{{AddrPort: netip.MustParseAddrPort("192.0.2.3:7077"), Priority: 1}},
	}
	for range 2 { // the second one gets the answer of the first
		j, err := Join(t.Context(), o, r)
		qt.Assert(t, qt.IsNil(err))
		qt.Check(t, qt.DeepEquals(j, message.Joined{
			Credentials:  message.Credentials{Chain: []byte("chain of csr"), Authorities: []byte("ca")},
			Installation: "i", Directory: []string{"https://192.0.2.1:2379"},
		}))
	}
	qt.Check(t, qt.Equals(w.count("join"), 1))
	qt.Check(t, qt.Equals(w.lastCall.Address.Addr(), netip.MustParseAddr("127.0.0.1")))
	qt.Check(t, qt.Equals(w.lastCall.Host, ""))

	r.ID, r.Protocols = message.ID{}, message.Range{Min: 8, Max: 9}
	_, versionErr := Join(t.Context(), o, r)
	var version *message.VersionError
	qt.Assert(t, qt.ErrorAs(versionErr, &version))
	qt.Check(t, qt.Equals(version.Ours, r.Protocols))
	r.Protocols = message.Range{}

	r.ID, r.Secret = message.ID{}, []byte("wrong")
	_, err := Join(t.Context(), o, r)
	var refused *message.RefusedError
	qt.Assert(t, qt.ErrorAs(err, &refused))
	qt.Check(t, qt.Equals(refused.Hint, "make a new one: snapctl host invite"))
	qt.Check(t, qt.StringContains(err.Error(), "host at "+s.addr.String()+" refuses: the token is not valid"))
}
