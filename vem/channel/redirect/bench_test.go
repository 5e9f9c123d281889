package redirect_test

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/go-quicktest/qt"
	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/testenv/host"
	"github.com/snapctl/snapctl/vem/channel"
)

const (
	slice = 16 << 20 // bytes: some milliseconds, shorter than what disturbs them
	pings = 300
	crowd = 8 // the most connections at once
)

// measure is something that is measured of connections.
type measure struct {
	name, unit string
	streams    []int // how many connections at once: a benchmark each
	of         func(b *testing.B, c connections) float64
}

var measures = []measure{
	// With the ends on two CPUs.
	{"throughput", "gbit/s", []int{1, crowd}, func(b *testing.B, c connections) float64 {
		b.Helper()
		return 8 * slice / c.stream(b, slice, 1).Seconds() / 1e9
	}},
	// With both ends on one CPU, which is busy until all bytes are there: whatever is done for them,
	// by whomever, is done on that CPU and takes its time.
	{"cpu", "ns/kB", []int{1, crowd}, func(b *testing.B, c connections) float64 {
		b.Helper()
		return float64(c.stream(b, slice, 0).Nanoseconds()) / (slice / 1000)
	}},
	// Of one byte, with both ends on one CPU.
	{"rtt", "us", []int{1}, func(b *testing.B, c connections) float64 {
		b.Helper()
		return float64(c[0].pingPong(b, pings).Nanoseconds()) / 1000
	}},
}

// BenchmarkChannel compares what apps on two hosts have of each other with what two hosts have of
// each other that have nothing but a cable between them, the bare underlay. A benchmark is called
// MEASURE/KIND/FAMILY, and /STREAMS if it is about bytes; the family is that of the connections and
// of the underlay.
//
// One of N is a round. In each the channel and the underlay take turns, and each is first every
// other time, so that a busy machine slows both. Reported are the channel's median, and as ratio
// the median of the rounds' ratios of channel and underlay.
//
// Each packet of a channel passes two veth pairs more than one of the underlay: those of the apps.
func BenchmarkChannel(b *testing.B) {
	lanes := make(map[string]*lane)
	for _, m := range measures {
		for _, kind := range []channel.Kind{channel.Direct, channel.Tunnel} {
			for _, family := range []string{"ipv4", "ipv6"} {
				for _, streams := range m.streams {
					name := m.name + "/" + kind.String() + "/" + family
					if len(m.streams) > 1 {
						name += fmt.Sprintf("/%d", streams)
					}
					b.Run(name, func(sub *testing.B) {
						if lanes[family] == nil {
							lanes[family] = newLane(b, family)
						}
						l := lanes[family]
						l.use(0, kind)
						compare(sub, m, l.apps[:streams], l.bare[:streams])
					})
				}
			}
		}
	}
}

// lane is a world with connections of a family: between apps, and between two more hosts, which have
// nothing but a cable.
type lane struct {
	*world
	apps, bare connections
}

func newLane(b *testing.B, family string) *lane {
	b.Helper()
	underlay := "192.0.2.0/24"
	if family == "ipv6" {
		underlay = "2001:db8::/64"
	}
	l := &lane{world: newWorld(b, underlay)}
	l.use(0, channel.Direct)
	gamma, delta := host.New(b, host.Config{Name: "gamma"}), host.New(b, host.Config{Name: "delta"})
	link, err := gamma.Link(b.Context(), delta, netip.MustParsePrefix(underlay))
	qt.Assert(b, qt.IsNil(err))
	from, to := l.attach(l.alpha, endpoint(2)), l.attach(l.beta, endpoint(3))
	at := to.ep.Addr4
	if family == "ipv6" {
		at = to.ep.Addr6
	}
	for range crowd {
		l.apps = append(l.apps, connect(b, from, to, at))
		l.bare = append(l.bare, connect(b, gamma, delta, link.B))
	}
	return l
}

// compare reports what is measured of some connections, and their ratio to others.
func compare(b *testing.B, m measure, ours, others connections) {
	b.Helper()
	var values, ratios []float64
	for range b.N {
		before := m.of(b, others)
		value := m.of(b, ours) + m.of(b, ours)
		values = append(values, value/2)
		ratios = append(ratios, value/(before+m.of(b, others)))
	}
	b.ReportMetric(median(values), m.unit)
	b.ReportMetric(median(ratios), "ratio")
	b.ReportMetric(0, "ns/op")
}

func median[T cmp.Ordered](v []T) T {
	slices.Sort(v)
	return v[len(v)/2]
}

// BenchmarkSwitch is the change of a host with 10,000 endpoints to another cable. The ratio is to
// writing all their routes anew, by turns.
func BenchmarkSwitch(b *testing.B) {
	w := newWorld(b, "192.0.2.0/24", "198.51.100.0/24")
	w.use(0, channel.Tunnel)
	routes := make([]channel.Route, 10_000)
	addr := prefix4.Addr()
	for i := range routes {
		addr = addr.Next()
		routes[i] = channel.Route{Addr: addr, Host: "beta", State: channel.Open}
	}
	qt.Assert(b, qt.IsNil(w.alpha.m.SetRoutes(b.Context(), routes)))
	hosts := []channel.Host{w.host(w.alpha, w.cables[0], channel.Tunnel), w.host(w.alpha, w.cables[1], channel.Tunnel)}
	var values, ratios []float64
	for n := range b.N {
		start := time.Now()
		qt.Assert(b, qt.IsNil(w.alpha.m.SetHost(b.Context(), hosts[(n+1)%2])))
		took := time.Since(start)
		start = time.Now()
		qt.Assert(b, qt.IsNil(w.alpha.m.SetRoutes(b.Context(), routes)))
		values = append(values, float64(took.Microseconds())/1000)
		ratios = append(ratios, took.Seconds()/time.Since(start).Seconds())
	}
	b.ReportMetric(median(values), "ms")
	b.ReportMetric(median(ratios), "ratio")
	b.ReportMetric(0, "ns/op")
}

