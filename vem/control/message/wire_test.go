package message

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/go-quicktest/qt"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	pb "github.com/snapctl/snapctl/vem/control/controlpb"
	"github.com/snapctl/snapctl/vem/control/limit"
)

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }

func underlay(s string) netip.AddrPort { return netip.MustParseAddrPort(s) }

func goodConnect() ConnectRequest {
	return ConnectRequest{
		ID: NewID(), Network: "default",
		Source: Endpoint{Address: addr("10.77.0.2"), Epoch: 1}, Wanted: Endpoint{Address: addr("10.77.0.3"), Epoch: 1},
		Offers:     []Offer{{Module: "tunnel", Underlay: []netip.AddrPort{underlay("192.0.2.1:4789")}, MTU: 1420}},
		Generation: 1,
	}
}

func TestBadRequestsAreRefused(t *testing.T) {
	tests := map[string]struct {
		change func(*pb.ConnectRequest)
		want   string
	}{
		"no id":          {func(m *pb.ConnectRequest) { m.Call = nil }, "call is missing"},
		"short id":       {func(m *pb.ConnectRequest) { m.Call = m.Call[:15] }, "call is missing"},
		"no network":     {func(m *pb.ConnectRequest) { m.Network = "" }, `network "" is no name: .*`},
		"bad network":    {func(m *pb.ConnectRequest) { m.Network = "a/../b" }, `network "a/../b" is no name: .*`},
		"no source":      {func(m *pb.ConnectRequest) { m.Source = nil }, "source .* is no address that a host or an endpoint can have"},
		"five bytes":     {func(m *pb.ConnectRequest) { m.Source.Address = []byte{1, 2, 3, 4, 5} }, "source .* is no address .*"},
		"4in6":           {func(m *pb.ConnectRequest) { m.Source.Address = addr("::ffff:10.77.0.2").AsSlice() }, "source .* is no address .*"},
		"multicast":      {func(m *pb.ConnectRequest) { m.Wanted.Address = []byte{224, 0, 0, 1} }, "wanted 224.0.0.1 is no address .*"},
		"broadcast":      {func(m *pb.ConnectRequest) { m.Wanted.Address = []byte{255, 255, 255, 255} }, "wanted 255.255.255.255 is no address .*"},
		"any":            {func(m *pb.ConnectRequest) { m.Wanted.Address = []byte{0, 0, 0, 0} }, "wanted 0.0.0.0 is no address .*"},
		"no epoch":       {func(m *pb.ConnectRequest) { m.Wanted.Epoch = 0 }, "wanted epoch is missing"},
		"two families":   {func(m *pb.ConnectRequest) { m.Wanted.Address = addr("2001:db8::1").AsSlice() }, "wanted 2001:db8::1 is of another family than 10.77.0.2"},
		"no offers":      {func(m *pb.ConnectRequest) { m.Offers = nil }, "offers has 0 entries, and may have 1 to 8"},
		"many offers":    {func(m *pb.ConnectRequest) { m.Offers = make([]*pb.Offer, 100000) }, "offers has 9 entries, .*"},
		"no module":      {func(m *pb.ConnectRequest) { m.Offers[0].Module = "" }, `module "" is no name.*`},
		"no underlay":    {func(m *pb.ConnectRequest) { m.Offers[0].Underlay = nil }, "underlay has 0 entries, .*"},
		"many underlays": {func(m *pb.ConnectRequest) { m.Offers[0].Underlay = make([]*pb.UnderlayAddress, 10000) }, "underlay has 17 entries, .*"},
		"link-local":     {func(m *pb.ConnectRequest) { m.Offers[0].Underlay[0].Address = addr("fe80::1").AsSlice() }, "underlay fe80::1 is an address of one link only"},
		"port":           {func(m *pb.ConnectRequest) { m.Offers[0].Underlay[0].Port = 65536 }, "underlay .* is no address .*"},
		"small mtu":      {func(m *pb.ConnectRequest) { m.Offers[0].Mtu = 100 }, "mtu 100 is not between 576 and 65535"},
		"large mtu":      {func(m *pb.ConnectRequest) { m.Offers[0].Mtu = 1 << 31 }, "mtu 65536 is not between 576 and 65535"},
		"parameters":     {func(m *pb.ConnectRequest) { m.Offers[0].Parameters = make([]byte, 1025) }, "parameters has 1025 bytes, and may have 0 to 1024"},
		"generation":     {func(m *pb.ConnectRequest) { m.Generation = 0 }, "generation is missing"},
	}
	_, err := FromConnect(ToConnect(goodConnect()))
	qt.Assert(t, qt.IsNil(err))
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			m := ToConnect(goodConnect())
			test.change(m)
			_, err := FromConnect(m)
			var invalid *InvalidError
			qt.Assert(t, qt.ErrorAs(err, &invalid))
			qt.Check(t, qt.ErrorMatches(err, test.want))
		})
	}
}

