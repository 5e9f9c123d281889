package wake

import (
	"net/netip"
	"testing"

	"github.com/go-quicktest/qt"
	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/vem/hold"
)

func TestStrongest(t *testing.T) {
	own := []netip.Addr{netip.MustParseAddr("10.77.0.7")}
	at := netip.MustParseAddrPort
	any4, any6, loop, here, there := at("0.0.0.0:80"), at("[::]:80"), at("127.0.0.1:80"), at("10.77.0.7:80"), at("10.77.0.9:5432")
	probe := Policy{Ignore: []netip.Prefix{netip.MustParsePrefix("10.77.0.9/32")}}
	for name, test := range map[string]struct {
		policy  Policy
		sockets []hold.Socket
		want    Waker
	}{
		"nothing":                   {want: Nobody},
		"listener":                  {sockets: []hold.Socket{{Kind: hold.TCPListen, Local: any4}}, want: Anybody},
		"listener, IPv6":            {sockets: []hold.Socket{{Kind: hold.TCPListen, Local: any6}}, want: Anybody},
		"listener of the app's own": {sockets: []hold.Socket{{Kind: hold.TCPListen, Local: loop}}, want: Nobody},
		"datagrams":                 {sockets: []hold.Socket{{Kind: hold.UDP, Local: any4}}, want: Anybody},
		"datagram socket, unbound":  {sockets: []hold.Socket{{Kind: hold.UDP, Local: at("0.0.0.0:0")}}, want: Nobody},
		"question to a name server": {sockets: []hold.Socket{{Kind: hold.UDP, Local: here, Remote: at("10.77.0.9:53")}}, want: Nobody},
		"connection":                {sockets: []hold.Socket{{Kind: hold.TCP, State: "ESTABLISHED", Local: here, Remote: there}}, want: Peers},
		"connection that has ended": {sockets: []hold.Socket{{Kind: hold.TCP, State: "CLOSE_WAIT", Local: here, Remote: there}}, want: Nobody},
		"connection inside":         {sockets: []hold.Socket{{Kind: hold.TCP, State: "ESTABLISHED", Local: at("10.77.0.7:999"), Remote: here}}, want: Nobody},
		"socket without one":        {sockets: []hold.Socket{{Kind: hold.TCP, State: "CLOSE", Local: any4}}, want: Nobody},
		"ignored":                   {policy: probe, sockets: []hold.Socket{{Kind: hold.TCP, State: "ESTABLISHED", Local: here, Remote: there}}, want: Nobody},
		"ignored, and a listener":   {policy: probe, sockets: []hold.Socket{{Kind: hold.TCP, State: "ESTABLISHED", Local: here, Remote: there}, {Kind: hold.TCPListen, Local: any4}}, want: Anybody},
		"never":                     {policy: Policy{Mode: Never}, sockets: []hold.Socket{{Kind: hold.TCPListen, Local: any4}}, want: Nobody},
		"unix listener":             {sockets: []hold.Socket{{Kind: hold.UnixListen}}, want: Anybody},
		"unix connection":           {sockets: []hold.Socket{{Kind: hold.Unix, Type: unix.SOCK_STREAM}}, want: Peers},
		"unix datagrams":            {sockets: []hold.Socket{{Kind: hold.Unix, Type: unix.SOCK_DGRAM, Path: "/run/s"}}, want: Anybody},
	} {
		t.Run(name, func(t *testing.T) {
			qt.Assert(t, qt.Equals(Strongest(hold.NewSet(test.sockets), test.policy, own), test.want))
		})
	}
}
