package wake_test

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"testing"

	"github.com/go-quicktest/qt"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/testenv/sockets"
	"github.com/snapctl/snapctl/vem/wake"
)

// TestWatchConnection lets the peer of an established connection do things.
func TestWatchConnection(t *testing.T) {
	type peer func(w *sockets.World, f *os.File)
	say := func(text string) peer { return func(w *sockets.World, f *os.File) { w.Write(f, text) } }
	fin := func(w *sockets.World, f *os.File) {
		qt.Assert(w.T, qt.IsNil(unix.Shutdown(int(f.Fd()), unix.SHUT_WR)))
	}
	rst := func(w *sockets.World, f *os.File) { sockets.Reset(w.T, f) }
	fill := func(w *sockets.World, f *os.File) { // until the window is closed
		for chunk := make([]byte, 64<<10); ; {
			if _, err := unix.Write(int(f.Fd()), chunk); err != nil {
				qt.Assert(w.T, qt.ErrorIs(err, unix.EAGAIN))
				return
			}
		}
	}
	urgent := func(w *sockets.World, f *os.File) {
		qt.Assert(w.T, qt.IsNil(unix.Sendto(int(f.Fd()), []byte("!"), unix.MSG_OOB, nil)))
	}
	type step struct {
		do   peer
		wake wake.Reason
	}
	loopback := []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")}
	tests := map[string]struct {
		policy wake.Policy
		steps  []step
	}{
		"on-data: data":       {steps: []step{{say("x"), wake.Data}}},
		"on-data: FIN":        {steps: []step{{fin, 0}}},
		"on-data: RST":        {steps: []step{{rst, 0}}},
		"on-data: data, FIN":  {policy: wake.Policy{MinBytes: 4}, steps: []step{{say("123"), 0}, {fin, 0}}},
		"on-data: in pieces":  {policy: wake.Policy{MinBytes: 4}, steps: []step{{say("12"), 0}, {say("3"), 0}, {say("4"), wake.Data}}},
		"on-data: urgent":     {steps: []step{{urgent, wake.Data}}},
		"on-data: ignored":    {policy: wake.Policy{Ignore: loopback}, steps: []step{{say("hello"), 0}, {rst, 0}}},
		"on-data: full":       {policy: wake.Policy{MinBytes: 1 << 30}, steps: []step{{say("hello"), 0}, {fill, wake.Data}}},
		"on-connect: data":    {policy: wake.Policy{Mode: wake.OnConnect, MinBytes: 100}, steps: []step{{say("x"), wake.Data}}},
		"on-connect: FIN":     {policy: wake.Policy{Mode: wake.OnConnect}, steps: []step{{fin, wake.Closed}}},
		"on-connect: RST":     {policy: wake.Policy{Mode: wake.OnConnect}, steps: []step{{rst, wake.Closed}}},
		"on-connect: ignored": {policy: wake.Policy{Mode: wake.OnConnect, Ignore: loopback}, steps: []step{{say("hello"), 0}, {fin, 0}}},
		"never":               {policy: wake.Policy{Mode: wake.Never}, steps: []step{{say("hello"), 0}, {fin, 0}}},
	}
	for family, addr := range map[string]netip.Addr{"IPv4": sockets.App4, "IPv6": sockets.App6} {
		for name, test := range tests {
			t.Run(family+"/"+name, func(t *testing.T) {
				t.Parallel()
				w := sockets.New(t)
				l := w.Listen(addr, 5)
				client := w.Dial(addr, w.Local(l))
				set := held(w, w.Accept(l))
				watcher := watch(w, set, test.policy)
				for _, s := range test.steps {
					s.do(w, client)
					if s.wake == 0 {
						asleep(t, watcher)
						continue
					}
					e := awake(t, watcher, s.wake)
					qt.Assert(t, qt.Equals(e.Remote.Addr(), addr))
				}
			})
		}
	}
}

// TestWatchStuck checks that output which was stuck when the app went to sleep
// wakes it once the peer reads on, and that an idle connection's does not.
func TestWatchStuck(t *testing.T) {
	t.Parallel()
	w := sockets.New(t)
	l := w.Listen(sockets.App4, 5)
	client := w.Dial(sockets.App4, w.Local(l))
	server := w.Accept(l)
	idle := w.Dial(sockets.App4, w.Local(l))
	idleServer := w.Accept(l)
	chunk := make([]byte, 64<<10)
	for {
		if _, err := unix.Write(int(server.Fd()), chunk); err != nil {
			qt.Assert(t, qt.ErrorIs(err, unix.EAGAIN))
			break
		}
	}
	set := held(w, server, idleServer)
	watcher := watch(w, set, wake.Policy{})
	asleep(t, watcher)
	read := make(chan struct{})
	go func() {
		defer close(read)
		for {
			if n, err := unix.Read(int(client.Fd()), chunk); n <= 0 && !errors.Is(err, unix.EAGAIN) {
				return
			}
		}
	}()
	awake(t, watcher, wake.Writable)
	qt.Assert(t, qt.IsNil(unix.Shutdown(int(client.Fd()), unix.SHUT_RD)))
	<-read
	sockets.Close(t, idle)
}

// TestWatchConnecting checks that an app that sleeps while it connects is woken by
// the outcome, here a refusal.
func TestWatchConnecting(t *testing.T) {
	t.Parallel()
	w := sockets.New(t)
	far := netip.MustParseAddrPort("192.0.2.1:80")
	host := &net.IPNet{IP: far.Addr().AsSlice(), Mask: net.CIDRMask(32, 32)}
	w.Do(func() { // packets to far come back and are dropped
		qt.Assert(t, qt.IsNil(netlink.RouteAdd(&netlink.Route{LinkIndex: 1, Dst: host, Scope: netlink.SCOPE_LINK})))
	})
	f := w.Bound(sockets.App4, unix.SOCK_STREAM, 0)
	qt.Assert(t, qt.ErrorIs(unix.Connect(int(f.Fd()), sockets.Sockaddr(far)), unix.EINPROGRESS))
	set := held(w, f)
	qt.Assert(t, qt.Equals(set.Sockets[0].State, "SYN_SENT"))
	watcher := watch(w, set, wake.Policy{})
	asleep(t, watcher)
	w.Do(func() { // now the next attempt is answered
		lo, err := netlink.LinkByName("lo")
		qt.Assert(t, qt.IsNil(err))
		qt.Assert(t, qt.IsNil(netlink.AddrAdd(lo, &netlink.Addr{IPNet: host})))
	})
	awake(t, watcher, wake.Writable)
}
