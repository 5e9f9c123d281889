package hold

import (
	"net/netip"
	"testing"

	"github.com/go-quicktest/qt"
	"golang.org/x/sys/unix"
)

func TestWakers(t *testing.T) {
	own := []netip.Addr{netip.MustParseAddr("10.77.0.7")}
	at := netip.MustParseAddrPort
	any4, any6, loop, here, there := at("0.0.0.0:80"), at("[::]:80"), at("127.0.0.1:80"), at("10.77.0.7:80"), at("10.77.0.9:5432")
	probe := WakePolicy{Ignore: []netip.Prefix{netip.MustParsePrefix("10.77.0.9/32")}}
	for name, test := range map[string]struct {
		policy  WakePolicy
		sockets []Socket
		want    Wakers
	}{
		"nothing":                   {want: Nobody},
		"listener":                  {sockets: []Socket{{Kind: TCPListen, Local: any4}}, want: Anybody},
		"listener, IPv6":            {sockets: []Socket{{Kind: TCPListen, Local: any6}}, want: Anybody},
		"listener of the app's own": {sockets: []Socket{{Kind: TCPListen, Local: loop}}, want: Nobody},
		"datagrams":                 {sockets: []Socket{{Kind: UDP, Local: any4}}, want: Anybody},
		"datagram socket, unbound":  {sockets: []Socket{{Kind: UDP, Local: at("0.0.0.0:0")}}, want: Nobody},
		"question to a name server": {sockets: []Socket{{Kind: UDP, Local: here, Remote: at("10.77.0.9:53")}}, want: Nobody},
		"connection":                {sockets: []Socket{{Kind: TCP, State: "ESTABLISHED", Local: here, Remote: there}}, want: Peers},
		"connection that has ended": {sockets: []Socket{{Kind: TCP, State: "CLOSE_WAIT", Local: here, Remote: there}}, want: Nobody},
		"connection inside":         {sockets: []Socket{{Kind: TCP, State: "ESTABLISHED", Local: at("10.77.0.7:999"), Remote: here}}, want: Nobody},
		"socket without one":        {sockets: []Socket{{Kind: TCP, State: "CLOSE", Local: any4}}, want: Nobody},
		"ignored":                   {policy: probe, sockets: []Socket{{Kind: TCP, State: "ESTABLISHED", Local: here, Remote: there}}, want: Nobody},
		"ignored, and a listener":   {policy: probe, sockets: []Socket{{Kind: TCP, State: "ESTABLISHED", Local: here, Remote: there}, {Kind: TCPListen, Local: any4}}, want: Anybody},
		"never":                     {policy: WakePolicy{Mode: Never}, sockets: []Socket{{Kind: TCPListen, Local: any4}}, want: Nobody},
		"unix listener":             {sockets: []Socket{{Kind: UnixListen}}, want: Anybody},
		"unix connection":           {sockets: []Socket{{Kind: Unix, Type: unix.SOCK_STREAM}}, want: Peers},
		"unix datagrams":            {sockets: []Socket{{Kind: Unix, Type: unix.SOCK_DGRAM, Path: "/run/s"}}, want: Anybody},
	} {
		t.Run(name, func(t *testing.T) {
			qt.Assert(t, qt.Equals(NewSet(test.sockets).Wakers(test.policy, own), test.want))
		})
	}
}
