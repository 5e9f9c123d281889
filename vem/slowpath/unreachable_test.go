package slowpath

import (
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-quicktest/qt"
	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
)

func TestUnreachable(t *testing.T) {
	for name, test := range map[string]struct {
		from, to string
		size     int
		proto    int
		kind     icmp.Type
		code     int
		quoted   int
	}{
		"IPv4 short": {"10.77.0.2", "10.77.0.3", 8, 1, ipv4.ICMPTypeDestinationUnreachable, 1, 28},
		"IPv4 long":  {"10.77.0.2", "10.77.0.3", 1380, 1, ipv4.ICMPTypeDestinationUnreachable, 1, 548},
		"IPv6 short": {"fd77::2", "fd77::3", 8, 58, ipv6.ICMPTypeDestinationUnreachable, 3, 48},
		"IPv6 long":  {"fd77::2", "fd77::3", 1360, 58, ipv6.ICMPTypeDestinationUnreachable, 3, 1232},
	} {
		t.Run(name, func(t *testing.T) {
			p, ok := parse(build(addr(test.from), addr(test.to), 17, make([]byte, test.size)))
			qt.Assert(t, qt.IsTrue(ok))
			raw, err := unreachable(p)
			qt.Assert(t, qt.IsNil(err))
			m, err := icmp.ParseMessage(test.proto, raw)
			qt.Assert(t, qt.IsNil(err))
			qt.Check(t, qt.Equals(m.Type, test.kind))
			qt.Check(t, qt.Equals(m.Code, test.code))
			qt.Check(t, qt.DeepEquals(raw[4:8], []byte{0, 0, 0, 0}))
			qt.Check(t, qt.DeepEquals(raw[8:], p.ip[:test.quoted]))
		})
	}
}

func TestQuota(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQuota()
		allowed := func(a netip.Addr, tries int) (n int) {
			for range tries {
				if q.allow(a) {
					n++
				}
			}
			return n
		}
		one, two := addr("10.77.0.2"), addr("10.77.0.3")
		qt.Check(t, qt.Equals(allowed(one, 1000), senderBurst))
		qt.Check(t, qt.Equals(allowed(two, 1000), senderBurst), qt.Commentf("another sender has its own"))
		<-time.After(time.Second)
		qt.Check(t, qt.Equals(allowed(one, 1000), senderRate))

		many := two
		for range 10 * maxSenders {
			many = many.Next()
			q.allow(many)
		}
		qt.Check(t, qt.HasLen(q.senders, maxSenders))
		<-time.After(time.Hour)
		qt.Check(t, qt.IsTrue(q.allow(addr("10.78.0.1"))))
		qt.Check(t, qt.HasLen(q.senders, 1))
		n := 0
		for a := addr("10.79.0.1"); n < 2*totalBurst; a = a.Next() {
			if !q.allow(a) {
				break
			}
			n++
		}
		qt.Check(t, qt.Equals(n, totalBurst-1))
	})
}
