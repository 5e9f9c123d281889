package control

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/go-quicktest/qt"
	"google.golang.org/grpc/status"

	pb "github.com/snapctl/snapctl/vem/control/controlpb"
	"github.com/snapctl/snapctl/vem/control/message"
)

// askedOnce makes one call to host b, and returns how it failed.
func askedOnce(t *testing.T, p *Peers) error {
	t.Helper()
	_, err := p.Resolve(t.Context(), "b", "default", netip.MustParseAddr("10.77.0.3"))
	qt.Assert(t, qt.IsNotNil(err))
	return err
}

// Strangers, and certificates that are not good any more, are refused, and both logs say why.
func TestWhoIsNotLetIn(t *testing.T) {
	ca, other := newAuthority(t), newAuthority(t)
	foreignAt := func(o *PeersOptions) {
		tls1 := ca.client(other.certificate("a", time.Hour))
		o.TLS = func(host string) *tls.Config {
			c := tls1(host)
			// Shows it although the server names another CA.
			cert := c.Certificates[0]
			c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &cert, nil }
			return c
		}
	}
	tests := map[string]struct {
		change func(*PeersOptions)
		client string // what the host that asks is told
		server string // what the log of the other says
	}{
		"expired": {
			func(o *PeersOptions) { o.TLS = ca.client(ca.certificate("a", -time.Minute)) },
			"remote error: tls: expired certificate", "certificate has expired",
		},
		"foreign": {foreignAt, "remote error: tls: unknown certificate authority", "certificate signed by unknown authority"},
		"none": {
			func(o *PeersOptions) { o.TLS = ca.client() },
			"only hosts of the installation may ask this, and no certificate of a host came", "",
		},
		"the server is foreign": {
			func(o *PeersOptions) { o.TLS = other.client(other.certificate("a", time.Hour)) },
			"certificate signed by unknown authority", "remote error: tls: bad certificate",
		},
		"another host answers": {
			func(o *PeersOptions) { o.PeerOf = func(tls.ConnectionState) (string, bool) { return "c", true } },
			`host "c" answers there`, "",
		},
		"old TLS": {
			func(o *PeersOptions) {
				o.TLS = func(string) *tls.Config {
					c := ca.client(ca.certificate("a", time.Hour))("b")
					c.MaxVersion = tls.VersionTLS12
					return c
				}
			},
			"tls: no supported versions", "",
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			s := serve(t, ca, Handlers{}, nil)
			p, _ := ask(t, ca, test.change, s.addr)
			qt.Check(t, qt.ErrorMatches(askedOnce(t, p), "(?s).*"+test.client+".*"))
			if test.server != "" {
				eventually(t, "the server's log says "+test.server, func() bool {
					return line(s.logs.String(), "refused a connection to the control channel", "from=127.0.0.1", test.server) != ""
				})
			}
		})
	}
}

// dialRaw connects without saying anything.
func dialRaw(t *testing.T, a netip.AddrPort) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", a.String())
	qt.Assert(t, qt.IsNil(err))
	t.Cleanup(func() { c.Close() })
	return c
}

func TestGarbage(t *testing.T) {
	ca := newAuthority(t)
	s := serve(t, ca, Handlers{}, nil)
	c := dialRaw(t, s.addr)
	_, err := c.Write([]byte("GET / HTTP/1.0\r\n\r\n"))
	qt.Assert(t, qt.IsNil(err))
	_, _ = io.ReadAll(c) // until it is closed
	eventually(t, "a log", func() bool {
		return line(s.logs.String(), "refused a connection", "does not look like a TLS handshake") != ""
	})
}

func TestOtherProtocolInsideTLS(t *testing.T) {
	ca := newAuthority(t)
	s := serve(t, ca, Handlers{}, nil)
	c, err := tls.Dial("tcp", s.addr.String(), ca.client()("b"))
	qt.Assert(t, qt.IsNil(err))
	_, _ = io.ReadAll(c)
	eventually(t, "a log", func() bool { return line(s.logs.String(), "does not speak HTTP/2") != "" })
}

