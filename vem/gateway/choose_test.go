package gateway

import (
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/go-quicktest/qt"

	"github.com/snapctl/snapctl/testenv"
	"github.com/snapctl/snapctl/testenv/host"
)

func TestPorts(t *testing.T) {
	list := []Port{{"udp", 5353, 53}, {"tcp", 8080, 80}, {"tcp", 8080, 80}}
	text := FormatPorts(list)
	qt.Check(t, qt.Equals(text, "5353:53/udp 8080:80/tcp"))
	got, err := ParsePorts(text)
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.DeepEquals(got, list[:2]))
	got, err = ParsePorts("")
	qt.Check(t, qt.IsNil(err))
	qt.Check(t, qt.HasLen(got, 0))
	for _, wrong := range []string{"80", "80:/tcp", "0:1/tcp", "1:0/tcp", "1:65536/tcp", "1:1/sctp", "1:1", "-1:1/udp", strings.Repeat("1:1/tcp ", MaxPorts+1)} {
		_, err := ParsePorts(wrong)
		qt.Check(t, qt.ErrorMatches(err, "published ports .*"), qt.Commentf("%s", wrong))
	}
	var many []Port
	for i := range uint16(2 * MaxPorts) {
		many = append(many, Port{"tcp", 1000 + i, 80})
	}
	got, err = ParsePorts(FormatPorts(many))
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.HasLen(got, MaxPorts))
}

func FuzzParsePorts(f *testing.F) {
	f.Add("8080:80/tcp 5353:53/udp")
	f.Fuzz(func(t *testing.T, text string) {
		list, err := ParsePorts(text)
		if err != nil {
			return
		}
		again, err := ParsePorts(FormatPorts(list))
		qt.Assert(t, qt.IsNil(err))
		qt.Check(t, qt.IsTrue(len(again) <= len(list)))
	})
}

func TestChoose(t *testing.T) {
	pub := func(app string, n byte, p Port) Published {
		return Published{Port: p, Network: "default", Addr: netip.AddrFrom4([4]byte{10, 77, 0, n}), App: app, Host: "beta"}
	}
	web := Port{"tcp", 8080, 80}
	taken := Taken{}
	taken.Take("tcp", 22, "a program")
	taken.Take("tcp", 22, "app late")
	all := []Published{
		pub("zoo", 4, web), pub("api", 3, web), pub("api", 3, Port{"udp", 8080, 80}), pub("ssh", 5, Port{"tcp", 22, 22}),
	}
	list := Choose(all, taken)
	why := map[string]string{}
	for _, s := range list {
		why[s.App+" "+s.String()] = s.Why
	}
	qt.Check(t, qt.DeepEquals(why, map[string]string{
		"api 8080:80/tcp": "", "api 8080:80/udp": "",
		"zoo 8080:80/tcp": "app api on host beta publishes the port as well",
		"ssh 22:22/tcp":   "a program has the port on this host",
	}))

	var many []Published
	for i := range maxPublished + 1 {
		many = append(many, pub(fmt.Sprintf("app%05d", i), 9, Port{"tcp", uint16(1000 + i), 80}))
	}
	list = Choose(many, nil)
	qt.Check(t, qt.Equals(list[maxPublished-1].Why, ""))
	qt.Check(t, qt.Equals(list[maxPublished].Why, "this host forwards 4096 ports already"))
}

// Ports that a program of the host has are seen, at whatever address and of either family.
func TestListeners(t *testing.T) {
	testenv.Need(t, testenv.Root)
	h := host.New(t, host.Config{Name: "alpha"})
	l, err := h.Listen(t.Context(), "tcp", "127.0.0.1:7")
	qt.Assert(t, qt.IsNil(err))
	defer l.Close()
	p, err := h.ListenPacket(t.Context(), "udp", "[::1]:9")
	qt.Assert(t, qt.IsNil(err))
	defer p.Close()
	taken := Taken{}
	qt.Assert(t, qt.IsNil(h.Do(func() error {
		if c, err := net.Dial("udp", "127.0.0.1:11"); err == nil { // has a peer
			defer c.Close()
		}
		return Listeners(taken)
	})))
	qt.Check(t, qt.DeepEquals(taken, Taken{{"tcp", 7}: "a program", {"udp", 9}: "a program"}))
}
