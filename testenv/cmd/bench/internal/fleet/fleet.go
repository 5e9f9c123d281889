// Package fleet simulates many hosts of one installation. Each has a session and a cache of its own,
// by the code that hosts have, over a real member of etcd: what is missing is the network between
// them, and TLS. All hosts are in this process; etcd runs on a scratch host, and ends with it.
package fleet

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/snapctl/snapctl/testenv/cmd/bench/internal/rig"
	"github.com/snapctl/snapctl/testenv/host"
	"github.com/snapctl/snapctl/vem/address"
	"github.com/snapctl/snapctl/vem/directory"
	"github.com/snapctl/snapctl/vem/directory/cache"
	"github.com/snapctl/snapctl/vem/directory/etcd"
	"github.com/snapctl/snapctl/vem/directory/member"
)

const (
	installation = "bench"
	network      = "default"
	patience     = time.Minute // for what has to happen soon, on a machine that is very busy
)

// Fleet is a directory and the hosts that share it.
type Fleet struct {
	place  *host.Host // where etcd runs
	server *exec.Cmd
	url    string
	etcd   *clientv3.Client // beside the hosts' own
	hosts  []*Host

	follow context.CancelFunc // ends the caches
	caches sync.WaitGroup

	free chan *directory.Endpoint // those that nobody is changing

	mu      sync.Mutex
	pending map[netip.Addr]*change // by the address of the endpoint
}

// Host is one of the hosts.
type Host struct {
	name    string
	store   *etcd.Store
	session *directory.Session
	cache   *cache.Cache
	turn    sync.Mutex // a host makes one change after the other
}

// Open starts etcd, and so many hosts that have no endpoint yet. The caller closes it.
func Open(ctx context.Context, hosts int) (_ *Fleet, err error) {
	f := &Fleet{pending: make(map[netip.Addr]*change), follow: func() {}}
	defer func() {
		if err != nil {
			err = errors.Join(err, f.Close(ctx))
		}
	}()
	if f.place, err = host.Open(ctx, host.Config{Name: "directory"}); err != nil {
		return nil, err
	}
	if err := f.serve(ctx); err != nil {
		return nil, err
	}
	if f.etcd, err = etcd.Dial([]string{f.url}, nil); err != nil {
		return nil, err
	}
	err = rig.Until(ctx, patience, func() error {
		first, err := f.open(ctx)
		if err != nil {
			return err
		}
		defer first.Close()
		_, err = directory.Init(ctx, first, installation, hostName(0), time.Now())
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("start etcd: %w", err)
	}
	for i := range hosts {
		h, err := f.join(ctx, hostName(i))
		if err != nil {
			return nil, err
		}
		f.hosts = append(f.hosts, h)
	}
	space := address.Space{Prefix4: netip.MustParsePrefix("10.77.0.0/16"), Prefix6: netip.MustParsePrefix("fd77::/64")}
	_, err = f.hosts[0].session.PutNetwork(ctx, network, space, time.Now())
	return f, err
}

func hostName(i int) string { return fmt.Sprintf("host%d", i) }

// serve starts a member of etcd as snapctld does, but on the scratch host.
func (f *Fleet) serve(ctx context.Context) error {
	exe, err := f.place.Install(ctx, "snapctl-directory")
	if err != nil {
		return err
	}
	f.url = "unix://" + f.place.Path("client")
	conf, err := json.Marshal(member.Config{
		Name: "member", Dir: f.place.Path("member"), Token: installation,
		ListenClient: []string{f.url}, ListenPeer: []string{"unix://" + f.place.Path("peer")},
	})
	if err != nil {
		return err
	}
	path := f.place.Path("member", "config.json")
	if err := errors.Join(os.Mkdir(f.place.Path("member"), 0o700), os.WriteFile(path, conf, 0o600)); err != nil {
		return err
	}
	f.server = f.place.Command(context.WithoutCancel(ctx), exe, "serve", path)
	f.server.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	return f.server.Start()
}

func (f *Fleet) open(ctx context.Context) (*etcd.Store, error) {
	return etcd.Open(ctx, etcd.Options{Endpoints: []string{f.url}, Prefix: "snapctl", Log: slog.New(slog.DiscardHandler)})
}

// join makes a host.
func (f *Fleet) join(ctx context.Context, name string) (_ *Host, err error) {
	h := &Host{name: name}
	if h.store, err = f.open(ctx); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, h.store.Close())
		}
	}()
	d, err := directory.Open(ctx, h.store, installation, directory.Known{})
	if err != nil {
		return nil, err
	}
	if _, err := d.PutHost(ctx, directory.Host{Name: name, Key: name}); err != nil {
		return nil, err
	}
	if h.session, err = d.Begin(ctx, name, name, time.Now()); err != nil {
		return nil, err
	}
	h.cache = cache.New(d, cache.Options{Endpoint: func(_, now *directory.Endpoint) { f.heard(now) }})
	return h, nil
}

