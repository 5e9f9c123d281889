package handover_test

import (
	"net/netip"
	"testing"

	"github.com/go-quicktest/qt"
	"github.com/google/go-cmp/cmp/cmpopts"
	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/vem/handover"
	"github.com/snapctl/snapctl/vem/handover/plain"
	"github.com/snapctl/snapctl/vem/hold"
	"github.com/snapctl/snapctl/vem/sockopt"
	"github.com/snapctl/snapctl/vem/tcprepair"
)

// example has one socket of each kind.
func example() *handover.Saved {
	at, peer := netip.MustParseAddrPort("10.77.0.7:80"), netip.MustParseAddrPort("10.98.0.2:4000")
	owners := []hold.Owner{{PID: 1, FD: 3}}
	return &handover.Saved{
		Sockets: []hold.Socket{
			{Inode: 7, Kind: hold.TCP, Owners: owners, Local: at, Remote: peer},
			{Inode: 8, Kind: hold.UDP, Owners: owners, Local: at, Receive: &hold.Buffer{Bytes: 1000}},
		},
		Connections: []tcprepair.Connection{{Ends: []tcprepair.State{{
			Inode: 7, Family: unix.AF_INET, Local: at, Remote: peer,
			Sending: tcprepair.Sending{Sent: []byte("sent"), Unsent: 2, SendEnd: 100}, Receiving: tcprepair.Receiving{Received: []byte("received"), ReceiveEnd: 200},
		}}}},
		Others: []plain.Socket{{
			Inode: 8, Family: unix.AF_INET, Type: unix.SOCK_DGRAM, Proto: unix.IPPROTO_UDP, Local: at,
			Settings: plain.Settings{Socket: sockopt.Socket{What: "udp"}, Filter: make([]byte, 16)},
			Queue:    []plain.Packet{{From: peer, To: at, Data: []byte("datagram")}},
		}},
		Refused: []handover.Refused{{Inode: 9, What: "unix /sock", Reason: "why"}},
		Window:  40,
	}
}

func TestEncodedIsDecoded(t *testing.T) {
	addresses := cmpopts.EquateComparable(netip.AddrPort{})
	want := example()
	b, err := want.Encode()
	qt.Assert(t, qt.IsNil(err))
	got, err := handover.Decode(b)
	qt.Assert(t, qt.IsNil(err))
	again, err := got.Encode()
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.Equals(string(again), string(b)))
	qt.Check(t, qt.CmpEquals(got.Connections, want.Connections, addresses))
	qt.Check(t, qt.DeepEquals(got.Refused, want.Refused))
	qt.Check(t, qt.CmpEquals(got.Others[0].Queue, want.Others[0].Queue, addresses))
	for cut := range b {
		_, err := handover.Decode(b[:cut])
		qt.Assert(t, qt.ErrorIs(err, handover.ErrMalformed))
	}
}

// TestMalformed decodes what another host may say and can't mean.
func TestMalformed(t *testing.T) {
	for name, spoil := range map[string]func(*handover.Saved){
		"described twice":      func(s *handover.Saved) { s.Sockets = append(s.Sockets, s.Sockets[0]) },
		"made twice":           func(s *handover.Saved) { s.Connections = append(s.Connections, s.Connections[0]) },
		"both kinds":           func(s *handover.Saved) { s.Others[0].Inode = 7 },
		"not made":             func(s *handover.Saved) { s.Others = nil },
		"not described":        func(s *handover.Saved) { s.Sockets = s.Sockets[1:] },
		"owned by nobody":      func(s *handover.Saved) { s.Sockets[0].Owners = nil },
		"no such family":       func(s *handover.Saved) { s.Others[0].Family = unix.AF_UNIX },
		"address of another":   func(s *handover.Saved) { s.Others[0].Local = netip.MustParseAddrPort("[::1]:80") },
		"stream of UDP":        func(s *handover.Saved) { s.Others[0].Type = unix.SOCK_STREAM },
		"a part of a filter":   func(s *handover.Saved) { s.Others[0].Settings.Filter = make([]byte, 7) },
		"a huge filter":        func(s *handover.Saved) { s.Others[0].Settings.Filter = make([]byte, 1<<20) },
		"a huge datagram":      func(s *handover.Saved) { s.Others[0].Queue[0].Data = make([]byte, 1<<17) },
		"datagram from nobody": func(s *handover.Saved) { s.Others[0].Queue[0].From = netip.AddrPort{} },
		"value of an option": func(s *handover.Saved) {
			s.Others[0].Settings.Options = []sockopt.Option{{Level: unix.SOL_SOCKET, Name: unix.SO_MARK, Value: make([]byte, 5)}}
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := example()
			spoil(s)
			b, err := s.Encode()
			qt.Assert(t, qt.IsNil(err))
			_, err = handover.Decode(b)
			qt.Check(t, qt.ErrorIs(err, handover.ErrMalformed))
		})
	}
}

func FuzzDecode(f *testing.F) {
	b, err := example().Encode()
	qt.Assert(f, qt.IsNil(err))
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := handover.Decode(b)
		if err != nil {
			qt.Assert(t, qt.ErrorIs(err, handover.ErrMalformed))
			return
		}
		again, err := s.Encode()
		qt.Assert(t, qt.IsNil(err))
		_, err = handover.Decode(again)
		qt.Assert(t, qt.IsNil(err))
	})
}
