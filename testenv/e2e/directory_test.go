package e2e

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/go-quicktest/qt"

	"github.com/snapctl/snapctl/testenv/peer"
	"github.com/snapctl/snapctl/testenv/traffic"
	"github.com/snapctl/snapctl/vem/trust"
)

// listedHost is a host as `host ls` shows it.
type listedHost struct {
	Name, Health            string
	Directory, CA, Cordoned bool
}

func (hs *hosts) listed(w *World) map[string]listedHost {
	hs.t.Helper()
	var list struct{ Hosts []listedHost }
	qt.Assert(hs.t, qt.IsNil(json.Unmarshal([]byte(hs.ok(w, "host", "ls", "-o", "json").Stdout), &list)))
	all := make(map[string]listedHost)
	for _, h := range list.Hosts {
		all[h.Name] = h
	}
	return all
}

// directoryPID is the process of the host's member of the directory.
func (w *World) directoryPID() int {
	w.t.Helper()
	pids, err := w.Pids()
	qt.Assert(w.t, qt.IsNil(err))
	for _, pid := range pids {
		if exe, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid)); err == nil && strings.HasPrefix(filepath.Base(exe), "snapctl-directory") {
			return pid
		}
	}
	w.t.Fatalf("host %s runs no member of the directory", w.Name())
	return 0
}

// calls has a host connect to a port of another one, with its own certificate, and returns nil if
// it is let in.
func (w *World) calls(ctx context.Context, at netip.AddrPort) error {
	w.t.Helper()
	id, err := trust.Open(filepath.Join(w.StateDir(), "installation", "host"), nil)
	qt.Assert(w.t, qt.IsNil(err))
	raw, err := w.DialContext(ctx, "tcp", at.String())
	if err != nil {
		return err
	}
	defer raw.Close()
	conf := id.ClientOfAny(func(trust.Peer) error { return nil })
	conf.NextProtos = []string{"h2"}
	c := tls.Client(raw, conf)
	if err := c.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		return err
	}
	// etcd says nothing before its client has: the preface of HTTP/2 (RFC 9113, 3.4).
	if _, err := io.WriteString(c, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"+"\x00\x00\x00\x04\x00\x00\x00\x00\x00"); err != nil {
		return err
	}
	_, err = c.Read(make([]byte, 1))
	return err
}

// TestDirectoryMembers has three hosts run the directory, and takes the first one away, which made
// the installation: the others go on, invite, let in, and refuse it.
func TestDirectoryMembers(t *testing.T) {
	hs := makeHosts(t, startWorld, "alpha", "beta", "gamma", "delta")
	ctx, cancel := context.WithTimeout(t.Context(), 15*time.Minute)
	defer cancel()
	alpha, beta, gamma, delta := hs.worlds[0], hs.worlds[1], hs.worlds[2], hs.worlds[3]
	for i := range 3 {
		hs.join(i, 0)
	}
	r := beta.CLI("host", "invite")
	qt.Check(t, qt.Equals(r.Code, 1))
	qt.Check(t, qt.StringContains(r.Stderr, "invite on alpha"))
	qt.Check(t, qt.StringContains(hs.ok(beta, "host", "init").Stderr, "2 hosts run the directory"))
	qt.Check(t, qt.Equals(hs.ok(gamma, "host", "init").Stderr, ""))
	for _, h := range hs.listed(gamma) {
		qt.Check(t, qt.IsTrue(h.Directory && h.CA), qt.Commentf("%+v", h))
	}
	hs.leaveNothing([]*World{beta, gamma})
	members := []traffic.Member{hs.endpoint(1), hs.endpoint(2)}
	hs.know(members, beta, gamma)
	mesh, err := traffic.Start(ctx, traffic.Plan{
		Members: members, Pairs: traffic.Everyone(members, 2, 1), Pattern: peer.Pattern{MaxPause: 100 * time.Millisecond},
	})
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.IsNil(mesh.Progress(ctx)))
	var ports []netip.AddrPort
	for i := 1; i < 3; i++ {
		for _, port := range []uint16{7078, 7079} {
			ports = append(ports, netip.AddrPortFrom(hs.eth0[i].Addr4(), port))
		}
	}
	qt.Assert(t, qt.IsNil(alpha.calls(ctx, ports[0])))

	qt.Assert(t, qt.IsNil(alpha.KillDaemon(ctx, syscall.SIGKILL)))
	qt.Assert(t, qt.IsNil(syscall.Kill(alpha.directoryPID(), syscall.SIGKILL)))
	hs.ok(gamma, "host", "rm", "alpha")
	beta.Until("a removed host is refused", func() error {
		for _, at := range ports {
			if err := alpha.calls(ctx, at); err == nil || !strings.Contains(err.Error(), "tls: ") {
				return fmt.Errorf("%s: %w", at, err)
			}
		}
		return nil
	})
	hs.join(3, 1)
	hs.ok(delta, "host", "init")
	all := hs.listed(delta)
	qt.Check(t, qt.HasLen(all, 4))
	for name, h := range all {
		qt.Check(t, qt.Equals(h.Directory && h.CA, name != "alpha"), qt.Commentf("%+v", h))
	}
	qt.Assert(t, qt.IsNil(mesh.Progress(ctx)))
	hs.unharmed(ctx, mesh)

	// The directory is looked after.
	file := beta.Path("directory.backup")
	hs.ok(beta, "host", "directory", "backup", file)
	r = beta.CLI("host", "directory", "backup", file)
	qt.Check(t, qt.Equals(r.Code, 1))
	qt.Check(t, qt.StringContains(r.Stderr, "file already exists"))
	hs.ok(delta, "host", "directory", "defragment")

	// A host leaves when nobody needs its apps.
	r = gamma.CLI("host", "leave")
	qt.Check(t, qt.Equals(r.Code, 1))
	qt.Check(t, qt.StringContains(r.Stderr, "peer-gamma"))
	gamma.RemoveAll()
	gamma.Until("it leaves", func() error {
		if r := gamma.CLI("host", "leave"); r.Code != 0 {
			return errors.New(r.Stderr)
		}
		return nil
	})
	qt.Check(t, qt.HasLen(hs.listed(gamma), 0))
	all = hs.listed(beta)
	qt.Check(t, qt.Equals(all["gamma"].Health, "removed"))

	// The backup, in which gamma has not left, takes the place of the directory.
	r = beta.CLI("host", "directory", "restore", file, "--yes")
	qt.Check(t, qt.Equals(r.Code, 1))
	qt.Check(t, qt.StringContains(r.Stderr, "runs on other hosts: delta"))
	hs.ok(beta, "host", "directory", "restore", file, "--yes", "--force")
	delta.Until("the other member is retired", func() error {
		if h := hs.listed(delta); h["delta"].Directory || !h["beta"].Directory {
			return fmt.Errorf("%+v", h)
		}
		return nil
	})
	hs.ok(delta, "host", "init")
	hs.ok(beta, "host", "rm", "gamma", "--force") // the backup has its app
}