// An older host may be told fields that it does not know: they change nothing.
func TestUnknownFieldsAreIgnored(t *testing.T) {
	want := goodConnect()
	b, err := proto.Marshal(ToConnect(want))
	qt.Assert(t, qt.IsNil(err))
	b = append(b, 0xfa, 0x3e, 2, 'x', 'y') // field 1007, of bytes
	var m pb.ConnectRequest
	qt.Assert(t, qt.IsNil(proto.Unmarshal(b, &m)))
	got, err := FromConnect(&m)
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.Equals(fmt.Sprint(got), fmt.Sprint(want)))
}

// A value that a newer host has invented is refused.
func TestUnknownStatesAreRefused(t *testing.T) {
	for _, state := range []pb.EndpointState{-1, 0, 4, 1 << 30} {
		_, err := FromOwner(&pb.ResolveAnswer{Owner: "b", Epoch: 1, State: state})
		qt.Check(t, qt.ErrorMatches(err, fmt.Sprintf("state %d is not known: the host that says it runs a newer snapctl", state)))
	}
	for _, state := range []EndpointState{Running, Held, Moving} {
		o, err := FromOwner(ToOwner(Owner{Host: "b", Epoch: 1, State: state}))
		qt.Check(t, qt.IsNil(err))
		qt.Check(t, qt.Equals(o.State, state))
		qt.Check(t, qt.Equals(strings.ToLower(pb.EndpointState_name[int32(state)]), "endpoint_state_"+state.String()))
	}
	qt.Check(t, qt.Equals(EndpointState(9).String(), "unknown"))
}

// sent returns what has been sent, part by part, and then the end.
func sent(parts []*pb.TablePart) func() (*pb.TablePart, error) {
	return func() (*pb.TablePart, error) {
		if len(parts) == 0 {
			return nil, io.EOF
		}
		part := parts[0]
		parts = parts[1:]
		return part, nil
	}
}

