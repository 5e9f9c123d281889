package channeltest

import (
	"context"
	"io"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"
)

// Side is a host, or an app: a network namespace.
type Side interface {
	Do(fn func() error) error
	DialContext(ctx context.Context, network, address string) (net.Conn, error)
}

// Connection is an open TCP connection with its server end.
type Connection struct{ client, server net.Conn }

// Connect opens a connection between two sides, to an address of the second one. The benchmark's end
// closes it.
func Connect(b *testing.B, from, to Side, at netip.Addr) Connection {
	b.Helper()
	var l net.Listener
	check(b, to.Do(func() (err error) {
		l, err = (&net.ListenConfig{}).Listen(b.Context(), "tcp", netip.AddrPortFrom(at, 0).String())
		return err
	}))
	defer l.Close() //nolint:errcheck // it has served its purpose
	client, err := from.DialContext(b.Context(), "tcp", l.Addr().String())
	check(b, err)
	server, err := l.Accept()
	check(b, err)
	b.Cleanup(func() {
		check(b, client.Close())
		check(b, server.Close())
	})
	return Connection{client, server}
}

func check(b *testing.B, err error) {
	b.Helper()
	if err != nil {
		b.Fatal(err)
	}
}

// Compared are connections that take turns.
type Compared struct {
	Channel Connection // between apps, over the channel
	Hand    Connection // between apps, over the same device set up by hand
	Bare    Connection // between the hosts
}

// Compare measures throughput (metric gbit/s) and round trips (us) of a channel, and what they are by
// those of the others: gbit/s-by-hand, gbit/s-by-underlay, and so on. One of b.N is a round, in which
// the connections take turns in slices of some milliseconds, size bytes or so many pings, so that a
// busy machine slows all of them. Reported are medians of rounds, and of their ratios.
func Compare(b *testing.B, c Compared, size, pings int) {
	b.Helper()
	for unit, of := range map[string]func(Connection) float64{
		"gbit/s": func(c Connection) float64 { return 8 * float64(size) / c.stream(b, size).Seconds() / 1e9 },
		"us":     func(c Connection) float64 { return float64(c.pingPong(b, pings).Microseconds()) / float64(pings) },
	} {
		var ours, toHand, toBare []float64
		for range b.N {
			before, first := of(c.Hand), of(c.Channel)
			bare := of(c.Bare)
			second, after := of(c.Channel), of(c.Hand)
			ours = append(ours, (first+second)/2)
			toHand = append(toHand, (first+second)/(before+after))
			toBare = append(toBare, (first+second)/(2*bare))
		}
		b.ReportMetric(median(ours), unit)
		b.ReportMetric(median(toHand), unit+"-by-hand")
		b.ReportMetric(median(toBare), unit+"-by-underlay")
	}
	b.ReportMetric(0, "ns/op")
}

func median(list []float64) float64 {
	slices.Sort(list)
	return list[len(list)/2]
}

// stream sends size bytes.
func (c Connection) stream(b *testing.B, size int) time.Duration {
	b.Helper()
	sent := make(chan error, 1)
	start := time.Now()
	go func() {
		buf := make([]byte, 256<<10)
		for left := size; left > 0; left -= len(buf) {
			if _, err := c.client.Write(buf); err != nil {
				sent <- err
				return
			}
		}
		sent <- nil
	}()
	_, err := io.CopyN(io.Discard, c.server, int64(size))
	check(b, err)
	check(b, <-sent)
	return time.Since(start)
}

// pingPong sends one byte there and back count times.
func (c Connection) pingPong(b *testing.B, count int) time.Duration {
	b.Helper()
	done := make(chan error, 1)
	go func() {
		_, err := io.CopyN(c.server, c.server, int64(count))
		done <- err
	}()
	buf := make([]byte, 1)
	start := time.Now()
	for range count {
		_, err := c.client.Write(buf)
		if err == nil {
			_, err = c.client.Read(buf)
		}
		check(b, err)
	}
	check(b, <-done)
	return time.Since(start)
}