// Strangers that connect and say nothing keep neither a host nor each other out, and are cut
// after a while.
func TestSilentStrangers(t *testing.T) {
	ca, w := newAuthority(t), newWorld()
	s := serve(t, ca, w.handlers(), func(o *ServerOptions) { o.Limits.Handshakes = 8; o.Limits.Hurry = 3 * time.Second })
	var silent []net.Conn
	for range 20 {
		silent = append(silent, dialRaw(t, s.addr))
	}
	tooMany := func() bool { return line(s.logs.String(), "too many connections have not said who they are") != "" }
	eventually(t, "too many", tooMany)
	p, _ := ask(t, ca, nil, s.addr)
	_, err := p.Connect(t.Context(), "b", connectRequest())
	qt.Check(t, qt.IsNil(err))
	for _, c := range silent {
		_, _ = io.ReadAll(c) // returns: it is cut
	}
	eventually(t, "none is left", func() bool { return s.door.handshakes.Len() == 0 })
}

// A stranger that has done the handshake may join and nothing else, and not stay.
func TestStrangersMayNotStay(t *testing.T) {
	ca := newAuthority(t)
	s := serve(t, ca, Handlers{}, func(o *ServerOptions) { o.Limits.Strangers = 4; o.Limits.Hurry = 3 * time.Second })
	d := dialer{tls: ca.client()("b")}
	first, tried := d.dial(t.Context(), to(s.addr))
	qt.Assert(t, qt.IsNotNil(first), qt.Commentf("%v", tried))
	second, tried := d.dial(t.Context(), to(s.addr))
	qt.Assert(t, qt.IsNotNil(second), qt.Commentf("%v", tried))
	_, _ = io.ReadAll(first) // one of a source: the first gave way
	qt.Check(t, qt.IsNil(first.Close()))

	cc, err := over(second)
	qt.Assert(t, qt.IsNil(err))
	defer cc.Close()
	_, err = pb.NewPeerClient(cc).Probe(t.Context(), new(pb.ProbeRequest))
	qt.Check(t, qt.ErrorMatches(message.FromStatus(status.Convert(err), "b", self("a")), "host b refuses: only hosts of the installation may ask this.*"))
	eventually(t, "the stranger is gone", func() bool { return s.door.strangers.Len() == 0 })
}

// A host's connections are counted, and the oldest gives way.
func TestConnectionsOfAHost(t *testing.T) {
	ca := newAuthority(t)
	s := serve(t, ca, Handlers{}, func(o *ServerOptions) { o.Limits.Connections = 2 })
	d := dialer{tls: ca.client(ca.certificate("a", time.Hour))("b")}
	var conns []*dialled
	for range 3 {
		c, tried := d.dial(t.Context(), to(s.addr))
		qt.Assert(t, qt.IsNotNil(c), qt.Commentf("%v", tried))
		conns = append(conns, c)
	}
	_, _ = io.ReadAll(conns[0])
	qt.Check(t, qt.Equals(s.door.peers.Len(), 2))
	s.Drop("a")
	_, _ = io.ReadAll(conns[1])
	_, _ = io.ReadAll(conns[2])
	for _, c := range conns {
		c.Close()
	}
}

// A host that was removed is cut off at once, in the middle of a call.
func TestDrop(t *testing.T) {
	ca, w := newAuthority(t), newWorld()
	removed := make(chan struct{})
	s := serve(t, ca, w.handlers(), func(o *ServerOptions) {
		o.TLS.VerifyConnection = func(cs tls.ConnectionState) error {
			select {
			case <-removed:
				return errors.New("the host was removed")
			default:
				return nil
			}
		}
	})
	p, _ := ask(t, ca, nil, s.addr)
	entered := make(chan struct{})
	w.hold(func(ctx context.Context) error { close(entered); <-ctx.Done(); return ctx.Err() })
	failed := make(chan error, 1)
	go func() {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := p.Connect(ctx, "b", connectRequest())
		failed <- err
	}()
	<-entered
	close(removed)
	s.Drop("a")
	var unreachable *UnreachableError
	qt.Check(t, qt.ErrorAs(<-failed, &unreachable))
	eventually(t, "it is not let in again", func() bool {
		st, _ := p.Status("b")
		return !st.Connected && st.Err != nil
	})
	qt.Check(t, qt.ErrorMatches(askedOnce(t, p), ".*remote error: tls: bad certificate"))
}

func TestSource(t *testing.T) {
	for a, want := range map[string]string{
		"192.0.2.1": "192.0.2.1/32", "2001:db8::1": "2001:db8::/64", "fe80::1%eth0": "fe80::1/128",
	} {
		qt.Check(t, qt.Equals(source(netip.MustParseAddr(a)), want))
	}
	qt.Check(t, qt.Equals(source(netip.Addr{}), "invalid Prefix"))
}
