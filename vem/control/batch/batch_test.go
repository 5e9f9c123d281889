package batch

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"io"
	"math/big"
	"net"
	"testing"

	"github.com/go-quicktest/qt"
)

// counted counts how often it is written to.
type counted struct {
	net.Conn

	writes int
}

func (c *counted) Write(p []byte) (int, error) {
	c.writes++
	return c.Conn.Write(p)
}

// TestOneWrite writes many records by one call, both ways, which are one write each below TLS.
func TestOneWrite(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	qt.Assert(t, qt.IsNil(err))
	template := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{"a"}}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	qt.Assert(t, qt.IsNil(err))

	one, other := net.Pipe()
	left, right := &counted{Conn: one}, &counted{Conn: other}
	server := Server(left, &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{{Certificate: [][]byte{cert}, PrivateKey: key}}})
	client := Client(right, &tls.Config{MinVersion: tls.VersionTLS13, InsecureSkipVerify: true}) //nolint:gosec // of this test
	shaken := make(chan error, 1)
	go func() { shaken <- server.Handshake() }()
	qt.Assert(t, qt.IsNil(client.Handshake()))
	done := make(chan error, 1)
	want := make([]byte, WriteBytes)
	_, _ = rand.Read(want) // never fails
	transfer := func(from *Conn, c *counted, to *Conn) {
		c.writes = 0
		go func() {
			_, err := from.Write(want)
			done <- err
		}()
		got := make([]byte, len(want))
		_, err := io.ReadFull(to, got)
		qt.Assert(t, qt.IsNil(err))
		qt.Assert(t, qt.IsNil(<-done))
		qt.Check(t, qt.IsTrue(bytes.Equal(got, want)))
		qt.Check(t, qt.Equals(c.writes, 1))
	}
	// The server's tickets come first: they are no part of what it writes.
	go func() { _, _ = client.Conn.Write([]byte{1}) }()
	_, err = io.ReadFull(server, make([]byte, 1))
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.IsNil(<-shaken))
	transfer(server, left, client)
	transfer(client, right, server)
	qt.Check(t, qt.Equals(client.Raw(), net.Conn(right)))
	qt.Assert(t, qt.IsNil(client.Close()))
	_, err = server.Read(make([]byte, 1))
	qt.Check(t, qt.ErrorIs(err, io.EOF))
}