func TestTableInParts(t *testing.T) {
	a := Table{Network: "default", Channel: &Channel{Module: "tunnel", Local: underlay("192.0.2.1:1"), Remote: underlay("192.0.2.2:1"), MTU: 1420, Generation: 1}}
	for at := addr("10.77.0.1"); len(a.Routes) < 2*partRoutes; at = at.Next() {
		a.Routes = append(a.Routes, Route{Address: at, Owner: "b", Epoch: 1})
	}
	var parts []*pb.TablePart
	qt.Assert(t, qt.IsNil(SendTable(func(p *pb.TablePart) error { parts = append(parts, p); return nil }, a, "a")))
	qt.Check(t, qt.HasLen(parts, 2))
	for _, p := range parts {
		qt.Check(t, qt.IsTrue(proto.Size(p) < MaxMessage))
	}
	b, err := ReceiveTable(sent(parts), "default", "a", "b")
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.Equals(a.Digest("a", "b"), b.Digest("b", "a")))

	bad := map[string]struct {
		parts []*pb.TablePart
		want  string
	}{
		"cut":              {parts[:1], "EOF"},
		"order":            {[]*pb.TablePart{{Routes: parts[1].Routes}, {Routes: parts[0].Routes, Last: true}}, "routes 10.77.0.1 does not come after 10.77.8.0"},
		"twice":            {[]*pb.TablePart{parts[0], {Routes: parts[0].Routes, Last: true}}, "routes 10.77.0.1 does not come after .*"},
		"channel late":     {[]*pb.TablePart{parts[0], {Channel: parts[0].Channel, Last: true}}, "channel is not in the first part of the table"},
		"nothing for ever": {[]*pb.TablePart{parts[0], {}}, "routes are missing in a part that is not the last"},
		"bad channel":      {[]*pb.TablePart{{Channel: &pb.Channel{}}}, `module "" is no name.*`},
	}
	for name, test := range bad {
		t.Run(name, func(t *testing.T) {
			_, err := ReceiveTable(sent(test.parts), "default", "a", "b")
			qt.Check(t, qt.ErrorMatches(err, test.want))
		})
	}
	n := 0
	_, err = ReceiveTable(func() (*pb.TablePart, error) { n++; return &pb.TablePart{Routes: parts[0].Routes}, nil }, "default", "a", "b")
	qt.Check(t, qt.ErrorMatches(err, "routes has .* entries, and may have 0 to 65536"))
	qt.Check(t, qt.Equals(n, MaxRoutes/partRoutes+1))
}

func TestDigest(t *testing.T) {
	table := func(change func(*Table)) [sha256.Size]byte {
		t := Table{
			Network: "default",
			Channel: &Channel{Module: "tunnel", Local: underlay("192.0.2.1:1"), Remote: underlay("192.0.2.2:1"), MTU: 1420, Generation: 1},
			Routes:  []Route{{addr("10.77.0.2"), "a", 1}, {addr("10.77.0.3"), "b", 2}},
		}
		change(&t)
		return t.Digest("a", "b")
	}
	same := table(func(*Table) {})
	qt.Check(t, qt.Equals(table(func(t *Table) { t.Channel.Parameters = []byte("x") }), same))
	qt.Check(t, qt.Equals(table(func(t *Table) { t.Routes[0], t.Routes[1] = t.Routes[1], t.Routes[0]; t.Sort() }), same))
	for name, change := range map[string]func(*Table){
		"network":    func(t *Table) { t.Network = "other" },
		"no channel": func(t *Table) { t.Channel = nil },
		"module":     func(t *Table) { t.Channel.Module = "direct" },
		"ends":       func(t *Table) { t.Channel.Local, t.Channel.Remote = t.Channel.Remote, t.Channel.Local },
		"generation": func(t *Table) { t.Channel.Generation++ },
		"owner":      func(t *Table) { t.Routes[0].Owner = "b" },
		"epoch":      func(t *Table) { t.Routes[0].Epoch++ },
		"route":      func(t *Table) { t.Routes = t.Routes[:1] },
	} {
		qt.Check(t, qt.Not(qt.Equals(table(change), same)), qt.Commentf("%s", name))
	}
}

