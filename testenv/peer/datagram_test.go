package peer_test

import (
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-quicktest/qt"

	"github.com/snapctl/snapctl/testenv/host"
	"github.com/snapctl/snapctl/testenv/peer"
)

// badDatagramProxy passes datagrams of one client to the server, and what the
// server answers, each tenth one through disturb.
func badDatagramProxy(t *testing.T, h *host.Host, d peer.Direction, disturb func(send func([]byte), b []byte)) {
	t.Helper()
	front, err := h.ListenPacket(t.Context(), "udp", proxyAddr)
	qt.Assert(t, qt.IsNil(err))
	back, err := h.DialContext(t.Context(), "udp", serverAddr)
	qt.Assert(t, qt.IsNil(err))
	var client atomic.Pointer[net.Addr]
	toClient := func(b []byte) { _, _ = front.WriteTo(b, *client.Load()) }
	toServer := func(b []byte) { _, _ = back.Write(b) }
	pass := func(n int, way peer.Direction, send func([]byte), b []byte) {
		if way == d && n%10 == 0 {
			disturb(send, b)
			return
		}
		send(b)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for i := 1; ; i++ {
			b := make([]byte, 2048)
			n, from, err := front.ReadFrom(b)
			if err != nil {
				return
			}
			client.Store(&from)
			pass(i, peer.Up, toServer, b[:n])
		}
	})
	wg.Go(func() {
		for i := 1; ; i++ {
			b := make([]byte, 2048)
			n, err := back.Read(b)
			if err != nil {
				return
			}
			pass(i, peer.Down, toClient, b[:n])
		}
	})
	t.Cleanup(func() {
		qt.Check(t, qt.IsNil(errors.Join(front.Close(), back.Close())))
		wg.Wait()
	})
}

func TestBadDatagrams(t *testing.T) {
	tests := map[string]struct {
		disturb func() func(send func([]byte), b []byte)
		want    peer.Kind // 0: none
		check   func(peer.Stats) bool
	}{
		"loses": {
			want: peer.Loss, check: func(st peer.Stats) bool { return st.Lost > 0 && st.Duplicated == 0 },
			disturb: func() func(func([]byte), []byte) { return func(func([]byte), []byte) {} },
		},
		"repeats": {
			want: peer.Duplicate, check: func(st peer.Stats) bool { return st.Lost == 0 && st.Duplicated > 0 },
			disturb: func() func(func([]byte), []byte) {
				return func(send func([]byte), b []byte) { send(b); send(b) }
			},
		},
		"reorders": {
			check: func(st peer.Stats) bool { return st.Lost == 0 && st.Duplicated == 0 && st.Reordered > 0 },
			disturb: func() func(func([]byte), []byte) {
				return func(send func([]byte), b []byte) { time.AfterFunc(20*time.Millisecond, func() { send(b) }) }
			},
		},
		"corrupts": {
			want: peer.Corrupt, check: func(st peer.Stats) bool { return len(st.Faults) == 1 },
			disturb: func() func(func([]byte), []byte) {
				return func(send func([]byte), b []byte) { send(append(b, 0)) }
			},
		},
	}
	for name, tt := range tests {
		for _, d := range []peer.Direction{peer.Up, peer.Down} {
			t.Run(name+" "+d.String(), func(t *testing.T) {
				t.Parallel()
				h := host.New(t, host.Config{})
				serve(t, h)
				badDatagramProxy(t, h, d, tt.disturb())
				load, err := peer.Dial(t.Context(), h, peer.Target{UDP: proxyAddr, Flows: 1, Pattern: brisk})
				qt.Assert(t, qt.IsNil(err))
				progress(t, load)
				st, err := stop(t, load)
				qt.Check(t, qt.IsTrue(tt.check(st)), qt.Commentf("%+v", st))
				if tt.want == 0 {
					qt.Check(t, qt.IsNil(err))
					return
				}
				qt.Assert(t, qt.HasLen(st.Faults, 1))
				qt.Check(t, qt.Equals(st.Faults[0].Kind, tt.want), qt.Commentf("%v", err))
			})
		}
	}
}
