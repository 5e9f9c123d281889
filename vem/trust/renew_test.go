package trust

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/go-quicktest/qt"
)

// signer is a host that has the CA, and renews certificates of i.
func signer(ca *Authority, i *Identity) func(context.Context, []byte) ([]byte, error) {
	return func(_ context.Context, csr []byte) ([]byte, error) { return ca.Renew(csr, i.peer) }
}

func TestRenew(t *testing.T) {
	w := newWatch(noon)
	ca, err := CreateAuthority(t.TempDir(), AuthorityOptions{Now: w.now})
	qt.Assert(t, qt.IsNil(err))
	a, dir := join(t, ca, "a", w), t.TempDir()
	b, err := Accept(dir, grant(t, ca, dir, "b"), w.now)
	qt.Assert(t, qt.IsNil(err))

	// A connection is open all the time, and the configurations are those from before.
	server, client := a.Server(all), b.Client("a", all)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	qt.Assert(t, qt.IsNil(err))
	defer l.Close()
	done := make(chan error, 1)
	go func() {
		c, err := tls.NewListener(l, server).Accept()
		if err == nil {
			defer c.Close()
			_, err = io.Copy(c, c)
		}
		done <- err
	}()
	open, err := tls.Dial("tcp", l.Addr().String(), client)
	qt.Assert(t, qt.IsNil(err))
	word := func() {
		t.Helper()
		_, err := open.Write([]byte("word"))
		qt.Assert(t, qt.IsNil(err))
		_, err = io.ReadFull(open, make([]byte, 4))
		qt.Assert(t, qt.IsNil(err))
	}
	word()

	at := b.RenewAt()
	qt.Assert(t, qt.IsTrue(!at.Before(noon.Add(DefaultLife*2/3)) && at.Before(noon.Add(DefaultLife*9/12))))
	w.set(at)
	key, before := privateKey(b), b.peer.Member
	for _, i := range []*Identity{a, b} {
		qt.Assert(t, qt.IsNil(i.Renew(t.Context(), signer(ca, i))))
		word()
	}
	qt.Assert(t, qt.IsFalse(privateKey(b).Equal(key)))
	qt.Assert(t, qt.IsTrue(b.Expires().Equal(at.Add(DefaultLife).Truncate(time.Second))))
	qt.Assert(t, qt.IsTrue(b.RenewAt().After(at.Add(DefaultLife/2))))
	qt.Assert(t, qt.DeepEquals(names(t, dir), []string{identityFile}))
	w.set(noon.Add(DefaultLife + time.Hour)) // the old ones have expired
	word()
	m := meet(t, server, client)
	qt.Assert(t, qt.IsNil(errors.Join(m.server, m.client)))
	peer, _ := PeerOf(m.atServer)
	qt.Assert(t, qt.Equals(peer.Member, before))
	qt.Assert(t, qt.IsTrue(peer.Expires.Equal(b.Expires())))
	qt.Assert(t, qt.DeepEquals(peer, b.Peer()))
	qt.Assert(t, qt.IsNil(open.Close()))
	qt.Assert(t, qt.IsNil(<-done))

	again, err := Open(dir, w.now)
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.IsTrue(privateKey(again).Equal(privateKey(b))))
	qt.Assert(t, qt.Equals(again.Member(), before))
	qt.Assert(t, qt.IsTrue(again.RenewAt().Equal(b.RenewAt())))
}

func TestRenewRefuses(t *testing.T) {
	ca, other := newAuthority(t), newAuthority(t)
	b := newMember(t, ca, "b")
	failed := errors.New("nobody signs")
	for name, c := range map[string]struct {
		sign func(csr []byte) ([]byte, error)
		is   error
	}{
		"nobody signs":        {func([]byte) ([]byte, error) { return nil, failed }, failed},
		"another CA":          {func(csr []byte) ([]byte, error) { return other.Sign(csr, "b") }, ErrStranger},
		"another name":        {func(csr []byte) ([]byte, error) { return ca.Sign(csr, "c") }, ErrWrongHost},
		"another member":      {func(csr []byte) ([]byte, error) { return ca.Sign(csr, "b") }, ErrDamaged},
		"another key":         {func([]byte) ([]byte, error) { return ca.Renew(newRequest(t), b.peer) }, ErrDamaged},
		"the old certificate": {func([]byte) ([]byte, error) { return bytes.Join(b.current.Load().Certificate, nil), nil }, ErrDamaged},
	} {
		t.Run(name, func(t *testing.T) {
			before := read(t, string(b.folder), identityFile)
			err := b.Renew(t.Context(), func(_ context.Context, csr []byte) ([]byte, error) { return c.sign(csr) })
			t.Log(err)
			qt.Assert(t, qt.ErrorIs(err, c.is))
			qt.Assert(t, qt.DeepEquals(read(t, string(b.folder), identityFile), before))
		})
	}
	qt.Assert(t, qt.IsNil(b.Renew(t.Context(), signer(ca, b))))
}

func TestRenewWaitsItsTurn(t *testing.T) {
	ca := newAuthority(t)
	b := newMember(t, ca, "b")
	inside, leave, done := make(chan struct{}), make(chan struct{}), make(chan error)
	go func() {
		done <- b.Renew(t.Context(), func(_ context.Context, csr []byte) ([]byte, error) {
			close(inside)
			<-leave
			return ca.Renew(csr, b.peer)
		})
	}()
	<-inside
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	qt.Assert(t, qt.ErrorIs(b.Renew(ctx, nil), context.Canceled))
	close(leave)
	qt.Assert(t, qt.IsNil(<-done))
	qt.Assert(t, qt.IsNil(b.Renew(t.Context(), signer(ca, b))))
}

