package probe

import (
	"crypto/tls"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/go-quicktest/qt"
)

var (
	alpha = netip.MustParseAddr("192.0.2.1")
	beta  = netip.MustParseAddr("192.0.2.2")
)

func TestPacket(t *testing.T) {
	k := Key{Name: KeyName{1, 2, 3}, secret: [32]byte{4}}
	for _, p := range []packet{
		{kind: ask, key: k.Name, number: 1, size: headerSize},
		{kind: ask, key: k.Name, number: 1<<64 - 1, size: 1472},
		{kind: answer, key: k.Name, number: 7, size: 1472},
	} {
		b := seal(p, k, ends{alpha, beta})
		got, ok := parse(b)
		qt.Assert(t, qt.IsTrue(ok))
		qt.Check(t, qt.Equals(got, p))
		qt.Check(t, qt.IsTrue(genuine(b, k, ends{alpha, beta})))
		qt.Check(t, qt.IsFalse(genuine(b, k, ends{beta, alpha})))
		qt.Check(t, qt.IsFalse(genuine(b, Key{Name: k.Name}, ends{alpha, beta})))
		for i := range headerSize {
			bad := slices.Clone(b)
			bad[i] ^= 1
			_, ok := parse(bad)
			qt.Check(t, qt.IsFalse(ok && genuine(bad, k, ends{alpha, beta})), qt.Commentf("byte %d", i))
		}
		_, ok = parse(b[:len(b)-1])
		qt.Check(t, qt.IsFalse(ok))
		_, ok = parse(append(b, 0))
		qt.Check(t, qt.IsFalse(ok))
	}
}

// Nobody but the host that has the key is answered, by its own way and once.
func TestStrangers(t *testing.T) {
	k := Key{Name: KeyName{1}, secret: [32]byte{1}}
	good := seal(packet{kind: ask, key: k.Name, number: 5, size: 100}, k, ends{alpha, beta})
	other := Key{Name: k.Name, secret: [32]byte{2}}
	now := time.Unix(1, 0)
	at := func(a netip.Addr) netip.AddrPort { return netip.AddrPortFrom(a, 7077) }
	b := newBook(time.Second)
	b.answerTo("a", k)
	for name, test := range map[string]struct {
		data []byte
		from netip.Addr
	}{
		"nothing":      {nil, alpha},
		"garbage":      {make([]byte, 2000), alpha},
		"other source": {good, netip.MustParseAddr("192.0.2.9")},
		"other key":    {seal(packet{kind: ask, number: 5, size: 100}, Key{Name: KeyName{2}, secret: k.secret}, ends{alpha, beta}), alpha},
		"other secret": {seal(packet{kind: ask, key: k.Name, number: 5, size: 100}, other, ends{alpha, beta}), alpha},
		"an answer":    {seal(packet{kind: answer, key: k.Name, number: 5, size: 100}, k, ends{alpha, beta}), alpha},
		"number 0":     {seal(packet{kind: ask, key: k.Name, size: 100}, k, ends{alpha, beta}), alpha},
	} {
		_, ok := b.receive(test.data, beta, at(test.from), now)
		qt.Check(t, qt.IsFalse(ok), qt.Commentf(name))
	}
	_, ok := b.receive(good, alpha, at(alpha), now) // at another address of the host
	qt.Check(t, qt.IsFalse(ok))
	d, ok := b.receive(good, beta, at(alpha), now)
	qt.Assert(t, qt.IsTrue(ok))
	qt.Check(t, qt.HasLen(d.data, headerSize))
	qt.Check(t, qt.Equals(d.to, at(alpha)))
	qt.Check(t, qt.Equals(d.from, beta))
	_, ok = b.receive(good, beta, at(alpha), now)
	qt.Check(t, qt.IsFalse(ok), qt.Commentf("the same ask again"))
	_, ok = b.receive(d.data, beta, at(alpha), now)
	qt.Check(t, qt.IsFalse(ok), qt.Commentf("its own answer"))
}

// Who asks too much is not answered.
func TestFlood(t *testing.T) {
	k := Key{Name: KeyName{1}}
	b := newBook(time.Second)
	b.answerTo("a", k)
	answered := 0
	for n := range uint64(20_000) {
		if _, ok := b.receive(seal(packet{kind: ask, key: k.Name, number: n + 1, size: headerSize}, k, ends{alpha, beta}), beta, netip.AddrPortFrom(alpha, 1), time.Unix(1, 0)); ok {
			answered++
		}
	}
	qt.Check(t, qt.Equals(answered, 4096))
}