func TestErrorsOnTheWire(t *testing.T) {
	us, them := Self{Host: "a", Version: "2", Protocols: Range{2, 2}}, Self{Host: "b", Version: "1", Protocols: Range{1, 1}}
	for name, test := range map[string]struct{ said, heard error }{
		"not owner":       {&NotOwnerError{Network: "n", Address: addr("10.77.0.2"), Owner: "c", Epoch: 3}, &NotOwnerError{By: "b", Network: "n", Address: addr("10.77.0.2"), Owner: "c", Epoch: 3}},
		"nobody":          {&NotOwnerError{Network: "n", Address: addr("10.77.0.2")}, &NotOwnerError{By: "b", Network: "n", Address: addr("10.77.0.2")}},
		"invalid owner":   {&NotOwnerError{Network: "n", Address: addr("10.77.0.2"), Owner: "/", Epoch: 3}, &RefusedError{By: "b", Why: "this host does not have 10.77.0.2 in network n: / has it, with epoch 3"}},
		"not found":       {&NotFoundError{Network: "n", Address: addr("10.77.0.2")}, &NotFoundError{By: "b", Network: "n", Address: addr("10.77.0.2")}},
		"invalid address": {&NotFoundError{Network: "n"}, &RefusedError{By: "b", Why: "this host knows nobody who has invalid IP in network n"}},
		"refused":         {fmt.Errorf("do it: %w", &RefusedError{Why: "no", Hint: "wait"}), &RefusedError{By: "b", Why: "no", Hint: "wait"}},
		"version":         {&VersionError{Host: "a"}, &VersionError{Host: "b", Ours: Range{2, 2}, OurVersion: "2", Theirs: Range{1, 1}, TheirVersion: "1"}},
		"busy":            {&limit.BusyError{Why: "much", RetryAfter: time.Hour}, &BusyError{RefusedError: RefusedError{By: "b", Why: "much", Hint: "try again later"}, After: time.Second}},
		"invalid":         {&InvalidError{What: "mtu", Why: "is bad"}, &RefusedError{By: "b", Why: "invalid request: mtu is bad", Hint: "upgrade snapctl on the older of both hosts"}},
		"other":           {errors.New("disk full"), &RefusedError{By: "b", Why: "disk full"}},
		"newer":           {status.Error(codes.FailedPrecondition, "something new"), &RefusedError{By: "b", Why: "rpc error: code = FailedPrecondition desc = something new"}},
	} {
		t.Run(name, func(t *testing.T) {
			qt.Check(t, qt.Equals(fmt.Sprintf("%#v", FromStatus(status.Convert(ToStatus(test.said, them)), "b", us)), fmt.Sprintf("%#v", test.heard)))
		})
	}
	qt.Check(t, qt.IsNil(ToStatus(nil, them)))
	qt.Check(t, qt.IsNil(FromStatus(status.Convert(ToStatus(context.Canceled, them)), "b", us)))
	qt.Check(t, qt.IsNil(FromStatus(status.Convert(ToStatus(context.DeadlineExceeded, them)), "b", us)))
	qt.Check(t, qt.IsNil(FromStatus(status.New(codes.Unavailable, "gone"), "b", us)))
	qt.Check(t, qt.ErrorMatches(FromStatus(status.New(codes.Unimplemented, "what?"), "b", us), "host b refuses: it does not know this call"))
}

func TestRemedies(t *testing.T) {
	older := &VersionError{Host: "b", Ours: Range{1, 1}, Theirs: Range{2, 3}, OurVersion: "0.9", TheirVersion: "1.4"}
	qt.Check(t, qt.Equals(older.Error(), "host b runs snapctl 1.4 with protocols 2 to 3, and this host runs snapctl 0.9 with protocol 1: they have none in common"))
	qt.Check(t, qt.Equals(older.Remedy(), "upgrade snapctl on this host"))
	qt.Check(t, qt.Equals((&VersionError{Host: "b", Ours: Range{2, 3}, Theirs: Range{1, 1}}).Remedy(), "upgrade snapctl on b"))
	qt.Check(t, qt.Equals((&NotOwnerError{}).Remedy(), "ask the directory again"))
	qt.Check(t, qt.Equals((&NotFoundError{}).Remedy(), "ask the directory"))
	qt.Check(t, qt.Equals((&RefusedError{Hint: "wait"}).Remedy(), "wait"))
}

func TestOneLine(t *testing.T) {
	qt.Check(t, qt.Equals(OneLine("a\nb\x1b[0m\xff"), "a b [0m?"))
	long := OneLine(strings.Repeat("ä", 2000))
	qt.Check(t, qt.IsTrue(len(long) <= maxText))
	qt.Check(t, qt.IsTrue(strings.HasSuffix(long, "ä...")))
}
