package slowpath

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"testing"

	"github.com/go-quicktest/qt"
	"golang.org/x/sys/unix"
)

// build makes a frame as the device gives it: a protocol's bytes in an IP packet.
func build(from, to netip.Addr, next byte, payload []byte) []byte {
	raw := append([]byte{}, nextMAC...)
	raw = append(raw, deviceMAC...)
	if to.Is4() {
		raw = binary.BigEndian.AppendUint16(raw, unix.ETH_P_IP)
		ip := make([]byte, v4Len)
		ip[0], ip[8], ip[v4Proto] = 0x45, 63, next
		binary.BigEndian.PutUint16(ip[v4Total:], uint16(v4Len+len(payload)))
		copy(ip[v4Source:], from.AsSlice())
		copy(ip[v4Target:], to.AsSlice())
		return append(append(raw, ip...), payload...)
	}
	raw = binary.BigEndian.AppendUint16(raw, unix.ETH_P_IPV6)
	ip := make([]byte, v6Len)
	ip[0], ip[7], ip[v6Next] = 0x60, 63, next
	binary.BigEndian.PutUint16(ip[v6Payload:], uint16(len(payload)))
	copy(ip[v6Source:], from.AsSlice())
	copy(ip[v6Target:], to.AsSlice())
	return append(append(raw, ip...), payload...)
}

func addr(text string) netip.Addr { return netip.MustParseAddr(text) }

func TestParse(t *testing.T) {
	udp := []byte{0, 1, 0, 2, 0, 8, 0, 0}
	hopByHop := append([]byte{unix.IPPROTO_UDP, 0, 0, 0, 0, 0, 0, 0}, udp...)
	later := append([]byte{unix.IPPROTO_UDP, 0, 0, 8, 0, 0, 0, 1}, udp...)
	first := append([]byte{unix.IPPROTO_UDP, 0, 0, 1, 0, 0, 0, 1}, udp...)
	for name, test := range map[string]struct {
		from, to string
		next     byte
		payload  []byte
		edit     func(ip []byte)
		ok       bool
		wantNext byte
		at       int
		fragment bool
		answer   bool
	}{
		"IPv4":                {from: "10.77.0.2", to: "10.77.0.3", next: 17, payload: udp, ok: true, wantNext: 17, at: 20, answer: true},
		"IPv4 empty":          {from: "10.77.0.2", to: "10.77.0.3", next: 17, ok: true, wantNext: 17, at: 20, answer: true},
		"IPv4 later fragment": {from: "10.77.0.2", to: "10.77.0.3", next: 17, payload: udp, edit: func(ip []byte) { ip[7] = 1 }, ok: true, wantNext: 17, at: 20, fragment: true},
		"IPv4 first fragment": {from: "10.77.0.2", to: "10.77.0.3", next: 17, payload: udp, edit: func(ip []byte) { ip[6] = 0x20 }, ok: true, wantNext: 17, at: 20, answer: true},
		"IPv4 echo":           {from: "10.77.0.2", to: "10.77.0.3", next: 1, payload: []byte{8, 0, 0, 0}, ok: true, wantNext: 1, at: 20, answer: true},
		"IPv4 error":          {from: "10.77.0.2", to: "10.77.0.3", next: 1, payload: []byte{3, 1, 0, 0}, ok: true, wantNext: 1, at: 20},
		"IPv4 ICMP cut":       {from: "10.77.0.2", to: "10.77.0.3", next: 1, ok: true, wantNext: 1, at: 20},
		"IPv4 no source":      {from: "0.0.0.0", to: "10.77.0.3", next: 17, payload: udp, ok: true, wantNext: 17, at: 20},
		"IPv4 from multicast": {from: "224.0.0.1", to: "10.77.0.3", next: 17, payload: udp, ok: true, wantNext: 17, at: 20},
		"IPv4 from broadcast": {from: "255.255.255.255", to: "10.77.0.3", next: 17, payload: udp, ok: true, wantNext: 17, at: 20},
		"IPv4 too long":       {from: "10.77.0.2", to: "10.77.0.3", next: 17, payload: udp, edit: func(ip []byte) { ip[3]++ }},
		"IPv4 header short":   {from: "10.77.0.2", to: "10.77.0.3", next: 17, payload: udp, edit: func(ip []byte) { ip[0] = 0x44 }},
		"IPv4 header long":    {from: "10.77.0.2", to: "10.77.0.3", next: 17, payload: udp, edit: func(ip []byte) { ip[0] = 0x4f }},
		"IPv4 as 6":           {from: "10.77.0.2", to: "10.77.0.3", next: 17, payload: udp, edit: func(ip []byte) { ip[0] = 0x65 }},
		"IPv6":                {from: "fd77::2", to: "fd77::3", next: 17, payload: udp, ok: true, wantNext: 17, at: 40, answer: true},
		"IPv6 extension":      {from: "fd77::2", to: "fd77::3", next: 0, payload: hopByHop, ok: true, wantNext: 17, at: 48, answer: true},
		"IPv6 later fragment": {from: "fd77::2", to: "fd77::3", next: 44, payload: later, ok: true, wantNext: 17, at: 48, fragment: true},
		"IPv6 first fragment": {from: "fd77::2", to: "fd77::3", next: 44, payload: first, ok: true, wantNext: 17, at: 48, answer: true},
		"IPv6 echo":           {from: "fd77::2", to: "fd77::3", next: 58, payload: []byte{128, 0, 0, 0, 0, 0, 0, 0}, ok: true, wantNext: 58, at: 40, answer: true},
		"IPv6 error":          {from: "fd77::2", to: "fd77::3", next: 58, payload: []byte{1, 3, 0, 0, 0, 0, 0, 0}, ok: true, wantNext: 58, at: 40},
		"IPv6 redirect":       {from: "fd77::2", to: "fd77::3", next: 58, payload: []byte{137, 0, 0, 0, 0, 0, 0, 0}, ok: true, wantNext: 58, at: 40},
		"IPv6 no source":      {from: "::", to: "fd77::3", next: 17, payload: udp, ok: true, wantNext: 17, at: 40},
		"IPv6 too long":       {from: "fd77::2", to: "fd77::3", next: 17, payload: udp, edit: func(ip []byte) { ip[5]++ }},
		"IPv6 extension cut":  {from: "fd77::2", to: "fd77::3", next: 0, payload: append([]byte{58, 9}, hopByHop[2:]...), ok: true, wantNext: 58, at: 56},
	} {
		t.Run(name, func(t *testing.T) {
			raw := build(addr(test.from), addr(test.to), test.next, test.payload)
			if test.edit != nil {
				test.edit(raw[ethLen:])
			}
			raw = append(raw, 1, 2, 3) // as padding of a short frame
			if test.edit != nil && !test.ok {
				raw = raw[:len(raw)-3]
			}
			p, ok := parse(raw)
			qt.Assert(t, qt.Equals(ok, test.ok))
			if !ok {
				return
			}
			qt.Check(t, qt.Equals(p.source, addr(test.from)))
			qt.Check(t, qt.Equals(p.target, addr(test.to)))
			qt.Check(t, qt.Equals(p.next, test.wantNext))
			qt.Check(t, qt.Equals(p.at, test.at))
			qt.Check(t, qt.Equals(p.fragment, test.fragment))
			qt.Check(t, qt.Equals(p.answerable(), test.answer))
			qt.Check(t, qt.HasLen(p.ip, len(raw)-ethLen-3))
		})
	}
}

