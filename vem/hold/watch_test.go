package hold_test

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/go-quicktest/qt"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/vem/hold"
)

// TestWatchListener lets clients of a sleeping app's listener do things before
// they do what must wake it.
func TestWatchListener(t *testing.T) {
	type client func(w *world, to netip.AddrPort)
	type step struct {
		do   client
		wake hold.Reason // 0: it must not
	}
	ignore := []netip.Prefix{netip.MustParsePrefix("127.0.0.2/32"), netip.MustParsePrefix("fd00::2/128")}
	from := func(to netip.AddrPort) netip.Addr {
		if to.Addr().Is4() {
			return app4
		}
		return app6
	}
	monitor := func(to netip.AddrPort) netip.Addr {
		if to.Addr().Is4() {
			return other4
		}
		return other6
	}
	connect := func(w *world, to netip.AddrPort) { w.dial(from(to), to) }
	probe := func(w *world, to netip.AddrPort) { closeNow(w.t, w.dial(from(to), to)) }
	resetProbe := func(w *world, to netip.AddrPort) { reset(w.t, w.dial(from(to), to)) }
	halfClose := func(w *world, to netip.AddrPort) {
		f := w.dial(from(to), to)
		qt.Assert(w.t, qt.IsNil(unix.Shutdown(int(f.Fd()), unix.SHUT_WR)))
	}
	say := func(text string) client {
		return func(w *world, to netip.AddrPort) { w.write(w.dial(from(to), to), text) }
	}
	sayAndClose := func(w *world, to netip.AddrPort) {
		f := w.dial(from(to), to)
		w.write(f, "hello")
		closeNow(w.t, f)
	}
	monitored := func(w *world, to netip.AddrPort) { w.write(w.dial(monitor(to), to), "are you there") }

	tests := map[string]struct {
		policy hold.WakePolicy
		steps  []step
	}{
		"on-data: connect": {steps: []step{{connect, 0}, {say("x"), hold.Data}}},
		"on-data: probe":   {steps: []step{{probe, 0}, {resetProbe, 0}, {probe, 0}, {say("x"), hold.Data}}},
		"on-data: FIN":     {steps: []step{{halfClose, 0}, {say("x"), hold.Data}}},
		"on-data: close":   {steps: []step{{sayAndClose, hold.Data}}},
		"on-data: too little": {
			policy: hold.WakePolicy{MinBytes: 10},
			steps:  []step{{say("123456789"), 0}, {say("123456789"), 0}, {say("1234567890"), hold.Data}},
		},
		"on-data: full": {
			policy: hold.WakePolicy{MinBytes: 1 << 30},
			steps:  []step{{say("x"), 0}, {say(strings.Repeat("x", 30<<10)), hold.Data}},
		},
		"on-data: ignored": {
			policy: hold.WakePolicy{Ignore: ignore},
			steps:  []step{{monitored, 0}, {say("x"), hold.Data}},
		},
		"on-connect: connect":     {policy: hold.WakePolicy{Mode: hold.OnConnect}, steps: []step{{connect, hold.Connect}}},
		"on-connect: probe":       {policy: hold.WakePolicy{Mode: hold.OnConnect}, steps: []step{{probe, hold.Connect}}},
		"on-connect: ignored":     {policy: hold.WakePolicy{Mode: hold.OnConnect, Ignore: ignore}, steps: []step{{monitored, 0}, {connect, hold.Connect}}},
		"never":                   {policy: hold.WakePolicy{Mode: hold.Never}, steps: []step{{connect, 0}, {say("x"), 0}}},
		"on-data: many, then one": {steps: []step{{connect, 0}, {connect, 0}, {halfClose, 0}, {probe, 0}, {say("x"), hold.Data}}},
	}
	listeners := map[string]struct{ bind, to netip.Addr }{
		"IPv4":           {app4, app4},
		"IPv6":           {app6, app6},
		"any IPv4":       {netip.IPv4Unspecified(), app4},
		"any, from IPv6": {netip.IPv6Unspecified(), app6},
		"any, from IPv4": {netip.IPv6Unspecified(), app4},
	}
	for lname, l := range listeners {
		for name, test := range tests {
			if lname != "IPv4" && name != "on-data: probe" && name != "on-data: ignored" && name != "on-data: close" {
				continue // the address family makes no difference
			}
			t.Run(lname+"/"+name, func(t *testing.T) {
				t.Parallel()
				w := newWorld(t)
				f := w.listen(l.bind, 5)
				to := netip.AddrPortFrom(l.to, w.local(f).Port())
				set := w.hold(f)
				qt.Assert(t, qt.IsNil(set.Arm()))
				test.policy.SilentAfter = -1 // see TestWatchSilent
				watcher := w.watch(set, test.policy)
				for _, s := range test.steps {
					s.do(w, to)
					if s.wake == 0 {
						asleep(t, watcher)
						continue
					}
					e := awake(t, watcher, s.wake)
					qt.Assert(t, qt.Equals(e.Socket.Inode, set.Sockets[0].Inode))
					if s.wake == hold.Data {
						qt.Assert(t, qt.Equals(e.Remote.Addr(), from(to)))
					}
				}
			})
		}
	}
}

