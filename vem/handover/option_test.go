package handover_test

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"testing"

	"github.com/go-quicktest/qt"
	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/vem/sockopt"
)

func number(v int) []byte { return binary.NativeEndian.AppendUint32(nil, uint32(v)) }

// values are what a program may set an option to.
func values(k sockopt.Kind) [][]byte {
	switch k.Label {
	case "SO_LINGER":
		return [][]byte{append(number(1), number(7)...)}
	case "SO_RCVTIMEO", "SO_SNDTIMEO":
		return [][]byte{binary.NativeEndian.AppendUint64(binary.NativeEndian.AppendUint64(nil, 3), 500000)}
	case "SO_TXTIME":
		return [][]byte{append(number(unix.CLOCK_TAI), number(1)...)}
	case "SO_MAX_PACING_RATE":
		return [][]byte{binary.NativeEndian.AppendUint64(nil, 123456789)}
	case "IP_OPTIONS":
		return [][]byte{{1, 1, 1, 0}} // NOPs
	case "TCP_CONGESTION":
		return [][]byte{[]byte("reno")}
	case "TCP_FASTOPEN_KEY":
		return [][]byte{[]byte("0123456789abcdef")}
	case "ICMPV6_FILTER":
		return [][]byte{bytes.Repeat([]byte{0x5a}, 32)}
	case "TCP_FASTOPEN": // its most
		return [][]byte{number(5)}
	case "IPV6_CHECKSUM":
		return [][]byte{number(4)}
	case "IP_LOCAL_PORT_RANGE":
		return [][]byte{number(41000<<16 | 40000)}
	}
	var list [][]byte
	for _, v := range []int{1, 2, 0, 3, 5, 64, 600, 1000, 2000} {
		list = append(list, number(v))
	}
	return list
}

// special are options that change what the socket is for, so that they are tried elsewhere.
func special(k sockopt.Kind) bool {
	switch k.Label {
	case "SO_LOCK_FILTER", "SO_DONTROUTE", "IPV6_V6ONLY", "TCP_FASTOPEN_CONNECT", "IP_TRANSPARENT":
		return true
	}
	return false
}

func get(fd int, k sockopt.Kind) []byte {
	b := make([]byte, k.Size)
	v, err := sockopt.Get(fd, k.Level, k.Name, b)
	if err != nil {
		return nil
	}
	return v
}

// setAll sets every option of a class that the socket takes to another value than it has, and
// tells how many.
func setAll(fd int, c sockopt.Class) int {
	n := 0
	for _, k := range sockopt.Kinds(c) {
		before := get(fd, k)
		if before == nil || special(k) {
			continue
		}
		for _, v := range values(k) {
			if sockopt.Set(fd, k.Level, k.Name, v) == nil && !bytes.Equal(get(fd, k), before) {
				n++
				break
			}
		}
	}
	return n
}

// everything is all that tells sockets of a class from each other.
func everything(tb testing.TB, fd int, c sockopt.Class) map[string][]byte {
	tb.Helper()
	all := make(map[string][]byte)
	for _, k := range sockopt.Kinds(c) {
		all[k.Label] = get(fd, k)
	}
	for label, name := range map[string]int{
		"SO_REUSEADDR": unix.SO_REUSEADDR, "SO_SNDBUF": unix.SO_SNDBUF, "SO_RCVBUF": unix.SO_RCVBUF, "SO_BUF_LOCK": unix.SO_BUF_LOCK,
		"SO_KEEPALIVE": unix.SO_KEEPALIVE, "SO_OOBINLINE": unix.SO_OOBINLINE, "SO_BINDTODEVICE": unix.SO_BINDTODEVICE, "SO_BROADCAST": unix.SO_BROADCAST,
		"SO_NO_CHECK": unix.SO_NO_CHECK,
	} {
		all[label] = get(fd, sockopt.Kind{Level: unix.SOL_SOCKET, Name: name, Size: 16})
	}
	all["SO_LINGER"] = get(fd, sockopt.Kind{Level: unix.SOL_SOCKET, Name: unix.SO_LINGER, Size: 8})
	flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0)
	qt.Assert(tb, qt.IsNil(err))
	all["flags"] = number(flags)
	var st unix.Stat_t
	qt.Assert(tb, qt.IsNil(unix.Fstat(fd, &st)))
	all["owner"] = append(number(int(st.Uid)), number(int(st.Gid))...)
	return all
}

