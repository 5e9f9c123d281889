package guard

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/go-quicktest/qt"
	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/snapctl/snapctl/testenv/cluster"
	"github.com/snapctl/snapctl/vem/directory"
	"github.com/snapctl/snapctl/vem/directory/etcd"
	"github.com/snapctl/snapctl/vem/trust"
)

// door is a guard with what stands behind it: something that echoes.
type door struct {
	*Guard
	at string

	mu      sync.Mutex
	removed map[string]bool
}

func (d *door) check(p trust.Peer) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.removed[p.Host] {
		return errors.New("it was removed")
	}
	return nil
}

func (d *door) remove(host string) {
	d.mu.Lock()
	d.removed[host] = true
	d.mu.Unlock()
	d.Review()
}

func newDoor(t *testing.T, pair string) *door {
	t.Helper()
	d := &door{removed: make(map[string]bool)}
	var err error
	d.Guard, err = New(Options{Pair: pair, Check: d.check, Log: slog.New(slog.DiscardHandler)})
	qt.Assert(t, qt.IsNil(err))
	socket := filepath.Join(t.TempDir(), "inside")
	inside, err := net.Listen("unix", socket)
	qt.Assert(t, qt.IsNil(err))
	t.Cleanup(func() { inside.Close() })
	go func() {
		for {
			c, err := inside.Accept()
			if err != nil {
				return
			}
			go func() { defer c.Close(); _, _ = io.Copy(c, c) }()
		}
	}()
	l, err := Listen(t.Context(), netip.MustParseAddrPort("127.0.0.1:0"))
	qt.Assert(t, qt.IsNil(err))
	d.at = l.Addr().String()
	served := make(chan error, 1)
	go func() { served <- d.Serve(t.Context(), l, socket, "h2") }()
	t.Cleanup(func() {
		qt.Check(t, qt.IsNil(d.Close()))
		qt.Check(t, qt.ErrorIs(<-served, net.ErrClosed))
	})
	return d
}

// host is a host with a certificate of the CA, and the folder of that.
func host(t *testing.T, ca *trust.Authority, name string) (*trust.Identity, string) {
	t.Helper()
	dir := t.TempDir()
	csr, err := trust.Request(dir)
	qt.Assert(t, qt.IsNil(err))
	chain, err := ca.Sign(csr, name)
	qt.Assert(t, qt.IsNil(err))
	id, err := trust.Accept(dir, trust.Grant{Chain: chain, Host: name, CA: ca.Fingerprint()}, time.Now)
	qt.Assert(t, qt.IsNil(err))
	return id, dir
}

// dial connects, and returns the error by which it was refused.
func (d *door) dial(ctx context.Context, conf *tls.Config) (net.Conn, error) {
	conf.NextProtos = []string{"h2"}
	c, err := (&tls.Dialer{Config: conf}).DialContext(ctx, "tcp", d.at)
	if err != nil {
		return nil, err
	}
	return c, echo(c)
}

func echo(c net.Conn) error {
	if err := c.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		return err
	}
	if _, err := io.WriteString(c, "hello"); err != nil {
		return err
	}
	_, err := io.ReadFull(c, make([]byte, 5))
	return err
}

func anybody(trust.Peer) error { return nil }

// Hosts are let in, strangers are not, and who was removed is sent away.
func TestGuard(t *testing.T) {
	ca, err := trust.CreateAuthority(t.TempDir(), trust.AuthorityOptions{})
	qt.Assert(t, qt.IsNil(err))
	own, _ := host(t, ca, "a")
	files, err := own.Files()
	qt.Assert(t, qt.IsNil(err))
	d := newDoor(t, files.Pair)
	b, _ := host(t, ca, "b")
	c, _ := host(t, ca, "c")
	ofB, err := d.dial(t.Context(), b.ClientOfAny(anybody))
	qt.Assert(t, qt.IsNil(err))
	defer ofB.Close()
	ofC, err := d.dial(t.Context(), c.ClientOfAny(anybody))
	qt.Assert(t, qt.IsNil(err))
	defer ofC.Close()

	foreign, err := trust.CreateAuthority(t.TempDir(), trust.AuthorityOptions{})
	qt.Assert(t, qt.IsNil(err))
	stranger, _ := host(t, foreign, "b")
	_, err = d.dial(t.Context(), stranger.ClientOfAny(anybody))
	qt.Check(t, qt.IsNotNil(err))
	nobody := b.ClientOfAny(anybody)
	nobody.Certificates, nobody.GetClientCertificate = nil, nil
	_, err = d.dial(t.Context(), nobody)
	qt.Check(t, qt.IsNotNil(err))

	d.remove("b")
	_, err = ofB.Read(make([]byte, 1))
	qt.Check(t, qt.IsNotNil(err))
	qt.Check(t, qt.Not(qt.ErrorIs(err, os.ErrDeadlineExceeded)))
	_, err = d.dial(t.Context(), b.ClientOfAny(anybody))
	qt.Check(t, qt.ErrorMatches(err, "remote error: tls: .*"))
	qt.Check(t, qt.IsNil(echo(ofC)))
}

