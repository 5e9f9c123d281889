package trust

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"path/filepath"
	"testing"

	"github.com/go-quicktest/qt"
)

// TestNoTLS has peers that speak something else.
func TestNoTLS(t *testing.T) {
	ca := newAuthority(t)
	a := newMember(t, ca, "a")
	for name, says := range map[string]string{"http": "GET / HTTP/1.0\r\n\r\n", "ssh": "SSH-2.0-OpenSSH_9.2\r\n", "zeros": string(make([]byte, 64))} {
		t.Run(name, func(t *testing.T) {
			for side, wrap := range map[string]func(net.Conn) *tls.Conn{
				"server": func(c net.Conn) *tls.Conn { return tls.Server(c, a.Server(all)) },
				"client": func(c net.Conn) *tls.Conn { return tls.Client(c, a.Client("b", all)) },
			} {
				here, there := net.Pipe()
				go func() { _, _ = io.Copy(io.Discard, there) }()
				go func() { _, _ = io.WriteString(there, says) }()
				err := wrap(here).Handshake()
				here.Close()
				there.Close()
				t.Logf("%s: %v", side, a.Explain(err))
				qt.Assert(t, qt.ErrorIs(a.Explain(err), ErrProtocol))
			}
		})
	}
}

func TestExplainOthers(t *testing.T) {
	a := newMember(t, newAuthority(t), "a")
	qt.Assert(t, qt.IsNil(a.Explain(nil)))
	qt.Assert(t, qt.Equals(a.Explain(io.EOF), io.EOF))
	qt.Assert(t, qt.Equals(Explain(io.EOF, noon), io.EOF))
	twice := a.Explain(a.Explain(tls.RecordHeaderError{Msg: "x"}))
	qt.Assert(t, qt.ErrorIs(twice, ErrProtocol))
}

// TestFiles has other programs speak to each other by the files, as members of etcd do.
func TestFiles(t *testing.T) {
	ca := newAuthority(t)
	a, b := newMember(t, ca, "a"), newMember(t, ca, "b")
	config := func(i *Identity) *tls.Config {
		files, err := i.Files()
		qt.Assert(t, qt.IsNil(err))
		roots := x509.NewCertPool()
		qt.Assert(t, qt.IsTrue(roots.AppendCertsFromPEM(read(t, filepath.Dir(files.CA), filepath.Base(files.CA)))))
		load := func() (*tls.Certificate, error) {
			c, err := tls.LoadX509KeyPair(files.Pair, files.Pair)
			return &c, err
		}
		return &tls.Config{
			RootCAs: roots, ClientCAs: roots, ServerName: files.ServerName, Time: i.now, ClientAuth: tls.RequireAndVerifyClientCert,
			GetCertificate:       func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return load() },
			GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return load() },
		}
	}
	server, client := config(a), config(b)
	for range 2 {
		for name, pair := range map[string][2]*tls.Config{
			"both": {server, client}, "a host asks": {server, b.ClientOfAny(all)}, "a host answers": {a.Server(all), client},
		} {
			m := meet(t, pair[0], pair[1])
			qt.Assert(t, qt.IsNil(errors.Join(m.server, m.client)), qt.Commentf(name))
		}
		qt.Assert(t, qt.IsNil(a.Renew(t.Context(), signer(ca, a))))
		qt.Assert(t, qt.IsNil(b.Renew(t.Context(), signer(ca, b))))
	}
	m := meet(t, config(newMember(t, newAuthority(t), "a")), client)
	qt.Assert(t, qt.IsNotNil(m.client))
}
