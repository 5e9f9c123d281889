package copies

import (
	"net/netip"
	"testing"

	"github.com/go-quicktest/qt"

	"github.com/snapctl/snapctl/vem/hold/sockdiag"
)

// TestInsideOf finds the two ends of each connection inside an app.
func TestInsideOf(t *testing.T) {
	sock := func(inode uint32, local, remote string, state sockdiag.State) sockdiag.Inet {
		return sockdiag.Inet{Inode: inode, Local: netip.MustParseAddrPort(local), Remote: netip.MustParseAddrPort(remote), State: state, RecvQ: inode}
	}
	one := func(inode uint64) ConnectionEnd { return ConnectionEnd{Inode: inode, Queued: uint32(inode)} }
	const est = sockdiag.Established
	for name, test := range map[string]struct {
		all  []sockdiag.Inet
		want []Connection
	}{
		"nothing": {},
		"pairs": {
			all: []sockdiag.Inet{
				sock(4, "127.0.0.1:80", "127.0.0.1:4000", est), sock(3, "127.0.0.1:4000", "127.0.0.1:80", est),
				sock(5, "10.77.0.7:80", "127.0.0.1:4000", est), sock(6, "127.0.0.1:4000", "10.77.0.7:80", est),
			},
			want: []Connection{{Ends: []ConnectionEnd{one(3), one(4)}}, {Ends: []ConnectionEnd{one(5), one(6)}}},
		},
		"not accepted": {
			all:  []sockdiag.Inet{sock(4, "127.0.0.1:4000", "127.0.0.1:80", est), sock(0, "127.0.0.1:80", "127.0.0.1:4000", est)},
			want: []Connection{{Ends: []ConnectionEnd{one(4)}, Refused: "its other end waits to be accepted"}},
		},
		"other end closed": {
			all: []sockdiag.Inet{
				sock(4, "[::1]:4000", "[::1]:80", sockdiag.CloseWait), sock(0, "[::1]:80", "[::1]:4000", sockdiag.FinWait2),
				sock(5, "[::1]:4001", "[::1]:80", sockdiag.CloseWait), // for so long that the kernel has forgotten the other
			},
			want: []Connection{{Ends: []ConnectionEnd{one(4)}}, {Ends: []ConnectionEnd{one(5)}}},
		},
		"to itself": {
			all:  []sockdiag.Inet{sock(4, "127.0.0.1:4000", "127.0.0.1:4000", est)},
			want: []Connection{{Ends: []ConnectionEnd{one(4)}, Refused: "it is connected to itself"}},
		},
		"signed": {
			all: []sockdiag.Inet{
				{Inode: 4, Local: netip.MustParseAddrPort("127.0.0.1:1"), Remote: netip.MustParseAddrPort("127.0.0.1:2"), MD5: true},
				{Inode: 5, Local: netip.MustParseAddrPort("127.0.0.1:2"), Remote: netip.MustParseAddrPort("127.0.0.1:1")},
			},
			want: []Connection{{Ends: []ConnectionEnd{{Inode: 4}, {Inode: 5}}, Refused: "it is authenticated by TCP MD5 signatures"}},
		},
	} {
		t.Run(name, func(t *testing.T) {
			qt.Check(t, qt.DeepEquals(insideOf(test.all).Connections, test.want))
		})
	}
}
