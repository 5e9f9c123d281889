package tcprepair_test

import (
	"bytes"
	"net/netip"
	"testing"

	"github.com/go-quicktest/qt"
	"github.com/google/go-cmp/cmp/cmpopts"
	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/vem/tcprepair"
)

func sample() tcprepair.Saved {
	end := tcprepair.State{
		Inode: 4711, Family: unix.AF_INET, Local: netip.MustParseAddrPort("127.0.0.1:80"), Remote: netip.MustParseAddrPort("127.0.0.1:4000"),
		Sending:    tcprepair.Sending{Sent: []byte("sent and unsent"), Unsent: 6, SendEnd: 5},
		Receiving:  tcprepair.Receiving{Received: []byte("received"), ReceiveEnd: 1 << 31, Finished: true},
		Window:     tcprepair.Window{SendUpdate: 1, Send: 2, Max: 3, Receive: 4, Announced: 5},
		Negotiated: tcprepair.Negotiated{MSS: 1460, Scaling: true, SACK: true, SendScale: 7, ReceiveScale: 3, Timestamp: 99},
		Options: tcprepair.Options{
			List: []tcprepair.Option{{Level: unix.SOL_SOCKET, Name: unix.SO_MARK, Value: []byte{1, 0, 0, 0}}}, Device: "lo", Congestion: "reno",
			SendBuffer: 1000, ReceiveBuffer: 2000, BufferLock: -1, ReuseAddress: 1, NonBlock: true, UID: 5, GID: 6,
		},
	}
	other := end
	other.Family, other.Local, other.Remote = unix.AF_INET6, netip.MustParseAddrPort("[::ffff:127.0.0.1]:4000"), netip.MustParseAddrPort("[fe80::1]:80")
	other.Sent, other.Unsent, other.Received, other.Options.List = nil, 0, nil, nil
	return tcprepair.Saved{
		Connections: []tcprepair.Connection{{Ends: []tcprepair.State{end, other}}, {Ends: []tcprepair.State{end}}},
		Refused:     []tcprepair.Refused{{Inode: 12, Reason: "it has urgent data"}},
	}
}

func TestEncode(t *testing.T) {
	for _, want := range []tcprepair.Saved{{}, sample()} {
		b := tcprepair.Encode(want)
		got, err := tcprepair.Decode(b)
		qt.Assert(t, qt.IsNil(err))
		qt.Check(t, qt.CmpEquals(got, want, cmpopts.EquateComparable(netip.AddrPort{})))
		for cut := range b {
			_, err := tcprepair.Decode(b[:cut])
			qt.Assert(t, qt.ErrorIs(err, tcprepair.ErrMalformed), qt.Commentf("%d bytes", cut))
		}
		_, err = tcprepair.Decode(append(bytes.Clone(b), 0))
		qt.Check(t, qt.ErrorIs(err, tcprepair.ErrMalformed))
	}
	later := tcprepair.Encode(tcprepair.Saved{})
	later[len("snapctl tcp\n")] = 2
	_, err := tcprepair.Decode(later)
	qt.Check(t, qt.ErrorMatches(err, `malformed TCP states: version 2, this snapctl reads 1`))
}

// FuzzDecode reads anything: it is refused, or is what Encode writes.
func FuzzDecode(f *testing.F) {
	f.Add(tcprepair.Encode(tcprepair.Saved{}))
	f.Add(tcprepair.Encode(sample()))
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := tcprepair.Decode(b)
		if err != nil {
			qt.Assert(t, qt.ErrorIs(err, tcprepair.ErrMalformed))
			return
		}
		qt.Assert(t, qt.DeepEquals(tcprepair.Encode(s), b))
	})
}