func TestParseOther(t *testing.T) {
	for _, raw := range [][]byte{nil, make([]byte, 13), make([]byte, 60)} {
		_, ok := parse(raw)
		qt.Check(t, qt.IsFalse(ok))
	}
}

func TestTurn(t *testing.T) {
	raw := build(addr("10.77.0.2"), addr("10.77.0.3"), 17, nil)
	turn(raw)
	qt.Check(t, qt.DeepEquals(raw[:6], []byte(deviceMAC)))
	qt.Check(t, qt.DeepEquals(raw[6:12], []byte(nextMAC)))
}

func TestToAll(t *testing.T) {
	o := Options{Prefixes: []netip.Prefix{
		netip.MustParsePrefix("10.77.0.0/18"), netip.MustParsePrefix("fd77::/64"), netip.MustParsePrefix("10.78.0.1/32"),
	}}
	for text, want := range map[string]bool{
		"10.77.0.0": true, "10.77.63.255": true, "10.77.0.255": false, "10.77.0.1": false, "10.78.0.1": false,
		"fd77::": true, "fd77::ffff:ffff:ffff:ffff": false, "fd77::1": false, "10.77.64.0": false,
	} {
		qt.Check(t, qt.Equals(o.toAll(addr(text)), want), qt.Commentf(text))
	}
}

// Whatever comes out of the device: no panic, and what parse says is true of the bytes.
func FuzzParse(f *testing.F) {
	f.Add(build(addr("10.77.0.2"), addr("10.77.0.3"), 17, []byte("12345678")))
	f.Add(build(addr("fd77::2"), addr("fd77::3"), 0, []byte{44, 0, 0, 0, 0, 0, 0, 0, 58, 0, 0, 1, 0, 0, 0, 1, 128}))
	f.Add(build(addr("fd77::2"), addr("fd77::3"), 60, bytes.Repeat([]byte{60, 0, 0, 0, 0, 0, 0, 0}, 12)))
	f.Fuzz(func(t *testing.T, raw []byte) {
		p, ok := parse(raw)
		if !ok {
			return
		}
		if p.at > len(p.ip) || len(p.ip) > len(raw)-ethLen || !p.source.IsValid() || p.source.Is4() != p.target.Is4() {
			t.Fatalf("%+v of %x", p, raw)
		}
		p.answerable()
		m, err := unreachable(p)
		if err != nil || len(m) > 1280-v6Len || !bytes.Contains(raw, m[8:]) {
			t.Fatalf("error %x, %v of %x", m, err, raw)
		}
	})
}
