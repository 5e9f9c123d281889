package etcd_test

import (
	"sync"
	"testing"
	"time"

	"github.com/go-quicktest/qt"
	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/testenv/cluster"
	"github.com/snapctl/snapctl/vem/directory"
	"github.com/snapctl/snapctl/vem/directory/directorytest"
	"github.com/snapctl/snapctl/vem/directory/etcd"
)

func TestConformance(t *testing.T) {
	in := cluster.New(t, 1, nil)
	client, err := etcd.Dial(in.Endpoints(), in.TLS(t))
	qt.Assert(t, qt.IsNil(err))
	t.Cleanup(func() { qt.Check(t, qt.IsNil(client.Close())) })
	// A member that stands still is cut off from everybody.
	still := func(t *testing.T) (heal func()) {
		t.Helper()
		pid := in.Hosts[0].Signal(t, unix.SIGSTOP)
		return sync.OnceFunc(func() { qt.Check(t, qt.IsNil(unix.Kill(pid, unix.SIGCONT))) })
	}
	open := func(t *testing.T) directory.Store {
		t.Helper()
		s, err := etcd.Open(cluster.Ctx(t), etcd.Options{
			Endpoints: in.Endpoints(), TLS: in.TLS(t), Prefix: "/suite", Timeout: 2 * time.Second, Log: in.Log,
		})
		qt.Assert(t, qt.IsNil(err))
		return s
	}
	directorytest.Run(t, open, directorytest.Options{
		Compact: func(t *testing.T) {
			t.Helper()
			ctx := cluster.Ctx(t)
			r, err := client.Get(ctx, "x")
			qt.Assert(t, qt.IsNil(err))
			_, err = client.Compact(ctx, r.Header.Revision)
			qt.Assert(t, qt.IsNil(err))
		},
		Cut: func(t *testing.T, _ directory.Store) (heal func()) {
			t.Helper()
			return still(t)
		},
		Drop: func(t *testing.T) {
			t.Helper()
			ctx := cluster.Ctx(t)
			leases, err := client.Leases(ctx)
			qt.Assert(t, qt.IsNil(err))
			for _, l := range leases.Leases {
				_, err := client.Revoke(ctx, l.ID)
				qt.Check(t, qt.IsNil(err))
			}
		},
	})
}
