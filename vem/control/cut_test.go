package control

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/go-quicktest/qt"

	"github.com/snapctl/snapctl/vem/control/message"
)

// effect is a call whose effect has to happen once.
type effect struct {
	name string // what the world counts
	ask  func(ctx context.Context, p *Peers, id message.ID) error
}

func effects() []effect {
	table := message.Table{Network: "default"}
	for a := netip.MustParseAddr("10.77.1.1"); len(table.Routes) < 1500; a = a.Next() {
		table.Routes = append(table.Routes, message.Route{Address: a, Owner: "a", Epoch: 1})
	}
	return []effect{
		{"connect", func(ctx context.Context, p *Peers, id message.ID) error {
			r := connectRequest()
			r.ID = id
			ch, err := p.Connect(ctx, "b", r)
			if err == nil && ch.Generation != r.Generation {
				return fmt.Errorf("got another answer: %v", ch)
			}
			return err
		}},
		{"switch", func(ctx context.Context, p *Peers, id message.ID) error {
			_, err := p.Switch(ctx, "b", message.SwitchRequest{ID: id, Network: "default", Offers: connectRequest().Offers, Generation: 12})
			return err
		}},
		{"disconnect", func(ctx context.Context, p *Peers, id message.ID) error {
			return p.Disconnect(ctx, "b", message.DisconnectRequest{ID: id, Network: "default", Generation: 13})
		}},
		{"renew", func(ctx context.Context, p *Peers, id message.ID) error {
			_, err := p.Renew(ctx, "b", id, []byte("csr"))
			return err
		}},
		{"tables", func(ctx context.Context, p *Peers, _ message.ID) error {
			merged, _, err := p.Reconcile(ctx, "b", table)
			if err == nil && merged.Digest("a", "b") != table.Digest("a", "b") {
				return errors.New("got another table")
			}
			return err
		}},
	}
}

// A connection that is cut, stalled or delayed at any record leaves both sides right: the call is
// made again after it has healed, and its effect happens once.
func TestCutAnywhere(t *testing.T) {
	ca := newAuthority(t)
	client := ca.client(ca.certificate("a", time.Hour))
	for i, e := range effects() {
		for _, tr := range []trouble{cutBefore, cutWithin, stall, delay} {
			if tr >= stall && i%4 != 0 {
				continue // one of each kind is enough
			}
			for _, answers := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s/%v/answers=%t", e.name, tr, answers), func(t *testing.T) {
					w := newWorld()
					s := serve(t, ca, w.handlers(), nil)
					struck := 0
					for n := 0; n <= struck; n++ {
						before := w.count(e.name)
						w.forget()
						px := &proxy{to: s.addr, trouble: tr, record: n, answers: answers}
						p, _ := ask(t, ca, func(o *PeersOptions) { o.TLS = client }, startProxy(t, px))
						askUntilDone(t, e, p, px)
						if e.name != "tables" {
							qt.Assert(t, qt.Equals(w.count(e.name), before+1), qt.Commentf("record %d", n))
						}
						if px.hasStruck() {
							struck++
						}
						p.Close()
					}
					t.Logf("%d records", struck)
					qt.Check(t, qt.IsTrue(struck > 5), qt.Commentf("%d", struck))
				})
			}
		}
	}
}

// askUntilDone asks as a caller does that is told that a host can't be reached: again, under the
// same ID.
func askUntilDone(t *testing.T, e effect, p *Peers, px *proxy) {
	t.Helper()
	id := message.NewID()
	within := 100 * time.Millisecond // too short for a stalled connection, and maybe for a loaded machine
	if px.trouble < stall {
		within = 5 * time.Second
	}
	for end := time.Now().Add(time.Minute); ; {
		ctx, cancel := context.WithTimeout(t.Context(), within)
		err := e.ask(ctx, p, id)
		cancel()
		if err == nil {
			return
		}
		var unreachable *UnreachableError
		qt.Assert(t, qt.ErrorAs(err, &unreachable), qt.Commentf("%v", err))
		qt.Assert(t, qt.IsTrue(time.Now().Before(end)))
		px.heal()
		within = 5 * time.Second
	}
}

// The answer of a token that was used is not lost with the connection.
func TestJoinIsCutAnywhere(t *testing.T) {
	ca, w := newAuthority(t), newWorld()
	s := serve(t, ca, w.handlers(), nil)
	for _, answers := range []bool{false, true} {
		struck := 0
		for n := 0; n <= struck; n++ {
			before := w.count("join")
			px := &proxy{to: s.addr, trouble: cutBefore, record: n, answers: answers}
			o := JoinOptions{Addresses: to(startProxy(t, px)), TLS: ca.client()("b")}
			r := message.JoinRequest{
				ID: message.NewID(), TokenID: "t1", Secret: []byte("secret"), Host: "c", CSR: []byte("csr"), Version: "1.2.3",
				Addresses: []message.HostAddress{{AddrPort: netip.MustParseAddrPort("192.0.2.3:7077")}},
			}
			_, err := Join(t.Context(), o, r)
			if err != nil {
				var unreachable *UnreachableError
				qt.Assert(t, qt.ErrorAs(err, &unreachable), qt.Commentf("%v", err))
				_, err = Join(t.Context(), o, r)
			}
			qt.Assert(t, qt.IsNil(err), qt.Commentf("record %d", n))
			qt.Assert(t, qt.Equals(w.count("join"), before+1), qt.Commentf("record %d", n))
			if px.hasStruck() {
				struck++
			}
		}
		qt.Check(t, qt.IsTrue(struck > 3), qt.Commentf("%d", struck))
	}
}

// A call that has reached the host, and whose handler takes its time, is not done twice when the
// connection is lost meanwhile: the same call waits for it.
func TestCutDuringHandler(t *testing.T) {
	ca, w := newAuthority(t), newWorld()
	s := serve(t, ca, w.handlers(), nil)
	px := &proxy{to: s.addr, record: -1}
	p, _ := ask(t, ca, nil, startProxy(t, px))
	entered, goOn := make(chan struct{}, 10), make(chan struct{})
	w.hold(func(context.Context) error { entered <- struct{}{}; <-goOn; return nil })
	done := make(chan error, 1)
	go func() {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		_, err := p.Connect(ctx, "b", connectRequest())
		done <- err
	}()
	<-entered
	st, _ := p.Status("b")
	qt.Assert(t, qt.IsTrue(st.Connected))
	px.cut()
	eventually(t, "connected again", func() bool {
		again, _ := p.Status("b")
		return again.Connected && again.Since.After(st.Since)
	})
	close(goOn)
	qt.Check(t, qt.IsNil(<-done))
	qt.Check(t, qt.Equals(w.count("connect"), 1))
}
