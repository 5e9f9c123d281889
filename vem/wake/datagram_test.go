package wake_test

import (
	"net/netip"
	"os"
	"testing"

	"github.com/go-quicktest/qt"
	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/testenv/sockets"
	"github.com/snapctl/snapctl/vem/hold"
	"github.com/snapctl/snapctl/vem/wake"
)

func TestWatchDatagram(t *testing.T) {
	type step struct {
		from, text string
		wake       wake.Reason
	}
	ignore := []netip.Prefix{netip.MustParsePrefix("127.0.0.2/32"), netip.MustParsePrefix("fd00::2/128")}
	tests := map[string]struct {
		policy wake.Policy
		steps  []step
	}{
		"any":                 {steps: []step{{"app", "x", wake.Datagram}}},
		"empty":               {steps: []step{{"app", "", wake.Datagram}}},
		"min bytes":           {policy: wake.Policy{MinBytes: 100}, steps: []step{{"app", "x", wake.Datagram}}},
		"ignored":             {policy: wake.Policy{Ignore: ignore}, steps: []step{{"other", "x", 0}, {"other", "", 0}, {"app", "hello", wake.Datagram}}},
		"on-connect":          {policy: wake.Policy{Mode: wake.OnConnect}, steps: []step{{"app", "x", wake.Datagram}}},
		"on-connect: ignored": {policy: wake.Policy{Mode: wake.OnConnect, Ignore: ignore}, steps: []step{{"other", "x", 0}, {"app", "x", wake.Datagram}}},
		"never":               {policy: wake.Policy{Mode: wake.Never}, steps: []step{{"app", "x", 0}}},
	}
	families := map[string]struct{ bind, app, other netip.Addr }{
		"IPv4":           {sockets.App4, sockets.App4, sockets.Other4},
		"IPv6":           {sockets.App6, sockets.App6, sockets.Other6},
		"any, from IPv4": {netip.IPv6Unspecified(), sockets.App4, sockets.Other4},
	}
	for fname, f := range families {
		for name, test := range tests {
			t.Run(fname+"/"+name, func(t *testing.T) {
				t.Parallel()
				w := sockets.New(t)
				server := w.Bound(f.bind, unix.SOCK_DGRAM, 0)
				to := netip.AddrPortFrom(f.app, w.Local(server).Port())
				clients := map[string]*os.File{
					"app":   w.Bound(f.app, unix.SOCK_DGRAM, 0),
					"other": w.Bound(f.other, unix.SOCK_DGRAM, 0),
				}
				set := held(w, server)
				watcher := watch(w, set, test.policy)
				var sent []string
				for _, s := range test.steps {
					w.SendTo(clients[s.from], to, s.text)
					sent = append(sent, s.text)
					if s.wake == 0 {
						asleep(t, watcher)
						continue
					}
					e := awake(t, watcher, s.wake)
					if len(test.policy.Ignore) > 0 {
						qt.Assert(t, qt.Equals(e.Remote, w.Local(clients[s.from])))
						qt.Assert(t, qt.Equals(e.Bytes, len(s.text)))
					}
				}
				// Nothing was taken away, and the app's peek offset is as it was.
				held := set.Sockets[0].File
				offset, err := unix.GetsockoptInt(int(held.Fd()), unix.SOL_SOCKET, unix.SO_PEEK_OFF)
				qt.Assert(t, qt.IsNil(err))
				qt.Assert(t, qt.Equals(offset, -1))
				for _, text := range sent {
					buf := make([]byte, 100)
					n, _, err := unix.Recvfrom(int(held.Fd()), buf, unix.MSG_DONTWAIT)
					qt.Assert(t, qt.IsNil(err))
					qt.Assert(t, qt.Equals(string(buf[:n]), text))
				}
			})
		}
	}
}

// TestWatchPing wakes on the answers that ping and raw sockets wait for. Neither
// can look past the first datagram in its queue.
func TestWatchPing(t *testing.T) {
	t.Parallel()
	w := sockets.New(t)
	w.Do(func() {
		qt.Assert(t, qt.IsNil(os.WriteFile("/proc/sys/net/ipv4/ping_group_range", []byte("0 0"), 0)))
	})
	icmp := w.Bound(sockets.App4, unix.SOCK_DGRAM, unix.IPPROTO_ICMP)
	raw := w.Bound(sockets.App4, unix.SOCK_RAW, unix.IPPROTO_ICMP)
	id := w.Local(icmp).Port()
	sender := w.Socket(unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_ICMP)
	set := held(w, icmp, raw)
	qt.Assert(t, qt.HasLen(set.Sockets, 2))
	for _, policy := range []wake.Policy{{}, {Ignore: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}}} {
		for i := range set.Sockets {
			one := hold.NewSet([]hold.Socket{set.Sockets[i]})
			watcher := watch(w, one, policy)
			reply := sockets.Ping(id)
			reply[0] = 0 // an answer
			reply[3], reply[2] = checksum(reply)
			_, err := unix.SendmsgN(int(sender.Fd()), reply, nil, sockets.Sockaddr(netip.AddrPortFrom(sockets.App4, 0)), 0)
			qt.Assert(t, qt.IsNil(err))
			awake(t, watcher, wake.Datagram)
		}
	}
}

// checksum is the Internet checksum (RFC 1071), low byte first.
func checksum(b []byte) (low, high byte) {
	var sum uint32
	for i := 0; i < len(b); i += 2 {
		sum += uint32(b[i])<<8 | uint32(b[i+1])
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return byte(^sum), byte(^sum >> 8)
}
