package redirect_test

import (
	"context"
	"io"
	"net"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/go-quicktest/qt"
	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/vem/channel"
)

// BenchmarkChannel compares what apps on two hosts have of each other with what the hosts have
// over the same cable, the bare underlay, in the same run. Each channel takes turns with the
// underlay in slices of a few milliseconds, so that a busy machine slows both, and the median of
// the slices' ratios is reported:
//
//	throughput-ratio  of one TCP stream, its ends on two CPUs; 1 is as fast as the underlay
//	cpu-ratio         of the time for a byte with both ends on one CPU; 1 is as cheap
//	rtt-ratio         of a round trip of one byte; 1 is as short
//
// Each packet of a channel passes four veths more than one of the underlay: the apps' and the
// hosts' ends of both.
func BenchmarkChannel(b *testing.B) {
	for _, underlay := range []struct{ name, prefix string }{{"ipv4", "192.0.2.0/24"}, {"ipv6", "2001:db8::/64"}} {
		w := newWorld(b, underlay.prefix)
		w.use(0, channel.Direct)
		from, to := w.attach(w.alpha, endpoint(2)), w.attach(w.beta, endpoint(3))
		_, remote := w.ends(w.alpha, w.cables[0])
		bare := connect(b, w.alpha, w.beta, remote)
		control := connect(b, w.alpha, w.beta, remote)
		for _, path := range []struct {
			name string
			kind channel.Kind
			c    connection
		}{
			{"underlay", channel.Direct, control}, // against itself: the noise
			{"direct", channel.Direct, connect(b, from, to, to.ep.Addr4)},
			{"tunnel", channel.Tunnel, connect(b, from, to, to.ep.Addr4)},
			{"direct-ipv6", channel.Direct, connect(b, from, to, to.ep.Addr6)},
			{"tunnel-ipv6", channel.Tunnel, connect(b, from, to, to.ep.Addr6)},
		} {
			b.Run(path.name+"-over-"+underlay.name, func(b *testing.B) {
				w.use(0, path.kind)
				compare(b, path.c, bare)
			})
		}
	}
}

// compare reports a connection's ratios to another one.
func compare(b *testing.B, c, bare connection) {
	b.Helper()
	const size, count, rounds = 8 << 20, 300, 30
	for unit, measure := range map[string]func(connection) float64{
		"throughput-ratio": func(c connection) float64 { return size / c.stream(b, size, 1).Seconds() },
		"cpu-ratio":        func(c connection) float64 { return c.stream(b, size, 0).Seconds() },
		"rtt-ratio":        func(c connection) float64 { return c.pingPong(b, count).Seconds() },
	} {
		var ratios []float64
		for range rounds * b.N { // each of the two comes first every other time
			before := measure(bare)
			value := measure(c) + measure(c)
			ratios = append(ratios, value/(before+measure(bare)))
		}
		slices.Sort(ratios)
		b.ReportMetric(ratios[len(ratios)/2], unit)
	}
	b.ReportMetric(0, "ns/op")
}

// BenchmarkSwitch is the change of a host with 10,000 endpoints to another cable.
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
	var times []time.Duration
	for n := 1; b.Loop(); n++ {
		start := time.Now()
		qt.Assert(b, qt.IsNil(w.alpha.m.SetHost(b.Context(), hosts[n%2])))
		times = append(times, time.Since(start))
	}
	slices.Sort(times)
	b.ReportMetric(float64(times[len(times)/2].Microseconds())/1000, "switch-ms")
	b.ReportMetric(0, "ns/op")
}

// side is a host or an app.
type side interface {
	Do(fn func() error) error
	DialContext(ctx context.Context, network, address string) (net.Conn, error)
}

// connection is an open TCP connection with its server end. Both are blocking descriptors: the
// share of Go's poller in a round trip would hide the path's.
type connection struct{ client, server *os.File }

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

func blocking(b *testing.B, c net.Conn) *os.File {
	b.Helper()
	defer c.Close()
	tcp, ok := c.(*net.TCPConn)
	qt.Assert(b, qt.IsTrue(ok))
	f, err := tcp.File()
	qt.Assert(b, qt.IsNil(err))
	b.Cleanup(func() { f.Close() })
	qt.Assert(b, qt.IsNil(unix.SetNonblock(int(f.Fd()), false)))
	return f
}

// stream sends size bytes. The client is on the first CPU, the server on the one of that number.
func (c connection) stream(b *testing.B, size int64, cpu int) time.Duration {
	b.Helper()
	sent := make(chan error, 1)
	start := time.Now()
	go func() {
		defer pin(b, 0)()
		buf := make([]byte, 256<<10)
		for left := size; left > 0; {
			n, err := c.client.Write(buf[:min(left, int64(len(buf)))])
			if err != nil {
				sent <- err
				return
			}
			left -= int64(n)
		}
		sent <- nil
	}()
	defer pin(b, cpu)()
	_, err := io.CopyBuffer(onlyWriter{io.Discard}, io.LimitReader(c.server, size), make([]byte, 256<<10))
	qt.Assert(b, qt.IsNil(err))
	qt.Assert(b, qt.IsNil(<-sent))
	return time.Since(start)
}

// onlyWriter hides that io.Discard has a way of its own to read.
type onlyWriter struct{ io.Writer }

// pingPong sends one byte there and back count times, both ends on one CPU, and returns the median.
func (c connection) pingPong(b *testing.B, count int) time.Duration {
	b.Helper()
	done := make(chan error, 1)
	go func() {
		defer pin(b, 0)()
		buf := make([]byte, 1)
		for range count {
			if _, err := c.server.Read(buf); err != nil {
				done <- err
				return
			}
			if _, err := c.server.Write(buf); err != nil {
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
		_, err := c.client.Write(buf)
		if err == nil {
			_, err = c.client.Read(buf)
		}
		qt.Assert(b, qt.IsNil(err))
		times = append(times, time.Since(start))
	}
	qt.Assert(b, qt.IsNil(<-done))
	slices.Sort(times)
	return times[len(times)/2]
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