// TestWatchQueued lets a connection that has waited silently in the accept queue
// speak up: the listener itself does not show that.
func TestWatchQueued(t *testing.T) {
	for name, addr := range map[string]netip.Addr{"IPv4": app4, "IPv6": app6} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			l := w.listen(addr, 5)
			to := w.local(l)
			watcher := w.watch(w.hold(l), hold.WakePolicy{SilentAfter: -1})
			client := w.dial(addr, to)
			asleep(t, watcher)
			start := time.Now()
			got := make(chan hold.Event, 1)
			go func() { got <- awake(t, watcher, hold.Data) }()
			w.write(client, "hello")
			e := <-got
			qt.Assert(t, qt.Equals(e.Bytes, 5))
			qt.Assert(t, qt.Equals(e.Remote, w.local(client)))
			t.Logf("woken %v after the data was sent", time.Since(start))
		})
	}
}

// TestWatchQueuedWithoutTap does the same with only the timer to help.
func TestWatchQueuedWithoutTap(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	l := w.listen(app4, 5)
	to := w.local(l)
	set := w.hold(l)
	w.do(func() {
		// No namespace is given, so the watcher asks in that of its thread.
		watcher, err := hold.NewWatcher(set, hold.WakePolicy{SilentAfter: -1}, nil)
		qt.Check(t, qt.IsNil(err))
		defer watcher.Close()
		client := w.dial(app4, to)
		asleep(t, watcher)
		w.write(client, "hello")
		awake(t, watcher, hold.Data)
	})
}

// TestWatchSilent has connections stay open without a word: their clients wait for
// the app to speak first.
func TestWatchSilent(t *testing.T) {
	const patience = 400 * time.Millisecond
	ignore := []netip.Prefix{netip.MustParsePrefix("::ffff:127.0.0.2/128")}
	tests := map[string]struct {
		policy hold.WakePolicy
		from   netip.Addr
		do     func(w *world, client *os.File)
		wakes  bool
	}{
		"stays":                {from: app4, do: func(*world, *os.File) {}, wakes: true},
		"with a least of data": {policy: hold.WakePolicy{MinBytes: 10}, from: app4, do: func(*world, *os.File) {}, wakes: true},
		"has said too little":  {policy: hold.WakePolicy{MinBytes: 10}, from: app4, do: func(w *world, f *os.File) { w.write(f, "x") }},
		"hangs up":             {from: app4, do: func(w *world, f *os.File) { closeNow(w.t, f) }},
		"resets":               {from: app4, do: func(w *world, f *os.File) { reset(w.t, f) }},
		"ignored":              {policy: hold.WakePolicy{Ignore: ignore}, from: other4, do: func(*world, *os.File) {}},
		"switched off":         {policy: hold.WakePolicy{SilentAfter: -1}, from: app4, do: func(*world, *os.File) {}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			l := w.listen(app4, 5)
			if test.policy.SilentAfter == 0 {
				test.policy.SilentAfter = patience
			}
			to := w.local(l)
			watcher := w.watch(w.hold(l), test.policy)
			client := w.dial(test.from, to)
			test.do(w, client)
			if !test.wakes {
				asleepFor(t, watcher, 2*patience)
				return
			}
			e := awake(t, watcher, hold.Silent)
			qt.Assert(t, qt.Equals(e.Remote, w.local(client)))
		})
	}
}