// side is a host or an app.
type side interface {
	Do(fn func() error) error
	DialContext(ctx context.Context, network, address string) (net.Conn, error)
}

// connection is an open TCP connection with its server end. Both are blocking descriptors, used
// without Go's poller: its share of a round trip would hide the path's.
type connection struct{ client, server int }

func connect(b *testing.B, from, to side, at netip.Addr) connection {
	b.Helper()
	var l net.Listener
	qt.Assert(b, qt.IsNil(to.Do(func() (err error) {
		var lc net.ListenConfig
		l, err = lc.Listen(b.Context(), "tcp", netip.AddrPortFrom(at, 0).String())
		return err
	})))
	defer l.Close()
	client, err := from.DialContext(b.Context(), "tcp", l.Addr().String())
	qt.Assert(b, qt.IsNil(err))
	server, err := l.Accept()
	qt.Assert(b, qt.IsNil(err))
	return connection{blocking(b, client), blocking(b, server)}
}

func blocking(b *testing.B, c net.Conn) (fd int) {
	b.Helper()
	defer c.Close()
	tcp, ok := c.(*net.TCPConn)
	qt.Assert(b, qt.IsTrue(ok))
	f, err := tcp.File()
	qt.Assert(b, qt.IsNil(err))
	defer f.Close()
	fd, err = unix.Dup(int(f.Fd()))
	qt.Assert(b, qt.IsNil(err))
	b.Cleanup(func() { unix.Close(fd) })
	qt.Assert(b, qt.IsNil(unix.SetNonblock(fd, false)))
	return fd
}

// connections are several that are used at once.
type connections []connection

// stream sends size bytes in all. The clients are on the first CPU, the servers on the one of that
// number.
func (c connections) stream(b *testing.B, size int64, cpu int) time.Duration {
	b.Helper()
	done := make(chan error, 2*len(c))
	share := size / int64(len(c))
	start := time.Now()
	for _, one := range c {
		go func() { done <- one.send(b, share) }()
		go func() { done <- one.receive(b, share, cpu) }()
	}
	for range cap(done) {
		qt.Assert(b, qt.IsNil(<-done))
	}
	return time.Since(start)
}

const piece = 256 << 10

func (c connection) send(b *testing.B, size int64) error {
	b.Helper()
	defer pin(b, 0)()
	buf := make([]byte, piece)
	for left := size; left > 0; {
		n, err := unix.Write(c.client, buf[:min(left, piece)])
		if err != nil {
			return err
		}
		left -= int64(n)
	}
	return nil
}

func (c connection) receive(b *testing.B, size int64, cpu int) error {
	b.Helper()
	defer pin(b, cpu)()
	buf := make([]byte, piece)
	for left := size; left > 0; {
		n, err := unix.Read(c.server, buf)
		if n == 0 && err == nil {
			err = io.ErrUnexpectedEOF
		}
		if err != nil {
			return err
		}
		left -= int64(n)
	}
	return nil
}

// pingPong sends one byte there and back count times, both ends on one CPU, and returns the median.
func (c connection) pingPong(b *testing.B, count int) time.Duration {
	b.Helper()
	done := make(chan error, 1)
	go func() {
		defer pin(b, 0)()
		buf := make([]byte, 1)
		for range count {
			if _, err := unix.Read(c.server, buf); err != nil {
				done <- err
				return
			}
			if _, err := unix.Write(c.server, buf); err != nil {
				done <- err
				return
			}
		}
		done <- nil
	}()
	defer pin(b, 0)()
	buf, times := make([]byte, 1), make([]time.Duration, 0, count)
	for range count {
		start := time.Now()
		_, err := unix.Write(c.client, buf)
		if err == nil {
			_, err = unix.Read(c.client, buf)
		}
		if err != nil {
			b.Fatal(err)
		}
		times = append(times, time.Since(start))
	}
	qt.Assert(b, qt.IsNil(<-done))
	return median(times)
}

// pin keeps the calling goroutine on the n-th of the process's CPUs, as far as there are so many,
// until the returned function is called.
func pin(b *testing.B, n int) (undo func()) {
	b.Helper()
	runtime.LockOSThread() //nolint:forbidigo // about CPUs, not namespaces
	var all, one unix.CPUSet
	if err := unix.SchedGetaffinity(0, &all); err != nil {
		b.Error(err)
	}
	n %= all.Count()
	for cpu := 0; ; cpu++ {
		if !all.IsSet(cpu) {
			continue
		}
		if n--; n < 0 {
			one.Set(cpu)
			break
		}
	}
	if err := unix.SchedSetaffinity(0, &one); err != nil {
		b.Error(err)
	}
	return func() {
		if err := unix.SchedSetaffinity(0, &all); err != nil {
			b.Error(err)
		}
		runtime.UnlockOSThread() //nolint:forbidigo // about CPUs, not namespaces
	}
}
