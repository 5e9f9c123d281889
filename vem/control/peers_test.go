package control

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/go-quicktest/qt"

	"github.com/snapctl/snapctl/vem/control/message"
)

// closedPort returns an address where nobody listens.
func closedPort(t *testing.T) netip.AddrPort {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	qt.Assert(t, qt.IsNil(err))
	defer ln.Close()
	return addrPort(ln.Addr())
}

// silent returns an address where nobody answers.
func silent(t *testing.T) netip.AddrPort {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	qt.Assert(t, qt.IsNil(err))
	t.Cleanup(func() { ln.Close() })
	return addrPort(ln.Addr())
}

func TestTheFirstAddressThatAnswers(t *testing.T) {
	ca, w := newAuthority(t), newWorld()
	s := serve(t, ca, w.handlers(), nil)
	third := s.listen(t)
	p, _ := ask(t, ca, nil, closedPort(t), silent(t), third, s.addr)
	_, err := p.Connect(t.Context(), "b", connectRequest())
	qt.Assert(t, qt.IsNil(err))
	st, _ := p.Status("b")
	qt.Check(t, qt.Equals(st.Address.To, third))
	// The kernel chooses another local port for another connection, as is to be seen here.
	qt.Check(t, qt.IsTrue(w.lastCall.Address.Port() != 0))
}

func TestUnreachable(t *testing.T) {
	ca := newAuthority(t)
	one, two := closedPort(t), closedPort(t)
	p, _ := ask(t, ca, nil, one, two)
	err := askedOnce(t, p)
	var unreachable *UnreachableError
	qt.Assert(t, qt.ErrorAs(err, &unreachable))
	qt.Assert(t, qt.HasLen(unreachable.Tried, 2))
	qt.Check(t, qt.Equals(unreachable.Tried[0].Address.To, one))
	qt.Check(t, qt.Equals(unreachable.Tried[1].Address.To, two))
	qt.Check(t, qt.StringContains(err.Error(), "connection refused; "+two.String()))
	qt.Check(t, qt.Equals(unreachable.Remedy(), "start snapctld on b"))
	_, err = p.Open(t.Context(), "b", "move", nil)
	qt.Check(t, qt.ErrorAs(err, &unreachable))

	// Later calls fail at once, while it is tried again now and then.
	askedOnce(t, p)
	p.Remove("b")
	p.Remove("b")
	qt.Check(t, qt.ErrorMatches(askedOnce(t, p), "host b can't be reached: no address of it is known"))
	_, ok := p.Status("b")
	qt.Check(t, qt.IsFalse(ok))
}

// A host whose address is not known yet is waited for.
func TestNoAddressYet(t *testing.T) {
	ca, w := newAuthority(t), newWorld()
	s := serve(t, ca, w.handlers(), nil)
	p, _ := ask(t, ca, nil)
	var unreachable *UnreachableError
	qt.Check(t, qt.ErrorAs(askedOnce(t, p), &unreachable))
	qt.Check(t, qt.Equals(unreachable.Remedy(), "wait until the directory tells an address of b"))
	qt.Assert(t, qt.IsNil(p.Set("b", to(s.addr))))
	_, err := p.Connect(t.Context(), "b", connectRequest())
	qt.Check(t, qt.IsNil(err))
}

// The host is found again after it was gone, and the user is told.
func TestHostComesBack(t *testing.T) {
	ca, w := newAuthority(t), newWorld()
	first := serve(t, ca, w.handlers(), nil)
	var mu sync.Mutex
	var told []bool
	p, _ := ask(t, ca, func(o *PeersOptions) {
		o.Changed = func(s Status) {
			mu.Lock()
			defer mu.Unlock()
			told = append(told, s.Connected)
		}
	}, first.addr)
	_, err := p.Connect(t.Context(), "b", connectRequest())
	qt.Assert(t, qt.IsNil(err))
	first.Close()
	eventually(t, "the host is gone", func() bool { st, _ := p.Status("b"); return st.Err != nil })
	qt.Check(t, qt.ErrorMatches(askedOnce(t, p), ".*connection refused"))

	second := serve(t, ca, w.handlers(), func(o *ServerOptions) { o.Self.Boot = "second" })
	qt.Assert(t, qt.IsNil(p.Set("b", to(first.addr, second.addr))))
	_, err = p.Connect(t.Context(), "b", connectRequest())
	qt.Assert(t, qt.IsNil(err))
	eventually(t, "told", func() bool {
		mu.Lock()
		defer mu.Unlock()
		return len(told) >= 3 && told[0] && !told[1] && told[len(told)-1]
	})
}

