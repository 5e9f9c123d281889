package control

import (
	"fmt"
	"testing"

	"github.com/go-quicktest/qt"

	"github.com/snapctl/snapctl/vem/control/message"
)

// Old and new hosts use the newest version that both know.
func TestVersions(t *testing.T) {
	ca := newAuthority(t)
	tests := []struct {
		client, server message.Range
		want           uint32 // 0: none
	}{
		{message.Range{Min: 1, Max: 1}, message.Range{Min: 1, Max: 2}, 1},
		{message.Range{Min: 1, Max: 2}, message.Range{Min: 1, Max: 1}, 1},
		{message.Range{Min: 1, Max: 2}, message.Range{Min: 1, Max: 2}, 2},
		{message.Range{Min: 1, Max: 3}, message.Range{Min: 2, Max: 5}, 3},
		{message.Range{Min: 1, Max: 1}, message.Range{Min: 2, Max: 2}, 0},
		{message.Range{Min: 2, Max: 2}, message.Range{Min: 1, Max: 1}, 0},
	}
	for _, test := range tests {
		t.Run(fmt.Sprintf("%v to %v", test.client, test.server), func(t *testing.T) {
			w := newWorld()
			s := serve(t, ca, w.handlers(), func(o *ServerOptions) { o.Self.Protocols = test.server; o.Self.Version = "1.9" })
			p, log := ask(t, ca, func(o *PeersOptions) { o.Self.Protocols = test.client }, s.addr)
			_, err := p.Connect(t.Context(), "b", connectRequest())
			if test.want != 0 {
				qt.Assert(t, qt.IsNil(err))
				qt.Check(t, qt.Equals(w.lastCall.Protocol, test.want))
				return
			}
			var version *message.VersionError
			qt.Assert(t, qt.ErrorAs(err, &version))
			qt.Check(t, qt.Equals(*version, message.VersionError{Host: "b", Ours: test.client, Theirs: test.server, OurVersion: "1.2.3", TheirVersion: "1.9"}))
			qt.Check(t, qt.Not(qt.Equals(version.Remedy(), "")))
			st, _ := p.Status("b")
			qt.Check(t, qt.IsFalse(st.Connected))
			qt.Check(t, qt.ErrorAs(st.Err, &version))
			for who, l := range map[string]*logs{"a": log, "b": s.logs} {
				eventually(t, "it is in the log of "+who, func() bool { return line(l.String(), "have none in common", "1.9", "1.2.3") != "" })
			}
		})
	}
}

// A host that was started again with another snapctl is asked anew what it speaks.
func TestVersionChanges(t *testing.T) {
	ca, w := newAuthority(t), newWorld()
	newer := func(o *ServerOptions) { o.Self.Protocols = message.Range{Min: 2, Max: 2}; o.Self.Boot = "second" }
	first := serve(t, ca, w.handlers(), func(o *ServerOptions) { o.Self.Protocols = message.Range{Min: 1, Max: 1} })
	second := serve(t, ca, w.handlers(), newer)
	p, _ := ask(t, ca, func(o *PeersOptions) { o.Self.Protocols = message.Range{Min: 1, Max: 2} }, first.addr)
	_, err := p.Connect(t.Context(), "b", connectRequest())
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.IsNil(p.Set("b", to(second.addr))))
	_, err = p.Connect(t.Context(), "b", connectRequest())
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.Equals(w.lastCall.Protocol, uint32(2)))
	eventually(t, "it was greeted", func() bool { st, _ := p.Status("b"); return st.Greeting.Boot == "second" })
}