// A certificate that was renewed is used from then on, and one that can't be read changes nothing.
func TestRenewed(t *testing.T) {
	ca, err := trust.CreateAuthority(t.TempDir(), trust.AuthorityOptions{})
	qt.Assert(t, qt.IsNil(err))
	own, dir := host(t, ca, "a")
	files, err := own.Files()
	qt.Assert(t, qt.IsNil(err))
	i := identity{pair: files.Pair}
	first, err := i.now()
	qt.Assert(t, qt.IsNil(err))
	same, err := i.now()
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.Equals(same, first))
	csr, err := trust.Request(dir)
	qt.Assert(t, qt.IsNil(err))
	chain, err := ca.Renew(csr, own.Peer())
	qt.Assert(t, qt.IsNil(err))
	_, err = trust.Accept(dir, trust.Grant{Chain: chain, Host: "a", CA: ca.Fingerprint()}, time.Now)
	qt.Assert(t, qt.IsNil(err))
	next, err := i.now()
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.Not(qt.Equals(next, first)))
	qt.Assert(t, qt.IsNil(os.Remove(files.Pair)))
	kept, err := i.now()
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.Equals(kept, next))
	_, err = New(Options{Pair: filepath.Join(t.TempDir(), "none")})
	qt.Check(t, qt.ErrorIs(err, os.ErrNotExist))
}

// The roll is as the member has it, whatever stands in other keys.
func TestRoll(t *testing.T) {
	in := cluster.New(t, 1, nil)
	ctx, cancel := context.WithCancel(cluster.Ctx(t))
	client, err := etcd.Dial(in.Endpoints(), in.TLS(t))
	qt.Assert(t, qt.IsNil(err))
	defer client.Close()
	const keys = "/test/"
	put := func(h directory.Host) {
		b, err := json.Marshal(h)
		qt.Assert(t, qt.IsNil(err))
		_, err = client.Put(ctx, keys+string(directory.KindHost)+h.Name, string(b))
		qt.Assert(t, qt.IsNil(err))
	}
	put(directory.Host{Name: "a", Key: "0f"})
	r := NewRoll(client, keys)
	_, err = r.Load(ctx)
	qt.Assert(t, qt.IsNil(err))
	a, ok := r.Host("a")
	qt.Check(t, qt.IsTrue(ok && a.Key == "0f"))

	changed, done := make(chan struct{}, 100), make(chan struct{})
	go func() { defer close(done); r.Follow(ctx, func() { changed <- struct{}{} }) }()
	until := func(yes func() bool) {
		for !yes() {
			select {
			case <-changed:
			case <-ctx.Done():
				t.Fatal("waited in vain")
			}
		}
	}
	put(directory.Host{Name: "a", Key: "0f", Removed: true})
	put(directory.Host{Name: "b"})
	until(func() bool {
		a, _ := r.Host("a")
		_, ok := r.Host("b")
		return a.Removed && ok
	})
	_, err = client.Delete(ctx, keys+string(directory.KindHost)+"b")
	qt.Assert(t, qt.IsNil(err))
	until(func() bool { _, ok := r.Host("b"); return !ok })
	cancel()
	<-done

	qt.Check(t, qt.IsFalse(r.apply(nil)))
	key := []byte(keys + string(directory.KindHost) + "c")
	r.apply([]*clientv3.Event{{Type: clientv3.EventTypePut, Kv: &mvccpb.KeyValue{Key: key, Value: []byte("{")}}})
	_, ok = r.Host("c")
	qt.Check(t, qt.IsFalse(ok))
}
