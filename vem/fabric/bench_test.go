package fabric_test

import (
	"cmp"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/go-quicktest/qt"
	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/vem/fabric"
	"github.com/snapctl/snapctl/vem/netns"
)

// The benchmarks compare the fabric with a plain veth pair between two namespaces,
// all settings at the kernel's defaults. Plain and fabric take turns in slices of a
// few milliseconds, so that a busy machine slows both, and the median of the slices'
// ratios is reported. A ratio of 1 means as good as plain.

func BenchmarkThroughput(b *testing.B) {
	const slice = 8 << 20 // 2 ms: shorter than what disturbs it
	compare(b, "gbit/s", 100, func(c connection) float64 {
		return c.stream(b, slice, 1) * 8 / 1e9
	})
}

// BenchmarkThroughputOneCPU has both ends on one CPU. It is lower, and the steadier
// measure of what a byte costs: nobody waits for another CPU.
func BenchmarkThroughputOneCPU(b *testing.B) {
	const slice = 8 << 20
	compare(b, "gbit/s", 100, func(c connection) float64 {
		return c.stream(b, slice, 0) * 8 / 1e9
	})
}

func BenchmarkRTT(b *testing.B) {
	const count = 300
	compare(b, "rtt-us", 20, func(c connection) float64 {
		return float64(c.pingPong(b, count)) / float64(time.Microsecond)
	})
}

// BenchmarkAttach is what a start of an app waits for.
func BenchmarkAttach(b *testing.B) {
	f := open(b, testConfig(b))
	app := newNS(b)
	var attached time.Duration
	for b.Loop() {
		start := time.Now()
		qt.Assert(b, qt.IsNil(f.Attach(b.Context(), ep(2), app)))
		attached += time.Since(start)
		qt.Assert(b, qt.IsNil(f.Detach(b.Context(), ep(2))))
	}
	b.ReportMetric(float64(attached.Microseconds())/1000/float64(b.N), "attach-ms")
}

// compare runs measure by turns on a plain pair and on each kind of path.
func compare(b *testing.B, unit string, rounds int, measure func(connection) float64) {
	b.Helper()
	one, two := plainPair(b)
	plain := connect(b, one, two, netip.MustParseAddrPort("192.0.2.2:9"))
	plain6 := connect(b, one, two, netip.MustParseAddrPort("[2001:db8::2]:9"))

	// A plain pair as it is on a host that tracks connections anyway.
	three, four := plainPair(b)
	track(b, three)
	tracked := connect(b, three, four, netip.MustParseAddrPort("192.0.2.2:9"))

	cfg := testConfig(b)
	f := open(b, cfg)
	app, app2 := attach(b, f, ep(2)), attach(b, f, ep(3))
	// Clones listen at the address that they have inside.
	clone4, clone5 := attach(b, f, clone(4)), attach(b, f, clone(5))

	// A host that translates addresses tracks connections, these too.
	nat := testConfig(b)
	nat.Outside = fabric.OutsideIPv4
	f = open(b, nat)
	natApp := attach(b, f, ep(2))
	qt.Assert(b, qt.IsNil(f.SetPublications(b.Context(), []fabric.Publication{
		{Proto: "tcp", HostPort: 8080, Addr: ep(2).Addr4, Port: 11},
	})))
	for _, path := range []struct {
		name     string
		from, to *netns.NS
		addr     string
		plain    connection
		listen   string // empty: addr
	}{
		{"app-app", app, app2, "10.77.0.3:9", plain, ""},
		{"host-app", cfg.Host, app2, "10.77.0.3:10", plain, ""},
		{"app-host", app, cfg.Host, "10.77.0.1:9", plain, ""},
		{"app-app-ipv6", app, app2, "[fd77::3]:9", plain6, ""},
		{"clone-clone", clone4, clone5, "10.77.0.5:9", plain, inside.Addr4.String()},
		{"clone-clone-ipv6", clone4, clone5, "[fd77::5]:9", plain6, inside.Addr6.String()},
		{"app-clone", app, clone5, "10.77.0.5:10", plain, inside.Addr4.String()},
		{"host-app-nat", nat.Host, natApp, "10.77.0.2:10", plain, ""},
		{"host-app-nat-tracked", nat.Host, natApp, "10.77.0.2:9", tracked, ""},
		{"control", one, two, "192.0.2.2:10", plain, ""}, // plain against plain: the noise
	} {
		b.Run(path.name, func(b *testing.B) {
			addr := netip.MustParseAddrPort(path.addr)
			listen := addr
			if path.listen != "" {
				listen = netip.AddrPortFrom(netip.MustParseAddr(path.listen), addr.Port())
			}
			c := connectTo(b, path.from, path.to, listen, addr)
			var ratios, values []float64
			for b.Loop() {
				for range rounds {
					// Each comes first every other time.
					before := measure(path.plain)
					value := (measure(c) + measure(c)) / 2
					ratios = append(ratios, 2*value/(before+measure(path.plain)))
					values = append(values, value)
				}
			}
			b.ReportMetric(median(ratios), "ratio")
			b.ReportMetric(median(values), unit)
			b.ReportMetric(0, "ns/op")
		})
	}
}

func median[T cmp.Ordered](v []T) T {
	v = slices.Sorted(slices.Values(v))
	return v[len(v)/2]
}

// plainPair makes two namespaces joined by a veth pair with default settings.
func plainPair(b *testing.B) (one, two *netns.NS) {
	b.Helper()
	one, two = newNS(b), newNS(b)
	joinPair(b, one, two, "eth0")
	return one, two
}