// Answers that were not asked for, came before, or came by another way change nothing.
func TestForgedAnswers(t *testing.T) {
	w := newWorld(t, 1, 2)
	w.run(3*time.Second, nil)
	list, _ := w.a.tick(w.now.Add(time.Second))
	qt.Assert(t, qt.Equals(len(list), 2))
	asked, _ := parse(list[0].data)
	local, remote := list[0].from, list[0].to
	k := w.a.peers["b"].key
	before := w.a.peers["b"].ways[0].health.asked
	for name, d := range map[string][]byte{
		"other number": seal(packet{kind: answer, key: k.Name, number: asked.number + 100, size: asked.size}, k, ends{local, remote.Addr()}),
		"other size":   seal(packet{kind: answer, key: k.Name, number: asked.number, size: asked.size + 1}, k, ends{local, remote.Addr()}),
		"other way":    seal(packet{kind: answer, key: k.Name, number: asked.number, size: asked.size}, k, ends{list[1].from, list[1].to.Addr()}),
		"other secret": seal(packet{kind: answer, key: k.Name, number: asked.number, size: asked.size}, Key{Name: k.Name}, ends{local, remote.Addr()}),
		"the ask":      list[0].data,
	} {
		_, ok := w.a.receive(d, local, remote, w.now)
		qt.Check(t, qt.IsFalse(ok), qt.Commentf(name))
		qt.Check(t, qt.Equals(w.a.peers["b"].ways[0].health.asked, before), qt.Commentf(name))
	}
	good := seal(packet{kind: answer, key: k.Name, number: asked.number, size: asked.size}, k, ends{local, remote.Addr()})
	for range 2 {
		w.a.receive(good, local, remote, w.now)
		qt.Check(t, qt.Equals(w.a.peers["b"].ways[0].health.asked, before+1))
	}
}

func TestWindow(t *testing.T) {
	var w window
	for _, step := range []struct {
		number uint64
		want   bool
	}{
		{0, false},
		{1, true},
		{1, false},
		{3, true},
		{2, true},
		{2, false},
		{3, false},
		{1000, true},
		{500, true},
		{500, false},
		{1026, true},
		{2, false},
		{3, false},
		{4, true},
		{4, false},
		{5000, true},
		{5000 - windowSize, false},
		{5000 - windowSize + 1, true},
		{4999, true},
		{4999, false},
		{1 << 40, true},
		{5000, false},
		{1<<40 - 1, true},
		{1<<64 - 1, true},
		{1<<64 - 1, false},
		{1<<64 - 2, true},
		{1 << 40, false},
	} {
		qt.Check(t, qt.Equals(w.add(step.number), step.want), qt.Commentf("%d", step.number))
	}
}

func TestNoKeyWithoutConnection(t *testing.T) {
	_, err := NewKey(tls.ConnectionState{})
	qt.Check(t, qt.ErrorMatches(err, "make a key for probes: .*"))
}

// What anybody may send is answered with less, or not at all.
func FuzzReceive(f *testing.F) {
	k := Key{Name: KeyName{1}, secret: [32]byte{1}}
	e := ends{alpha, beta}
	f.Add([]byte(nil))
	f.Add(seal(packet{kind: ask, key: k.Name, number: 1, size: headerSize}, k, e))
	f.Add(seal(packet{kind: ask, key: k.Name, number: 9, size: 1472}, k, e))
	f.Add(seal(packet{kind: answer, key: k.Name, number: 1, size: 1472}, k, e))
	f.Fuzz(func(t *testing.T, data []byte) {
		p, ok := parse(data)
		if ok && (p.size < headerSize || p.kind == ask && p.size != len(data) || p.kind != ask && p.kind != answer) {
			t.Errorf("read %+v of %d bytes", p, len(data))
		}
		b := newBook(time.Second)
		b.answerTo("a", k)
		b.askBy("a", k)
		d, ok := b.receive(data, beta, netip.AddrPortFrom(alpha, 1), time.Unix(1, 0))
		if !ok {
			return
		}
		if len(d.data) > len(data) {
			t.Errorf("answered %d bytes with %d", len(data), len(d.data))
		}
		if !genuine(data, k, e) {
			t.Error("answered a stranger")
		}
	})
}