// others sets what is no option of the table.
func (w *world) others(fd int) {
	w.t.Helper()
	for name, v := range map[int]int{
		unix.SO_REUSEADDR: 1, unix.SO_SNDBUF: 30000, unix.SO_RCVBUF: 50000, unix.SO_KEEPALIVE: 1, unix.SO_OOBINLINE: 1, unix.SO_BROADCAST: 1,
	} {
		qt.Assert(w.t, qt.IsNil(unix.SetsockoptInt(fd, unix.SOL_SOCKET, name, v)))
	}
	qt.Assert(w.t, qt.IsNil(unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1, Linger: 9})))
	_, err := unix.FcntlInt(uintptr(fd), unix.F_SETFL, unix.O_NONBLOCK|unix.O_ASYNC)
	qt.Assert(w.t, qt.IsNil(err))
	qt.Assert(w.t, qt.IsNil(unix.Fchown(fd, 33, 34)))
}

// TestOptions moves sockets of every class that have every option set that they take.
func TestOptions(t *testing.T) {
	for name, tt := range map[string]struct {
		class               sockopt.Class
		family, sort, proto int
		bind                netip.Addr
		listen              bool
		least               int // options
	}{
		"TCP":              {sockopt.TCP, unix.AF_INET, unix.SOCK_STREAM, 0, app4, false, 40},
		"TCP listener":     {sockopt.TCP, unix.AF_INET, unix.SOCK_STREAM, 0, app4, true, 40},
		"TCP of IPv6":      {sockopt.TCP, unix.AF_INET6, unix.SOCK_STREAM, 0, app6, true, 60},
		"UDP":              {sockopt.UDP, unix.AF_INET, unix.SOCK_DGRAM, 0, app4, false, 40},
		"UDP of IPv6":      {sockopt.UDP, unix.AF_INET6, unix.SOCK_DGRAM, 0, app6, false, 60},
		"UDP-Lite":         {sockopt.UDP, unix.AF_INET, unix.SOCK_DGRAM, unix.IPPROTO_UDPLITE, app4, false, 40},
		"UDP-Lite of IPv6": {sockopt.UDP, unix.AF_INET6, unix.SOCK_DGRAM, unix.IPPROTO_UDPLITE, app6, false, 60},
		"raw":              {sockopt.Raw, unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_ICMP, app4, false, 30},
		"raw of IPv6":      {sockopt.Raw, unix.AF_INET6, unix.SOCK_RAW, unix.IPPROTO_ICMPV6, app6, false, 45},
		"another raw":      {sockopt.Raw, unix.AF_INET6, unix.SOCK_RAW, 253, app6, false, 45},
		"ping":             {sockopt.Raw, unix.AF_INET, unix.SOCK_DGRAM, unix.IPPROTO_ICMP, app4, false, 30},
		"ping of IPv6":     {sockopt.Raw, unix.AF_INET6, unix.SOCK_DGRAM, unix.IPPROTO_ICMPV6, app6, false, 50},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.allowPing()
			e := w.socket(w.app[0], tt.family, tt.sort, tt.proto)
			n := setAll(e.fd, tt.class)
			qt.Check(t, qt.IsTrue(n >= tt.least), qt.Commentf("%d options", n))
			w.others(e.fd)
			qt.Assert(t, qt.IsNil(unix.BindToDevice(e.fd, "eth0")))
			qt.Assert(t, qt.IsNil(unix.Bind(e.fd, sockaddr(netip.AddrPortFrom(tt.bind, 7777)))))
			if tt.listen {
				qt.Assert(t, qt.IsNil(unix.Listen(e.fd, 5)))
			}
			want := everything(t, e.fd, tt.class)
			set := w.hold(e)
			for range 2 {
				set = w.move(set)
			}
			qt.Assert(t, qt.IsNil(set.Narrow()))
			got := everything(t, w.woken(set, e)[0].fd, tt.class)
			for label := range want {
				qt.Check(t, qt.DeepEquals(got[label], want[label]), qt.Commentf("%s", label))
			}
		})
	}
}

// TestOptionsOfConnections is that of connections.
func TestOptionsOfConnections(t *testing.T) {
	for name, at := range map[string]netip.AddrPort{"IPv4": netip.AddrPortFrom(app4, 80), "IPv6": netip.AddrPortFrom(app6, 80)} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			_, a := w.dial(w.peer, w.listen(w.app[0], at), at)
			n := setAll(a.fd, sockopt.Connection)
			qt.Check(t, qt.IsTrue(n >= 35), qt.Commentf("%d options", n))
			w.others(a.fd)
			want := everything(t, a.fd, sockopt.Connection)
			delete(want, "SO_BROADCAST") // of no meaning
			set := w.hold(a)
			for range 2 {
				set = w.move(set)
			}
			got := everything(t, w.woken(set, a)[0].fd, sockopt.Connection)
			for label := range want {
				qt.Check(t, qt.DeepEquals(got[label], want[label]), qt.Commentf("%s", label))
			}
		})
	}
}

// classOf is the class of sockets for datagrams of a protocol.
func classOf(proto int) sockopt.Class {
	if proto == unix.IPPROTO_ICMP || proto == unix.IPPROTO_ICMPV6 {
		return sockopt.Raw
	}
	return sockopt.UDP
}