// Close ends the hosts and etcd.
func (f *Fleet) Close(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), patience)
	defer cancel()
	f.follow()
	f.caches.Wait()
	var errs []error
	for _, h := range f.hosts {
		errs = append(errs, h.store.Close())
	}
	if f.etcd != nil {
		_ = f.etcd.Close() // says that its own context was cancelled
	}
	if f.place != nil {
		errs = append(errs, f.place.Close(ctx))
	}
	if f.server != nil && f.server.Process != nil {
		_ = f.server.Wait() // it was killed
	}
	return errors.Join(errs...)
}

// Claim has the hosts claim so many endpoints, all hosts at once, and returns how long that took.
func (f *Fleet) Claim(ctx context.Context, endpoints int) (time.Duration, error) {
	f.free = make(chan *directory.Endpoint, endpoints)
	lists := make([][]directory.Endpoint, len(f.hosts))
	addr := netip.MustParseAddr("10.77.0.255")
	for i := range endpoints {
		addr = addr.Next()
		h := i % len(f.hosts)
		lists[h] = append(lists[h], directory.Endpoint{
			Network: network, Addr: addr, ID: fmt.Sprintf("%026d", i), App: fmt.Sprintf("app-%d", i), State: directory.Running,
		})
	}
	errs := make(chan error, len(f.hosts))
	start := time.Now()
	for i, h := range f.hosts {
		go func() { errs <- f.claim(ctx, h, lists[i]) }()
	}
	var all []error
	for range f.hosts {
		all = append(all, <-errs)
	}
	return time.Since(start), errors.Join(all...)
}

func (f *Fleet) claim(ctx context.Context, h *Host, list []directory.Endpoint) error {
	var errs []error
	for _, out := range h.session.Claim(ctx, list) {
		if errs = append(errs, out.Err); out.Err == nil {
			f.free <- &out.Endpoint
		}
	}
	return errors.Join(errs...)
}

// Follow has every host follow the directory, and returns when all know all endpoints. They begin
// one after the other: all of them at once would wait for this machine's processors, not for etcd.
func (f *Fleet) Follow(ctx context.Context) error {
	run, cancel := context.WithCancel(ctx)
	f.follow = cancel
	for _, h := range f.hosts {
		f.caches.Go(func() { _ = h.cache.Run(run) }) // ends with run
		err := rig.Until(ctx, patience, func() error { return h.cache.Freshness().Err })
		if err != nil {
			return fmt.Errorf("%s follows the directory: %w", h.name, err)
		}
	}
	return nil
}

// PID is that of etcd.
func (f *Fleet) PID() int { return f.server.Process.Pid }

// Bytes is how much of etcd's file is in use.
func (f *Fleet) Bytes(ctx context.Context) (int64, error) {
	s, err := f.etcd.Status(ctx, f.url)
	if err != nil {
		return 0, err
	}
	return s.DbSizeInUse, nil
}

// Put is how long etcd itself takes to put one entry.
func (f *Fleet) Put(ctx context.Context) (time.Duration, error) {
	start := time.Now()
	_, err := f.etcd.Put(ctx, "/bench", start.String())
	return time.Since(start), err
}
