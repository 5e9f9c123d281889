package wake_test

import (
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/go-quicktest/qt"
	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/testenv/sockets"
	"github.com/snapctl/snapctl/vem/wake"
)

// TestWatchListener lets clients of a sleeping app's listener do things before
// they do what must wake it.
func TestWatchListener(t *testing.T) {
	type client func(w *sockets.World, to netip.AddrPort)
	type step struct {
		do   client
		wake wake.Reason // 0: it must not
	}
	ignore := []netip.Prefix{netip.MustParsePrefix("127.0.0.2/32"), netip.MustParsePrefix("fd00::2/128")}
	from := func(to netip.AddrPort) netip.Addr {
		if to.Addr().Is4() {
			return sockets.App4
		}
		return sockets.App6
	}
	monitor := func(to netip.AddrPort) netip.Addr {
		if to.Addr().Is4() {
			return sockets.Other4
		}
		return sockets.Other6
	}
	connect := func(w *sockets.World, to netip.AddrPort) { w.Dial(from(to), to) }
	probe := func(w *sockets.World, to netip.AddrPort) { sockets.Close(w.T, w.Dial(from(to), to)) }
	resetProbe := func(w *sockets.World, to netip.AddrPort) { sockets.Reset(w.T, w.Dial(from(to), to)) }
	halfClose := func(w *sockets.World, to netip.AddrPort) {
		f := w.Dial(from(to), to)
		qt.Assert(w.T, qt.IsNil(unix.Shutdown(int(f.Fd()), unix.SHUT_WR)))
	}
	say := func(text string) client {
		return func(w *sockets.World, to netip.AddrPort) { w.Write(w.Dial(from(to), to), text) }
	}
	sayAndClose := func(w *sockets.World, to netip.AddrPort) {
		f := w.Dial(from(to), to)
		w.Write(f, "hello")
		sockets.Close(w.T, f)
	}
	monitored := func(w *sockets.World, to netip.AddrPort) { w.Write(w.Dial(monitor(to), to), "are you there") }

	tests := map[string]struct {
		policy wake.Policy
		steps  []step
	}{
		"on-data: connect": {steps: []step{{connect, 0}, {say("x"), wake.Data}}},
		"on-data: probe":   {steps: []step{{probe, 0}, {resetProbe, 0}, {probe, 0}, {say("x"), wake.Data}}},
		"on-data: FIN":     {steps: []step{{halfClose, 0}, {say("x"), wake.Data}}},
		"on-data: close":   {steps: []step{{sayAndClose, wake.Data}}},
		"on-data: too little": {
			policy: wake.Policy{MinBytes: 10},
			steps:  []step{{say("123456789"), 0}, {say("123456789"), 0}, {say("1234567890"), wake.Data}},
		},
		"on-data: full": {
			policy: wake.Policy{MinBytes: 1 << 30},
			steps:  []step{{say("x"), 0}, {say(strings.Repeat("x", 30<<10)), wake.Data}},
		},
		"on-data: ignored": {
			policy: wake.Policy{Ignore: ignore},
			steps:  []step{{monitored, 0}, {say("x"), wake.Data}},
		},
		"on-connect: connect":     {policy: wake.Policy{Mode: wake.OnConnect}, steps: []step{{connect, wake.Connect}}},
		"on-connect: probe":       {policy: wake.Policy{Mode: wake.OnConnect}, steps: []step{{probe, wake.Connect}}},
		"on-connect: ignored":     {policy: wake.Policy{Mode: wake.OnConnect, Ignore: ignore}, steps: []step{{monitored, 0}, {connect, wake.Connect}}},
		"never":                   {policy: wake.Policy{Mode: wake.Never}, steps: []step{{connect, 0}, {say("x"), 0}}},
		"on-data: many, then one": {steps: []step{{connect, 0}, {connect, 0}, {halfClose, 0}, {probe, 0}, {say("x"), wake.Data}}},
	}
	listeners := map[string]struct{ bind, to netip.Addr }{
		"IPv4":           {sockets.App4, sockets.App4},
		"IPv6":           {sockets.App6, sockets.App6},
		"any IPv4":       {netip.IPv4Unspecified(), sockets.App4},
		"any, from IPv6": {netip.IPv6Unspecified(), sockets.App6},
		"any, from IPv4": {netip.IPv6Unspecified(), sockets.App4},
	}
	for lname, l := range listeners {
		for name, test := range tests {
			if lname != "IPv4" && name != "on-data: probe" && name != "on-data: ignored" && name != "on-data: close" {
				continue // the address family makes no difference
			}
			t.Run(lname+"/"+name, func(t *testing.T) {
				t.Parallel()
				w := sockets.New(t)
				f := w.Listen(l.bind, 5)
				to := netip.AddrPortFrom(l.to, w.Local(f).Port())
				set := held(w, f)
				qt.Assert(t, qt.IsNil(set.Arm()))
				test.policy.SilentAfter = -1 // see TestWatchSilent
				watcher := watch(w, set, test.policy)
				for _, s := range test.steps {
					s.do(w, to)
					if s.wake == 0 {
						asleep(t, watcher)
						continue
					}
					e := awake(t, watcher, s.wake)
					qt.Assert(t, qt.Equals(e.Socket.Inode, set.Sockets[0].Inode))
					if s.wake == wake.Data {
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
	for name, addr := range map[string]netip.Addr{"IPv4": sockets.App4, "IPv6": sockets.App6} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := sockets.New(t)
			l := w.Listen(addr, 5)
			to := w.Local(l)
			watcher := watch(w, held(w, l), wake.Policy{SilentAfter: -1})
			client := w.Dial(addr, to)
			asleep(t, watcher)
			start := time.Now()
			got := make(chan wake.Event, 1)
			go func() { got <- awake(t, watcher, wake.Data) }()
			w.Write(client, "hello")
			e := <-got
			qt.Assert(t, qt.Equals(e.Bytes, 5))
			qt.Assert(t, qt.Equals(e.Remote, w.Local(client)))
			t.Logf("woken %v after the data was sent", time.Since(start))
		})
	}
}

// TestWatchQueuedWithoutTap does the same with only the timer to help.
func TestWatchQueuedWithoutTap(t *testing.T) {
	t.Parallel()
	w := sockets.New(t)
	l := w.Listen(sockets.App4, 5)
	to := w.Local(l)
	set := held(w, l)
	w.Do(func() {
		// No namespace is given, so the watcher asks in that of its thread.
		watcher, err := wake.NewWatcher(set, wake.Policy{SilentAfter: -1}, nil)
		qt.Check(t, qt.IsNil(err))
		defer watcher.Close()
		client := w.Dial(sockets.App4, to)
		asleep(t, watcher)
		w.Write(client, "hello")
		awake(t, watcher, wake.Data)
	})
}

// TestWatchSilent has connections stay open without a word: their clients wait for
// the app to speak first.
func TestWatchSilent(t *testing.T) {
	const patience = 400 * time.Millisecond
	ignore := []netip.Prefix{netip.MustParsePrefix("::ffff:127.0.0.2/128")}
	tests := map[string]struct {
		policy wake.Policy
		from   netip.Addr
		do     func(w *sockets.World, client *os.File)
		wakes  bool
	}{
		"stays":                {from: sockets.App4, do: func(*sockets.World, *os.File) {}, wakes: true},
		"with a least of data": {policy: wake.Policy{MinBytes: 10}, from: sockets.App4, do: func(*sockets.World, *os.File) {}, wakes: true},
		"has said too little":  {policy: wake.Policy{MinBytes: 10}, from: sockets.App4, do: func(w *sockets.World, f *os.File) { w.Write(f, "x") }},
		"hangs up":             {from: sockets.App4, do: func(w *sockets.World, f *os.File) { sockets.Close(w.T, f) }},
		"resets":               {from: sockets.App4, do: func(w *sockets.World, f *os.File) { sockets.Reset(w.T, f) }},
		"ignored":              {policy: wake.Policy{Ignore: ignore}, from: sockets.Other4, do: func(*sockets.World, *os.File) {}},
		"switched off":         {policy: wake.Policy{SilentAfter: -1}, from: sockets.App4, do: func(*sockets.World, *os.File) {}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := sockets.New(t)
			l := w.Listen(sockets.App4, 5)
			if test.policy.SilentAfter == 0 {
				test.policy.SilentAfter = patience
			}
			to := w.Local(l)
			watcher := watch(w, held(w, l), test.policy)
			client := w.Dial(test.from, to)
			test.do(w, client)
			if !test.wakes {
				asleepFor(t, watcher, 2*patience)
				return
			}
			e := awake(t, watcher, wake.Silent)
			qt.Assert(t, qt.Equals(e.Remote, w.Local(client)))
		})
	}
}

// TestWatchBacklog fills an accept queue with dead probes: the app is woken
// before clients are turned away.
func TestWatchBacklog(t *testing.T) {
	t.Parallel()
	w := sockets.New(t)
	w.Do(func() {
		qt.Assert(t, qt.IsNil(os.WriteFile("/proc/sys/net/core/somaxconn", []byte("8"), 0)))
	})
	l := w.Listen(sockets.App4, 3)
	to := w.Local(l)
	set := held(w, l)
	qt.Assert(t, qt.IsNil(set.Arm()))
	watcher := watch(w, set, wake.Policy{})
	for range 5 {
		sockets.Close(t, w.Dial(sockets.App4, to))
	}
	asleep(t, watcher)
	sockets.Close(t, w.Dial(sockets.App4, to))
	awake(t, watcher, wake.Backlog)
}