// TestCrashPoints has the directory of a host be as each crash of Accept and of Renew could leave
// it: the host opens as it was before or after, and goes on.
func TestCrashPoints(t *testing.T) {
	ca, w := newAuthority(t), newWatch(noon)
	scratch := t.TempDir()
	g := grant(t, ca, scratch, "b")
	pending := read(t, scratch, requestFile)
	b, err := Accept(scratch, g, w.now)
	qt.Assert(t, qt.IsNil(err))
	old := read(t, scratch, identityFile)
	var waiting []byte
	err = b.Renew(t.Context(), func(_ context.Context, csr []byte) ([]byte, error) {
		waiting = read(t, scratch, requestFile)
		return ca.Renew(csr, b.peer)
	})
	qt.Assert(t, qt.IsNil(err))
	renewed := read(t, scratch, identityFile)

	type files map[string][]byte
	for name, c := range map[string]struct {
		files files
		opens []byte // nil: this host is no member yet
	}{
		"key half written":           {files{requestFile + half: pending[:20]}, nil},
		"key written":                {files{requestFile + half: pending}, nil},
		"key in place":               {files{requestFile: pending}, nil},
		"certificate half written":   {files{requestFile: pending, identityFile + half: old[:300]}, nil},
		"certificate written":        {files{requestFile: pending, identityFile + half: old}, nil},
		"certificate in place":       {files{requestFile: pending, identityFile: old}, old},
		"new key half written":       {files{identityFile: old, requestFile + half: waiting[:20]}, old},
		"new key in place":           {files{identityFile: old, requestFile: waiting}, old},
		"new certificate half":       {files{identityFile: old, requestFile: waiting, identityFile + half: renewed[:300]}, old},
		"new certificate written":    {files{identityFile: old, requestFile: waiting, identityFile + half: renewed}, old},
		"new certificate in place":   {files{identityFile: renewed, requestFile: waiting}, renewed},
		"new certificate, key, half": {files{identityFile: renewed, requestFile: waiting, requestFile + half: nil}, renewed},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			for file, data := range c.files {
				write(t, dir, file, data)
			}
			i, err := Open(dir, w.now)
			if c.opens == nil {
				qt.Assert(t, qt.ErrorIs(err, fs.ErrNotExist))
				i, err = Accept(dir, grant(t, ca, dir, "b"), w.now)
			} else {
				want, derr := decode(c.opens)
				qt.Assert(t, qt.IsNil(derr))
				qt.Assert(t, qt.IsTrue(privateKey(i).Equal(want.key)))
			}
			qt.Assert(t, qt.IsNil(err))
			key := privateKey(i)
			qt.Assert(t, qt.IsNil(i.Renew(t.Context(), signer(ca, i))))
			qt.Assert(t, qt.IsFalse(privateKey(i).Equal(key)))
			again, err := Open(dir, w.now)
			qt.Assert(t, qt.IsNil(err))
			qt.Assert(t, qt.IsTrue(privateKey(again).Equal(privateKey(i))))
		})
	}
}

// TestKilled kills a process that renews its certificate without a pause, again and again.
func TestKilled(t *testing.T) {
	if dir := os.Getenv("TRUST_RENEWS"); dir != "" {
		renewForEver(t, dir)
	}
	ca, err := CreateAuthority(filepath.Join(t.TempDir(), "ca"), AuthorityOptions{})
	qt.Assert(t, qt.IsNil(err))
	out, err := ca.Export()
	qt.Assert(t, qt.IsNil(err))
	dir := t.TempDir()
	write(t, dir, "exported", out)
	b, err := Accept(filepath.Join(dir, "id"), grant(t, ca, filepath.Join(dir, "id"), "b"), nil)
	qt.Assert(t, qt.IsNil(err))
	for round := range 10 {
		cmd := exec.Command(os.Args[0], "-test.run=^TestKilled$")
		cmd.Env = append(os.Environ(), "TRUST_RENEWS="+dir)
		progress, err := cmd.StdoutPipe()
		qt.Assert(t, qt.IsNil(err))
		qt.Assert(t, qt.IsNil(cmd.Start()))
		// After so many bytes of progress, somewhere in the next renewal.
		_, err = io.ReadFull(progress, make([]byte, 1+round%5))
		qt.Assert(t, qt.IsNil(err))
		qt.Assert(t, qt.IsNil(cmd.Process.Kill()))
		_ = cmd.Wait()
		i, err := Open(filepath.Join(dir, "id"), nil)
		qt.Assert(t, qt.IsNil(err))
		qt.Assert(t, qt.Equals(i.Member(), b.Member()))
	}
}

// renewForEver is the process that is killed. It tells of each renewal by a byte.
func renewForEver(t *testing.T, dir string) {
	t.Helper()
	ca, err := decode(read(t, dir, "exported"))
	qt.Assert(t, qt.IsNil(err))
	a, err := authorityOf(ca, AuthorityOptions{})
	qt.Assert(t, qt.IsNil(err))
	i, err := Open(filepath.Join(dir, "id"), nil)
	qt.Assert(t, qt.IsNil(err))
	for {
		qt.Assert(t, qt.IsNil(i.Renew(t.Context(), signer(a, i))))
		_, _ = os.Stdout.Write([]byte("."))
	}
}
