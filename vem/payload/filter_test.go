package payload

import (
	"encoding/binary"
	"net/netip"
	"testing"

	"github.com/go-quicktest/qt"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// packet makes an IP packet with a TCP or UDP header and so much payload.
func packet(from, to string, proto, size int) []byte {
	src, dst := netip.MustParseAddr(from), netip.MustParseAddr(to)
	header := 8
	if proto == unix.IPPROTO_TCP {
		header = 32 // with timestamps
	}
	body := make([]byte, header+size)
	if proto == unix.IPPROTO_TCP {
		body[12] = byte(header / 4 << 4)
	}
	if src.Is4() {
		b := make([]byte, 24) // with an option
		b[0] = 0x46
		binary.BigEndian.PutUint16(b[2:], uint16(len(b)+len(body)))
		b[9] = byte(proto)
		copy(b[12:], src.AsSlice())
		copy(b[16:], dst.AsSlice())
		return append(b, body...)
	}
	b := make([]byte, 40)
	b[0] = 0x60
	binary.BigEndian.PutUint16(b[4:], uint16(len(body)))
	b[6] = byte(proto)
	copy(b[8:], src.AsSlice())
	copy(b[24:], dst.AsSlice())
	return append(b, body...)
}

// run runs the filter on an incoming or outgoing packet. The interpreter does not know
// the packet's type, which is put in the place of the load.
func run(t *testing.T, f Filter, b []byte, out bool) bool {
	t.Helper()
	program := f.program()
	kind := uint32(0)
	if out {
		kind = outgoing
	}
	program[0] = bpf.LoadConstant{Dst: bpf.RegA, Val: kind}
	vm, err := bpf.NewVM(program)
	qt.Assert(t, qt.IsNil(err))
	n, err := vm.Run(b)
	qt.Assert(t, qt.IsNil(err))
	return n > 0
}

func TestFilter(t *testing.T) {
	ignore := []netip.Prefix{
		netip.MustParsePrefix("10.77.0.1/32"), netip.MustParsePrefix("192.0.2.0/24"), netip.MustParsePrefix("fd77::1/128"),
		netip.MustParsePrefix("fd78::/33"), netip.MustParsePrefix("0.0.0.0/32"),
	}
	const tcp, udp, icmp = unix.IPPROTO_TCP, unix.IPPROTO_UDP, unix.IPPROTO_ICMP
	for name, test := range map[string]struct {
		filter         Filter
		from, to       string
		proto, size    int
		incoming, sent bool
	}{
		"segment":                   {Filter{}, "10.77.0.9", "10.77.0.7", tcp, 1, true, false},
		"acknowledgement":           {Filter{}, "10.77.0.9", "10.77.0.7", tcp, 0, false, false},
		"segment, IPv6":             {Filter{}, "fd77::9", "fd77::7", tcp, 1, true, false},
		"acknowledgement, IPv6":     {Filter{}, "fd77::9", "fd77::7", tcp, 0, false, false},
		"datagram, not asked for":   {Filter{}, "10.77.0.9", "10.77.0.7", udp, 1, false, false},
		"datagram":                  {Filter{UDP: In}, "10.77.0.9", "10.77.0.7", udp, 1, true, false},
		"empty datagram":            {Filter{UDP: In}, "10.77.0.9", "10.77.0.7", udp, 0, true, false},
		"datagram both ways":        {Filter{UDP: Both}, "10.77.0.9", "10.77.0.7", udp, 1, true, true},
		"datagram both ways, IPv6":  {Filter{UDP: Both}, "fd77::9", "fd77::7", udp, 1, true, true},
		"segment, UDP both ways":    {Filter{UDP: Both}, "10.77.0.9", "10.77.0.7", tcp, 1, true, false},
		"other":                     {Filter{UDP: Both}, "10.77.0.9", "10.77.0.7", icmp, 1, false, false},
		"ignored":                   {Filter{ignore, Both}, "10.77.0.1", "10.77.0.7", tcp, 1, false, false},
		"ignored datagram":          {Filter{ignore, Both}, "10.77.0.1", "10.77.0.7", udp, 1, false, true},
		"datagram to ignored":       {Filter{ignore, Both}, "10.77.0.7", "192.0.2.77", udp, 1, true, false},
		"not ignored":               {Filter{ignore, Both}, "10.77.0.2", "10.77.0.7", tcp, 1, true, false},
		"ignored, IPv6":             {Filter{ignore, Both}, "fd77::1", "fd77::7", tcp, 1, false, false},
		"ignored prefix, IPv6":      {Filter{ignore, Both}, "fd78:0:7fff::1", "fd77::7", tcp, 1, false, false},
		"not ignored, IPv6":         {Filter{ignore, Both}, "fd78:0:8000::1", "fd77::7", tcp, 1, true, false},
		"datagram to ignored, IPv6": {Filter{ignore, Both}, "fd77::7", "fd77::1", udp, 1, true, false},
		"everybody ignored":         {Filter{[]netip.Prefix{netip.MustParsePrefix("0.0.0.0/0")}, In}, "10.77.0.2", "10.77.0.7", tcp, 1, false, false},
		"IPv4 ignored, from IPv6":   {Filter{[]netip.Prefix{netip.MustParsePrefix("0.0.0.0/0")}, In}, "fd77::2", "fd77::7", tcp, 1, true, false},
	} {
		t.Run(name, func(t *testing.T) {
			b := packet(test.from, test.to, test.proto, test.size)
			qt.Check(t, qt.Equals(run(t, test.filter, b, false), test.incoming))
			qt.Check(t, qt.Equals(run(t, test.filter, b, true), test.sent))
		})
	}
	fragment := packet("10.77.0.9", "10.77.0.7", tcp, 0)
	fragment[7] = 1 // not the first one
	qt.Check(t, qt.IsTrue(run(t, Filter{}, fragment, false)))
}

// TestTooLong has more addresses than the kernel takes.
func TestTooLong(t *testing.T) {
	var f Filter
	for a := netip.MustParseAddr("fd77::1"); len(f.Ignore) < maxInstructions/13; a = a.Next() {
		f.Ignore = append(f.Ignore, netip.PrefixFrom(a, 128))
	}
	qt.Assert(t, qt.ErrorIs(f.Attach(-1), ErrTooLong))
}
