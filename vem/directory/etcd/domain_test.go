package etcd_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/go-quicktest/qt"
	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/testenv/cluster"
	"github.com/snapctl/snapctl/vem/address"
	"github.com/snapctl/snapctl/vem/directory"
	"github.com/snapctl/snapctl/vem/directory/cache"
	"github.com/snapctl/snapctl/vem/directory/etcd"
)

// begin begins a session of a host, with a store of its own.
func begin(t *testing.T, in *cluster.Installation, host string) (*directory.Directory, *directory.Session) {
	t.Helper()
	ctx := cluster.Ctx(t)
	d, err := directory.Open(ctx, open(t, in, func(o *etcd.Options) { o.Timeout = time.Second }), "lab", directory.Known{})
	qt.Assert(t, qt.IsNil(err))
	_, err = d.PutHost(ctx, directory.Host{Name: host, Key: "key"})
	qt.Assert(t, qt.IsNil(err))
	s, err := d.Begin(ctx, host, "key", time.Now())
	qt.Assert(t, qt.IsNil(err))
	return d, s
}

// Two hosts claim the same endpoints while the member stands still again and again: each
// endpoint is one host's, each host knows which are its own, and a cache knows all.
func TestClaimsWhileTheMemberStandsStill(t *testing.T) {
	in := cluster.New(t, 1, nil)
	ctx := cluster.Ctx(t)
	_, err := directory.Init(ctx, open(t, in, nil), "lab", "a", time.Now())
	qt.Assert(t, qt.IsNil(err))
	d, a := begin(t, in, "a")
	_, b := begin(t, in, "b")
	_, err = a.PutNetwork(ctx, "default", address.Space{Prefix4: netip.MustParsePrefix("10.77.0.0/16")}, time.Now())
	qt.Assert(t, qt.IsNil(err))
	known := cache.New(d, cache.Options{})
	running, stop := context.WithCancel(ctx)
	followed := make(chan error, 1)
	go func() { followed <- known.Run(running) }()

	const many = 50
	owners := make([]map[string]string, 2) // by address
	var all sync.WaitGroup
	for i, s := range []*directory.Session{a, b} {
		owners[i] = make(map[string]string)
		all.Go(func() {
			for n := range many {
				if s == b { // from the other end
					n = many - 1 - n
				}
				e := directory.Endpoint{
					Network: "default", Addr: netip.AddrFrom4([4]byte{10, 77, 1, byte(n)}), App: fmt.Sprint("app-", n),
					ID: fmt.Sprint("id-", s.Host(), n), State: directory.Running,
				}
				owner, err := owned(ctx, s, e)
				if err != nil {
					t.Errorf("%s claims %s: %v", s.Host(), e, err)
				}
				owners[i][e.Addr.String()] = owner
			}
		})
	}
	done := make(chan struct{})
	go func() { all.Wait(); close(done) }()
	for still := true; still; {
		pid := in.Hosts[0].Signal(t, unix.SIGSTOP)
		select {
		case <-done:
			still = false
		case <-time.After(700 * time.Millisecond): // some calls end by their deadlines, and happen later
		}
		qt.Assert(t, qt.IsNil(unix.Kill(pid, unix.SIGCONT)))
		select {
		case <-done:
			still = false
		case <-time.After(200 * time.Millisecond):
		}
	}
	list, err := d.Endpoints(ctx)
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.HasLen(list, many))
	count := make(map[string]int)
	for _, e := range list {
		count[e.Owner]++
		for i := range owners {
			qt.Check(t, qt.Equals(owners[i][e.Addr.String()], e.Owner), qt.Commentf("%s", e))
		}
	}
	t.Log(count)
	rev, err := d.Check(ctx)
	qt.Assert(t, qt.IsNil(err))
	for tick := time.NewTicker(10 * time.Millisecond); known.Freshness().Revision < rev; <-tick.C {
		qt.Assert(t, qt.IsNil(ctx.Err()))
	}
	got := known.Endpoints()
	qt.Assert(t, qt.HasLen(got, many))
	for i := range got {
		qt.Check(t, qt.Equals(got[i], list[i]))
	}
	stop()
	qt.Check(t, qt.ErrorIs(<-followed, context.Canceled))
}

// owned claims an endpoint until it is known whose it is, and returns its owner.
func owned(ctx context.Context, s *directory.Session, e directory.Endpoint) (string, error) {
	for {
		short, cancel := context.WithTimeout(ctx, 400*time.Millisecond)
		err := s.Claim(short, []directory.Endpoint{e})[0].Err
		cancel()
		var taken *directory.TakenError
		switch {
		case err == nil:
			return s.Host(), nil
		case errors.As(err, &taken):
			return taken.There.Owner, nil
		case !errors.Is(err, directory.ErrUnavailable) || ctx.Err() != nil:
			return "", err
		}
	}
}
