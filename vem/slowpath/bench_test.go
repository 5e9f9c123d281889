package slowpath_test

import (
	"context"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/go-quicktest/qt"
	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/vem/slowpath"
)

// BenchmarkFirstPacket is how long a connection takes to an endpoint that has no way yet: the
// resolver answers at once, and the way is two routes of the kernel. Beside it, by turns, is one
// for which there is a route.
func BenchmarkFirstPacket(b *testing.B) {
	s := newSite(b)
	s.serve("80")
	p := s.open(s.options())
	known := addr("10.77.1.250")
	qt.Assert(b, qt.IsNil(way{s, known}.Open(b.Context())))
	var slow, plain []float64
	for i := 0; b.Loop(); i++ {
		to := netip.AddrFrom4([4]byte{10, 77, 1, byte(1 + i%200)})
		plain = append(plain, s.connectTime(known))
		slow = append(slow, s.connectTime(to))
		eventually(b, "the way is open", func() bool { return s.hasWay(to) })
		s.closeWay(to)
		p.Forget(to)
	}
	report(b, slow, plain)
}

// connectTime connects and returns how many microseconds it took.
func (s *site) connectTime(to netip.Addr) float64 {
	s.tb.Helper()
	var took time.Duration
	qt.Assert(s.tb, qt.IsNil(s.app.Do(func() error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		start := time.Now()
		err = unix.Connect(fd, &unix.SockaddrInet4{Addr: to.As4(), Port: 80})
		took = time.Since(start)
		return err
	})))
	return float64(took.Nanoseconds()) / 1000
}

// BenchmarkPacket is what a packet costs that waits: from the first of many that are sent until
// the last of them has arrived, by the slow path and by a route of the kernel, by turns.
func BenchmarkPacket(b *testing.B) {
	const count = 200 // few enough for send not to wait
	s := newSite(b)
	k := s.listen("udp4", ":7")
	p := s.open(s.options())
	known, held := addr("10.77.1.250"), addr("10.77.1.1")
	qt.Assert(b, qt.IsNil(way{s, known}.Open(b.Context())))
	s.setResolve(func(_ context.Context, q slowpath.Query) (slowpath.Way, error) {
		return prepared{way{s, q.Destination}}, nil
	})
	arrives := func(to netip.Addr, then func()) float64 {
		c := s.mustDial("udp", netip.AddrPortFrom(to, 7).String())
		defer c.Close()
		before := len(k.from(c.LocalAddr())) // from a port that was used before
		start := time.Now()
		s.send(c, 0, count, 1000)
		then()
		eventually(b, "all arrive", func() bool { return len(k.from(c.LocalAddr())) == before+count })
		return float64(time.Since(start).Nanoseconds()) / 1000 / count
	}
	var slow, plain []float64
	for b.Loop() {
		plain = append(plain, arrives(known, func() {}))
		qt.Assert(b, qt.IsNil(p.Gate(b.Context(), held)))
		slow = append(slow, arrives(held, func() {
			eventually(b, "all wait", func() bool { return p.Snapshot().Packets == count })
			p.Release(held)
		}))
	}
	report(b, slow, plain)
}

// prepared is a way that is never opened for all.
type prepared struct{ way }

func (prepared) Open(context.Context) error { return nil }

func report(b *testing.B, slow, plain []float64) {
	b.Helper()
	median := func(v []float64) float64 {
		slices.Sort(v)
		return v[len(v)/2]
	}
	ratios := make([]float64, len(slow))
	for i := range slow {
		ratios[i] = slow[i] / plain[i]
	}
	b.ReportMetric(median(ratios), "ratio")
	b.ReportMetric(median(slow), "slow-us")
	b.ReportMetric(median(plain), "plain-us")
	b.ReportMetric(0, "ns/op")
}