// TestIgnores checks which sources a policy means.
func TestIgnores(t *testing.T) {
	for name, test := range map[string]struct {
		prefix, source string
		want           bool
	}{
		"IPv4":                   {"10.77.0.0/16", "10.77.0.1", true},
		"another IPv4":           {"10.77.0.0/16", "10.78.0.1", false},
		"mapped prefix":          {"::ffff:10.77.0.0/112", "10.77.0.1", true},
		"mapped prefix, another": {"::ffff:10.77.0.0/112", "10.78.0.1", false},
		"mapped source":          {"10.77.0.0/16", "::ffff:10.77.0.1", true},
		"both mapped":            {"::ffff:10.77.0.1/128", "::ffff:10.77.0.1", true},
		"IPv6 is not IPv4":       {"::/0", "10.77.0.1", false},
		"IPv6 with a zone":       {"fe80::/10", "fe80::1%eth0", true},
	} {
		t.Run(name, func(t *testing.T) {
			policy := hold.WakePolicy{Ignore: []netip.Prefix{netip.MustParsePrefix(test.prefix)}}
			qt.Assert(t, qt.IsNil(policy.Validate()))
			qt.Assert(t, qt.Equals(policy.Ignores(netip.MustParseAddr(test.source)), test.want))
		})
	}
	wide := hold.WakePolicy{Ignore: []netip.Prefix{netip.MustParsePrefix("::ffff:0.0.0.0/80")}}
	qt.Assert(t, qt.ErrorIs(wide.Validate(), hold.ErrPolicy))
}