// An address goes away in the middle of a call: the call goes on over another one.
func TestAddressGoesAwayDuringACall(t *testing.T) {
	ca, w := newAuthority(t), newWorld()
	s := serve(t, ca, w.handlers(), nil)
	other := s.listen(t)
	p, _ := ask(t, ca, nil, s.addr)
	entered := make(chan struct{}, 1)
	w.hold(func(ctx context.Context) error {
		w.hold(nil)
		entered <- struct{}{}
		<-ctx.Done()
		return ctx.Err()
	})
	done := make(chan error, 1)
	go func() {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		_, err := p.Connect(ctx, "b", connectRequest())
		done <- err
	}()
	<-entered
	qt.Assert(t, qt.IsNil(p.Set("b", to(s.addr, other)))) // still there: nothing happens
	qt.Assert(t, qt.IsNil(p.Set("b", to(other))))
	qt.Check(t, qt.IsNil(<-done))
	qt.Check(t, qt.Equals(w.count("connect"), 1))
	st, _ := p.Status("b")
	qt.Check(t, qt.Equals(st.Address.To, other))
}

func TestBadAddresses(t *testing.T) {
	p, _ := ask(t, newAuthority(t), nil)
	good := netip.MustParseAddrPort("192.0.2.1:7077")
	for want, addrs := range map[string][]Address{
		".*has no port": {{To: netip.MustParseAddrPort("192.0.2.1:0")}},
		".*no address that a host or an endpoint can have": {{To: netip.MustParseAddrPort("224.0.0.1:7077")}},
		".*is of another family than 192.0.2.1:7077":       {{To: good, From: netip.MustParseAddr("2001:db8::1")}},
		".*is too long":                          {{To: good, Device: "abcdefghijklmnop"}},
		".*has 17 entries, and may have 0 to 16": make([]Address, 17),
	} {
		qt.Check(t, qt.ErrorMatches(p.Set("c", addrs), want))
	}
	qt.Check(t, qt.ErrorMatches(p.Set("no/host", nil), ".*is no name of a host.*"))
	qt.Check(t, qt.Equals(Address{To: good, From: netip.MustParseAddr("192.0.2.9"), Device: "eth1"}.String(), "192.0.2.1:7077 from 192.0.2.9 by eth1"))
	p.Close()
	qt.Check(t, qt.ErrorIs(p.Set("c", nil), context.Canceled))
}

// Who asks more often than a host may is slowed down, and not refused.
func TestBusyIsWaitedFor(t *testing.T) {
	ca, w := newAuthority(t), newWorld()
	s := serve(t, ca, w.handlers(), func(o *ServerOptions) { o.Limits.PerSecond = 100; o.Limits.Burst = 2 })
	p, _ := ask(t, ca, nil, s.addr)
	var wait sync.WaitGroup
	for range 20 {
		wait.Go(func() {
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			_, err := p.Connect(ctx, "b", connectRequest())
			qt.Check(t, qt.IsNil(err))
		})
	}
	wait.Wait()
	qt.Check(t, qt.Equals(w.count("connect"), 20))

	slow := serve(t, ca, w.handlers(), func(o *ServerOptions) { o.Limits.PerSecond = 0.001; o.Limits.Burst = 1 })
	p, _ = ask(t, ca, nil, slow.addr)
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	eventually(t, "greeted", func() bool { st, _ := p.Status("b"); return st.Connected })
	_, err := p.Connect(ctx, "b", connectRequest())
	if ctx.Err() == nil {
		t.Errorf("not waited for: %v", err)
	}
	var refused *message.RefusedError
	var unreachable *UnreachableError // on a machine that is loaded
	qt.Check(t, qt.IsTrue(errors.As(err, &refused) || errors.As(err, &unreachable)), qt.Commentf("%v", err))
}
