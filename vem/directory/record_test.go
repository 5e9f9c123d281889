package directory

import (
	"encoding/json"
	"net/netip"
	"strings"
	"testing"

	"github.com/go-quicktest/qt"

	"github.com/snapctl/snapctl/vem/directory/codec"
)

// examples are one record of each kind, with the name of its entry.
func examples() map[Kind]struct {
	name string
	r    codec.Record
} {
	addr := netip.MustParseAddr("10.77.0.2")
	return map[Kind]struct {
		name string
		r    codec.Record
	}{
		KindMeta:     {"", &Meta{ID: "x", MadeBy: "a"}},
		KindHost:     {"a", &Host{Name: "a", Key: "k", Protocols: [2]int{1, 2}, Underlays: []Underlay{{Addr: addr}}}},
		KindSession:  {"a", &sessionRecord{Host: "a", ID: "x"}},
		KindSeen:     {"a", &mark{Host: "a"}},
		KindMade:     {"a", &mark{Host: "a"}},
		KindNetwork:  {"n", &Network{Name: "n", Prefix4: netip.MustParsePrefix("10.77.0.0/16"), Prefix6: netip.MustParsePrefix("fd77::/64"), BlockBits: 26}},
		KindNetworks: {"", &networksRecord{Last: "n"}},
		KindBlock:    {"n/10.77.0.0", &Block{Network: "n", Prefix: netip.MustParsePrefix("10.77.0.0/26"), Host: "a"}},
		KindEndpoint: {"n/10.77.0.2", &Endpoint{Network: "n", Addr: addr, ID: "x", App: "c", Owner: "a", Epoch: 3, State: Moving, Target: "b", TakenFrom: "d"}},
		KindApp:      {"c", &appRecord{Network: "n", Addr: addr, ID: "x"}},
		KindRestored: {"", &Restoration{ID: "x", By: "a"}},
	}
}

// blank is a record of a kind with nothing in it.
func blank(k Kind) codec.Record {
	switch k {
	case KindMeta:
		return new(Meta)
	case KindHost:
		return new(Host)
	case KindSession:
		return new(sessionRecord)
	case KindMade, KindSeen:
		return new(mark)
	case KindNetwork:
		return new(Network)
	case KindNetworks:
		return new(networksRecord)
	case KindBlock:
		return new(Block)
	case KindEndpoint:
		return new(Endpoint)
	case KindApp:
		return new(appRecord)
	case KindRestored:
		return new(Restoration)
	}
	return nil
}

func TestRecords(t *testing.T) {
	for kind, e := range examples() {
		b, err := codec.Encode(e.r)
		qt.Assert(t, qt.IsNil(err))
		qt.Check(t, qt.IsTrue(strings.HasPrefix(string(b), `{"version":1`)), qt.Commentf("%s", b))
		got := blank(kind)
		qt.Assert(t, qt.IsNil(codec.Decode(e.name, b, got)), qt.Commentf("%s", b))
		again, err := codec.Encode(got)
		qt.Assert(t, qt.IsNil(err))
		qt.Check(t, qt.Equals(string(again), string(b)))
		// A field that a later snapctl has added is passed over; a later version is refused.
		more := strings.Replace(string(b), "{", `{"colour":"blue",`, 1)
		qt.Check(t, qt.IsNil(codec.Decode(e.name, []byte(more), blank(kind))))
		newer := strings.Replace(string(b), `"version":1`, `"version":2`, 1)
		err = codec.Decode(e.name, []byte(newer), blank(kind))
		qt.Check(t, qt.ErrorIs(err, codec.ErrNewer))
		qt.Check(t, qt.ErrorMatches(err, "read directory record .*: version 2, this snapctl reads 1: a newer version of snapctl has written it: .*"))
		if e.name != "" && kind != KindApp {
			qt.Check(t, qt.ErrorIs(codec.Decode("else", b, blank(kind)), codec.ErrRecord), qt.Commentf("%s", b))
		}
		qt.Check(t, qt.ErrorIs(codec.Decode(e.name, []byte(`{"version":0}`), blank(kind)), codec.ErrRecord))
		qt.Check(t, qt.ErrorIs(codec.Decode(e.name, append(b, strings.Repeat(" ", codec.MaxSize)...), blank(kind)), codec.ErrRecord))
	}
}

func TestEndpointRecords(t *testing.T) {
	good := examples()[KindEndpoint]
	for name, change := range map[string]func(e *Endpoint){
		"epoch 0":           func(e *Endpoint) { e.Epoch = 0 },
		"no target":         func(e *Endpoint) { e.Target = "" },
		"target of no move": func(e *Endpoint) { e.State = Held },
		"no state":          func(e *Endpoint) { e.State, e.Target = "", "" },
		"state":             func(e *Endpoint) { e.State, e.Target = "gone", "" },
		"owner":             func(e *Endpoint) { e.Owner = "a/b" },
		"no id":             func(e *Endpoint) { e.ID = "" },
		"taken from":        func(e *Endpoint) { e.TakenFrom = "a b" },
		"another network":   func(e *Endpoint) { e.Network = "m" },
		"another address":   func(e *Endpoint) { e.Addr = e.Addr.Next() },
	} {
		b, err := json.Marshal(good.r)
		qt.Assert(t, qt.IsNil(err))
		var e Endpoint
		qt.Assert(t, qt.IsNil(json.Unmarshal(b, &e)))
		qt.Assert(t, qt.IsNil(e.Validate(good.name)))
		change(&e)
		qt.Check(t, qt.IsNotNil(e.Validate(good.name)), qt.Commentf("%s", name))
	}
}

func TestKeys(t *testing.T) {
	k := keysOf("lab")
	for kind, e := range examples() {
		gotKind, name, ok := k.parse(k.of(kind, e.name))
		qt.Check(t, qt.IsTrue(ok))
		qt.Check(t, qt.Equals(gotKind, kind))
		qt.Check(t, qt.Equals(name, e.name))
	}
	for _, key := range []string{"", "/snapctl/lab", "/snapctl/lab/", "/snapctl/lab/host/", "/snapctl/lab/host", "/snapctl/lab/later/x", "/snapctl/other/meta", "meta"} {
		_, _, ok := k.parse(key)
		qt.Check(t, qt.IsFalse(ok), qt.Commentf("%s", key))
	}
}

// Whatever is in the store, reading it ends in a record that can be written again, or an error.
func FuzzRecord(f *testing.F) {
	for kind, e := range examples() {
		b, err := codec.Encode(e.r)
		qt.Assert(f, qt.IsNil(err))
		f.Add(string(kind), e.name, b)
	}
	f.Add("endpoint/", "n/10.77.0.2", []byte(`{"version":1,"addr":"10.77.0.2","network":"n","epoch":-1}`))
	f.Add("host/", "a", []byte(`{"version":99999999999999999999}`))
	f.Fuzz(func(t *testing.T, kind, name string, b []byte) {
		r := blank(Kind(kind))
		if r == nil || codec.Decode(name, b, r) != nil {
			return
		}
		again, err := codec.Encode(r)
		if err != nil {
			t.Fatalf("%s: %v", b, err)
		}
		if err := codec.Decode(name, again, blank(Kind(kind))); err != nil && len(again) <= codec.MaxSize {
			t.Fatalf("%s became %s: %v", b, again, err)
		}
	})
}
