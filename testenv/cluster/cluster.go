// Package cluster makes real clusters of the directory for tests: each member is a process, at
// a loopback address of its own, with mutual TLS. It needs no root.
package cluster

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/testenv"
	"github.com/snapctl/snapctl/vem/directory/member"
)

// wait is for what takes a moment, on a machine that is very busy.
const wait = 60 * time.Second

// Host is a host with one member.
type Host struct {
	*member.Member
	Config member.Config
	IP     string
	Client *tls.Config // nil: the installation's, if the member has TLS
}

// Installation is what the hosts of a test have in common.
type Installation struct {
	Exe   string // the program snapctl-directory
	Hosts []*Host
	Log   *slog.Logger

	ca  *authority
	net byte // of 127.x.y.n
	dir string
}

// New returns an installation with n hosts, whose members are one cluster and serve. change may
// change the configuration of each before it is started; nil: as it is.
func New(t *testing.T, n int, change func(c *member.Config)) *Installation {
	t.Helper()
	return NewWith(t, n, func(h *Host) {
		if change != nil {
			change(&h.Config)
		}
	})
}

// NewWith is New with a function that may change more of each host.
func NewWith(t *testing.T, n int, change func(h *Host)) *Installation {
	t.Helper()
	in := Prepare(t)
	for i := range n {
		change(in.Add(t, i+1, nil))
	}
	var cluster []member.Peer
	for _, h := range in.Hosts {
		cluster = append(cluster, member.Peer{Name: h.Config.Name, URLs: h.Config.ListenPeer})
	}
	errs := make(chan error, n)
	for _, h := range in.Hosts {
		h.Config.Cluster = cluster
		h.Open(t, in)
		go func() { errs <- h.Start(Ctx(t)) }()
	}
	for range n {
		if err := <-errs; err != nil {
			t.Fatal(err)
		}
	}
	return in
}

// Prepare returns an installation without hosts.
func Prepare(t *testing.T) *Installation {
	t.Helper()
	if err := os.MkdirAll(testenv.BaseDir(), 0o755); err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp(testenv.BaseDir(), "directory-") //nolint:usetesting // on a real disk, and short: the path of a unix socket has at most 107 bytes
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	exe, err := testenv.Install(t.Context(), "snapctl-directory", dir)
	if err != nil {
		t.Fatal(err)
	}
	var b [2]byte
	rand.Read(b[:])
	in := &Installation{Exe: exe, Log: slog.New(slog.NewTextHandler(t.Output(), nil)), dir: dir}
	in.net = 1 + b[0]%250
	in.ca = newAuthority(t, dir)
	return in
}

// Add adds a host, number n from 1, whose member is not opened yet.
func (in *Installation) Add(t *testing.T, n int, change func(c *member.Config)) *Host {
	t.Helper()
	ip := fmt.Sprintf("127.%d.%d.%d", in.net, os.Getpid()%250, n)
	cert := in.ca.issue(t, ip)
	h := &Host{IP: ip, Config: member.Config{
		Name: fmt.Sprintf("host%d", n), Dir: filepath.Join(in.dir, fmt.Sprintf("host%d", n)),
		ListenClient: []string{"https://" + ip + ":2379"}, ListenPeer: []string{"https://" + ip + ":2380"},
		ClientTLS: &cert, PeerTLS: &cert, Token: filepath.Base(in.dir),
		TickMillis: 20, LogFileBytes: 1 << 20,
	}}
	if change != nil {
		change(&h.Config)
	}
	in.Hosts = append(in.Hosts, h)
	return h
}

// Open opens the host's member, which the test stops in the end, whoever started it.
func (h *Host) Open(t *testing.T, in *Installation) {
	t.Helper()
	opt := member.Options{Exe: in.Exe, Config: h.Config, Log: in.Log}
	if h.Config.ClientTLS != nil {
		opt.TLS = h.Client
		if opt.TLS == nil {
			opt.TLS = in.TLS(t)
		}
	}
	m, err := member.Open(opt)
	if err != nil {
		t.Fatal(err)
	}
	h.Member = m
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), wait)
		defer cancel()
		if st, err := m.Status(ctx); err == nil && st.PID > 0 {
			_ = unix.Kill(st.PID, unix.SIGCONT) // it may be gone by now
		}
		if err := m.Stop(ctx); err != nil {
			t.Errorf("stop %s: %v", h.Config.Name, err)
		}
		if err := m.Close(); err != nil {
			t.Errorf("close %s: %v", h.Config.Name, err)
		}
		if t.Failed() {
			log, _ := os.ReadFile(filepath.Join(h.Config.Dir, "log"))
			t.Logf("log of %s:\n%s", h.Config.Name, log[max(0, len(log)-32<<10):])
		}
	})
}

// Signal sends the member's process a signal, and returns its number. After SIGSTOP it returns when
// the whole process stands still.
func (h *Host) Signal(t *testing.T, s unix.Signal) int {
	t.Helper()
	st, err := h.Status(Ctx(t))
	if err != nil || st.PID == 0 {
		t.Fatalf("%s has no process: %v, %v", h.Config.Name, err, st.Err)
	}
	if err := unix.Kill(st.PID, s); err != nil {
		t.Fatal(err)
	}
	if s == unix.SIGSTOP {
		Until(t, "all threads are stopped", func() bool { return stopped(st.PID) })
	}
	return st.PID
}

func stopped(pid int) bool {
	stats, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", pid))
	if err != nil || len(stats) == 0 {
		return false
	}
	for _, path := range stats {
		b, err := os.ReadFile(path)
		if err != nil || !strings.Contains(string(b), ") T ") {
			return false
		}
	}
	return true
}

// Endpoints are the client URLs of all members.
func (in *Installation) Endpoints() []string {
	var all []string
	for _, h := range in.Hosts {
		all = append(all, h.Config.ListenClient...)
	}
	return all
}

// TLS is a client's configuration, of a host of the installation.
func (in *Installation) TLS(t *testing.T) *tls.Config {
	t.Helper()
	return in.ca.client(t)
}

// Ctx is a context for what has to happen soon.
func Ctx(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), wait)
	t.Cleanup(cancel)
	return ctx
}

// Until asks again until yes returns true.
func Until(t *testing.T, what string, yes func() bool) {
	t.Helper()
	ctx := Ctx(t)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !yes() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("waited in vain: %s", what)
		}
	}
}