// TestWatchConnection lets the peer of an established connection do things.
func TestWatchConnection(t *testing.T) {
	type peer func(w *world, f *os.File)
	say := func(text string) peer { return func(w *world, f *os.File) { w.write(f, text) } }
	fin := func(w *world, f *os.File) {
		qt.Assert(w.t, qt.IsNil(unix.Shutdown(int(f.Fd()), unix.SHUT_WR)))
	}
	rst := func(w *world, f *os.File) { reset(w.t, f) }
	fill := func(w *world, f *os.File) { // until the window is closed
		for chunk := make([]byte, 64<<10); ; {
			if _, err := unix.Write(int(f.Fd()), chunk); err != nil {
				qt.Assert(w.t, qt.ErrorIs(err, unix.EAGAIN))
				return
			}
		}
	}
	urgent := func(w *world, f *os.File) {
		qt.Assert(w.t, qt.IsNil(unix.Sendto(int(f.Fd()), []byte("!"), unix.MSG_OOB, nil)))
	}
	type step struct {
		do   peer
		wake hold.Reason
	}
	loopback := []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")}
	tests := map[string]struct {
		policy hold.WakePolicy
		steps  []step
	}{
		"on-data: data":       {steps: []step{{say("x"), hold.Data}}},
		"on-data: FIN":        {steps: []step{{fin, 0}}},
		"on-data: RST":        {steps: []step{{rst, 0}}},
		"on-data: data, FIN":  {policy: hold.WakePolicy{MinBytes: 4}, steps: []step{{say("123"), 0}, {fin, 0}}},
		"on-data: in pieces":  {policy: hold.WakePolicy{MinBytes: 4}, steps: []step{{say("12"), 0}, {say("3"), 0}, {say("4"), hold.Data}}},
		"on-data: urgent":     {steps: []step{{urgent, hold.Data}}},
		"on-data: ignored":    {policy: hold.WakePolicy{Ignore: loopback}, steps: []step{{say("hello"), 0}, {rst, 0}}},
		"on-data: full":       {policy: hold.WakePolicy{MinBytes: 1 << 30}, steps: []step{{say("hello"), 0}, {fill, hold.Data}}},
		"on-connect: data":    {policy: hold.WakePolicy{Mode: hold.OnConnect, MinBytes: 100}, steps: []step{{say("x"), hold.Data}}},
		"on-connect: FIN":     {policy: hold.WakePolicy{Mode: hold.OnConnect}, steps: []step{{fin, hold.Closed}}},
		"on-connect: RST":     {policy: hold.WakePolicy{Mode: hold.OnConnect}, steps: []step{{rst, hold.Closed}}},
		"on-connect: ignored": {policy: hold.WakePolicy{Mode: hold.OnConnect, Ignore: loopback}, steps: []step{{say("hello"), 0}, {fin, 0}}},
		"never":               {policy: hold.WakePolicy{Mode: hold.Never}, steps: []step{{say("hello"), 0}, {fin, 0}}},
	}
	for family, addr := range map[string]netip.Addr{"IPv4": app4, "IPv6": app6} {
		for name, test := range tests {
			t.Run(family+"/"+name, func(t *testing.T) {
				t.Parallel()
				w := newWorld(t)
				l := w.listen(addr, 5)
				client := w.dial(addr, w.local(l))
				set := w.hold(w.accept(l))
				watcher := w.watch(set, test.policy)
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
	w := newWorld(t)
	l := w.listen(app4, 5)
	client := w.dial(app4, w.local(l))
	server := w.accept(l)
	idle := w.dial(app4, w.local(l))
	idleServer := w.accept(l)
	chunk := make([]byte, 64<<10)
	for {
		if _, err := unix.Write(int(server.Fd()), chunk); err != nil {
			qt.Assert(t, qt.ErrorIs(err, unix.EAGAIN))
			break
		}
	}
	set := w.hold(server, idleServer)
	watcher := w.watch(set, hold.WakePolicy{})
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
	awake(t, watcher, hold.Writable)
	qt.Assert(t, qt.IsNil(unix.Shutdown(int(client.Fd()), unix.SHUT_RD)))
	<-read
	closeNow(t, idle)
}

// TestWatchConnecting checks that an app that sleeps while it connects is woken by
// the outcome, here a refusal.
func TestWatchConnecting(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	far := netip.MustParseAddrPort("192.0.2.1:80")
	host := &net.IPNet{IP: far.Addr().AsSlice(), Mask: net.CIDRMask(32, 32)}
	w.do(func() { // packets to far come back and are dropped
		qt.Assert(t, qt.IsNil(netlink.RouteAdd(&netlink.Route{LinkIndex: 1, Dst: host, Scope: netlink.SCOPE_LINK})))
	})
	f := w.bound(app4, unix.SOCK_STREAM, 0)
	qt.Assert(t, qt.ErrorIs(unix.Connect(int(f.Fd()), sockaddr(far)), unix.EINPROGRESS))
	set := w.hold(f)
	qt.Assert(t, qt.Equals(set.Sockets[0].State, "SYN_SENT"))
	watcher := w.watch(set, hold.WakePolicy{})
	asleep(t, watcher)
	w.do(func() { // now the next attempt is answered
		lo, err := netlink.LinkByName("lo")
		qt.Assert(t, qt.IsNil(err))
		qt.Assert(t, qt.IsNil(netlink.AddrAdd(lo, &netlink.Addr{IPNet: host})))
	})
	awake(t, watcher, hold.Writable)
}

func TestWatchDatagram(t *testing.T) {
	type step struct {
		from, text string
		wake       hold.Reason
	}
	ignore := []netip.Prefix{netip.MustParsePrefix("127.0.0.2/32"), netip.MustParsePrefix("fd00::2/128")}
	tests := map[string]struct {
		policy hold.WakePolicy
		steps  []step
	}{
		"any":                 {steps: []step{{"app", "x", hold.Datagram}}},
		"empty":               {steps: []step{{"app", "", hold.Datagram}}},
		"min bytes":           {policy: hold.WakePolicy{MinBytes: 100}, steps: []step{{"app", "x", hold.Datagram}}},
		"ignored":             {policy: hold.WakePolicy{Ignore: ignore}, steps: []step{{"other", "x", 0}, {"other", "", 0}, {"app", "hello", hold.Datagram}}},
		"on-connect":          {policy: hold.WakePolicy{Mode: hold.OnConnect}, steps: []step{{"app", "x", hold.Datagram}}},
		"on-connect: ignored": {policy: hold.WakePolicy{Mode: hold.OnConnect, Ignore: ignore}, steps: []step{{"other", "x", 0}, {"app", "x", hold.Datagram}}},
		"never":               {policy: hold.WakePolicy{Mode: hold.Never}, steps: []step{{"app", "x", 0}}},
	}
	families := map[string]struct{ bind, app, other netip.Addr }{
		"IPv4":           {app4, app4, other4},
		"IPv6":           {app6, app6, other6},
		"any, from IPv4": {netip.IPv6Unspecified(), app4, other4},
	}
	for fname, f := range families {
		for name, test := range tests {
			t.Run(fname+"/"+name, func(t *testing.T) {
				t.Parallel()
				w := newWorld(t)
				server := w.bound(f.bind, unix.SOCK_DGRAM, 0)
				to := netip.AddrPortFrom(f.app, w.local(server).Port())
				clients := map[string]*os.File{
					"app":   w.bound(f.app, unix.SOCK_DGRAM, 0),
					"other": w.bound(f.other, unix.SOCK_DGRAM, 0),
				}
				set := w.hold(server)
				watcher := w.watch(set, test.policy)
				var sent []string
				for _, s := range test.steps {
					w.sendto(clients[s.from], to, s.text)
					sent = append(sent, s.text)
					if s.wake == 0 {
						asleep(t, watcher)
						continue
					}
					e := awake(t, watcher, s.wake)
					if len(test.policy.Ignore) > 0 {
						qt.Assert(t, qt.Equals(e.Remote, w.local(clients[s.from])))
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
	w := newWorld(t)
	w.do(func() {
		qt.Assert(t, qt.IsNil(os.WriteFile("/proc/sys/net/ipv4/ping_group_range", []byte("0 0"), 0)))
	})
	icmp := w.bound(app4, unix.SOCK_DGRAM, unix.IPPROTO_ICMP)
	raw := w.bound(app4, unix.SOCK_RAW, unix.IPPROTO_ICMP)
	id := w.local(icmp).Port()
	sender := w.socket(unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_ICMP)
	set := w.hold(icmp, raw)
	qt.Assert(t, qt.HasLen(set.Sockets, 2))
	for _, policy := range []hold.WakePolicy{{}, {Ignore: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}}} {
		for i := range set.Sockets {
			one := hold.NewSet([]hold.Socket{set.Sockets[i]})
			watcher := w.watch(one, policy)
			reply := ping(id)
			reply[0] = 0 // an answer
			reply[3], reply[2] = checksum(reply)
			_, err := unix.SendmsgN(int(sender.Fd()), reply, nil, sockaddr(netip.AddrPortFrom(app4, 0)), 0)
			qt.Assert(t, qt.IsNil(err))
			awake(t, watcher, hold.Datagram)
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

// TestWatchBacklog fills an accept queue with dead probes: the app is woken
// before clients are turned away.
func TestWatchBacklog(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.do(func() {
		qt.Assert(t, qt.IsNil(os.WriteFile("/proc/sys/net/core/somaxconn", []byte("8"), 0)))
	})
	l := w.listen(app4, 3)
	to := w.local(l)
	set := w.hold(l)
	qt.Assert(t, qt.IsNil(set.Arm()))
	watcher := w.watch(set, hold.WakePolicy{})
	for range 5 {
		closeNow(t, w.dial(app4, to))
	}
	asleep(t, watcher)
	closeNow(t, w.dial(app4, to))
	awake(t, watcher, hold.Backlog)
}

func TestArm(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	l := w.listen(app4, 1)
	to := w.local(l)
	set := w.hold(l)
	qt.Assert(t, qt.Equals(set.Sockets[0].Backlog, 1))
	limit := func() int {
		info, err := unix.GetsockoptTCPInfo(int(set.Sockets[0].File.Fd()), unix.IPPROTO_TCP, unix.TCP_INFO)
		qt.Assert(t, qt.IsNil(err))
		return int(info.Sacked)
	}
	qt.Assert(t, qt.IsNil(set.Arm()))
	qt.Assert(t, qt.IsNil(set.Arm()))
	qt.Assert(t, qt.Equals(limit(), 4096))
	for range 100 {
		w.dial(app4, to)
	}
	// A later daemon undoes it.
	items, err := set.Items()
	qt.Assert(t, qt.IsNil(err))
	again, err := hold.FromItems(items)
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.IsNil(again.Disarm()))
	qt.Assert(t, qt.Equals(limit(), 1))
	for range 100 {
		w.accept(again.Sockets[0].File)
	}
}

func TestWatchEnds(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	set := w.hold(w.listen(app4, 1))

	t.Run("with the context", func(t *testing.T) {
		watcher := w.watch(set, hold.WakePolicy{})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() {
			_, err := watcher.Wait(ctx)
			done <- err
		}()
		cancel()
		qt.Assert(t, qt.ErrorIs(<-done, context.Canceled))
		_, err := watcher.Wait(ctx)
		qt.Assert(t, qt.ErrorIs(err, context.Canceled))
	})
	t.Run("with the watcher", func(t *testing.T) {
		watcher := w.watch(set, hold.WakePolicy{})
		done := make(chan error, 1)
		go func() {
			_, err := watcher.Wait(t.Context())
			done <- err
		}()
		qt.Assert(t, qt.IsNil(watcher.Close()))
		qt.Assert(t, qt.ErrorIs(<-done, os.ErrClosed))
	})
	t.Run("wrong policy", func(t *testing.T) {
		for _, p := range []hold.WakePolicy{{Mode: 7}, {MinBytes: -1}, {Ignore: []netip.Prefix{{}}}} {
			_, err := hold.NewWatcher(set, p, w.ns)
			qt.Assert(t, qt.ErrorIs(err, hold.ErrPolicy))
		}
	})
}