// track makes a namespace track connections, as any stateful firewall rule does.
func track(b *testing.B, ns *netns.NS) {
	b.Helper()
	c, err := nftables.New(nftables.WithNetNSFd(int(ns.File().Fd())))
	qt.Assert(b, qt.IsNil(err))
	table := c.AddTable(&nftables.Table{Name: "firewall", Family: nftables.TableFamilyINet})
	chain := c.AddChain(&nftables.Chain{
		Name: "input", Table: table, Type: nftables.ChainTypeFilter,
		Hooknum: nftables.ChainHookInput, Priority: nftables.ChainPriorityFilter,
	})
	c.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: []expr.Any{
		&expr.Ct{Key: expr.CtKeySTATE, Register: 1},
		&expr.Bitwise{
			SourceRegister: 1, DestRegister: 1, Len: 4,
			Mask: binaryutil.NativeEndian.PutUint32(expr.CtStateBitESTABLISHED), Xor: make([]byte, 4),
		},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: make([]byte, 4)},
		&expr.Verdict{Kind: expr.VerdictAccept},
	}})
	qt.Assert(b, qt.IsNil(c.Flush()))
}

// connection is an open TCP connection with its server end. Both are blocking
// descriptors used directly: the Go poller's share of a round trip would hide the
// path's.
type connection struct{ client, server *os.File }

func connect(b *testing.B, from, to *netns.NS, addr netip.AddrPort) connection {
	b.Helper()
	return connectTo(b, from, to, addr, addr)
}

// connectTo connects to a server that knows its address as another one.
func connectTo(b *testing.B, from, to *netns.NS, listen, addr netip.AddrPort) connection {
	b.Helper()
	var c connection
	domain := unix.AF_INET
	if addr.Addr().Is6() {
		domain = unix.AF_INET6
	}
	sockaddr := func(a netip.AddrPort) unix.Sockaddr {
		if a.Addr().Is6() {
			return &unix.SockaddrInet6{Addr: a.Addr().As16(), Port: int(a.Port())}
		}
		return &unix.SockaddrInet4{Addr: a.Addr().As4(), Port: int(a.Port())}
	}
	socket := func(ns *netns.NS) (fd int) {
		qt.Assert(b, qt.IsNil(ns.Do(func() (err error) {
			fd, err = unix.Socket(domain, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
			return err
		})))
		return fd
	}
	listener := socket(to)
	defer unix.Close(listener)
	qt.Assert(b, qt.IsNil(unix.SetsockoptInt(listener, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)))
	qt.Assert(b, qt.IsNil(unix.Bind(listener, sockaddr(listen))))
	qt.Assert(b, qt.IsNil(unix.Listen(listener, 1)))
	client := socket(from)
	// The default timeout of a lost SYN would make a broken path look like a hang.
	timeout := unix.Timeval{Sec: 5}
	qt.Assert(b, qt.IsNil(unix.SetsockoptTimeval(client, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &timeout)))
	qt.Assert(b, qt.IsNil(unix.Connect(client, sockaddr(addr))))
	server, _, err := unix.Accept4(listener, unix.SOCK_CLOEXEC)
	qt.Assert(b, qt.IsNil(err))
	for _, fd := range []int{client, server} {
		qt.Assert(b, qt.IsNil(unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)))
	}
	c = connection{os.NewFile(uintptr(client), "client"), os.NewFile(uintptr(server), "server")}
	b.Cleanup(func() { c.client.Close(); c.server.Close() })
	return c
}

// stream sends size bytes from client to server and returns the bytes per second.
// The client is on the first CPU, the server on the one of that number.
func (c connection) stream(b *testing.B, size, cpu int) float64 {
	b.Helper()
	sent := make(chan error)
	start := time.Now()
	go func() {
		defer pin(b, 0)()
		buf := make([]byte, 256<<10)
		for left := size; left > 0; {
			n, err := c.client.Write(buf[:min(left, len(buf))])
			if err != nil {
				sent <- err
				return
			}
			left -= n
		}
		sent <- nil
	}()
	defer pin(b, cpu)()
	buf := make([]byte, 256<<10)
	for left := size; left > 0; {
		n, err := c.server.Read(buf)
		if err != nil {
			b.Fatal(err)
		}
		left -= n
	}
	took := time.Since(start)
	if err := <-sent; err != nil {
		b.Fatal(err)
	}
	return float64(size) / took.Seconds()
}

// pingPong sends one byte there and back count times and returns the median time.
// Both ends share a CPU: what another wakes up would be the larger part of it.
func (c connection) pingPong(b *testing.B, count int) time.Duration {
	b.Helper()
	done := make(chan error)
	go func() {
		defer pin(b, 0)()
		var buf [1]byte
		for range count {
			if _, err := c.server.Read(buf[:]); err != nil {
				done <- err
				return
			}
			if _, err := c.server.Write(buf[:]); err != nil {
				done <- err
				return
			}
		}
		done <- nil
	}()
	defer pin(b, 0)()
	var buf [1]byte
	times := make([]time.Duration, 0, count)
	for range count {
		start := time.Now()
		if _, err := c.client.Write(buf[:]); err != nil {
			b.Fatal(err)
		}
		if _, err := c.client.Read(buf[:]); err != nil {
			b.Fatal(err)
		}
		times = append(times, time.Since(start))
	}
	if err := <-done; err != nil {
		b.Fatal(err)
	}
	return median(times)
}

// pin keeps the calling goroutine on the n-th of the process's CPUs, as far as
// there are so many, until the returned function is called.
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
