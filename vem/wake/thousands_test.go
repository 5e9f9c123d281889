package wake_test

import (
	"testing"
	"time"

	"github.com/go-quicktest/qt"

	"github.com/snapctl/snapctl/testenv/sockets"
	"github.com/snapctl/snapctl/vem/hold/collect"
	"github.com/snapctl/snapctl/vem/hold/vet"
	"github.com/snapctl/snapctl/vem/wake"
)

func TestThousands(t *testing.T) {
	w := sockets.New(t)
	const n = 5000
	a, clients := w.RunConnected(n)
	start := time.Now()
	qt.Assert(t, qt.HasLen(vet.Preflight(t.Context(), []int{a.PID}), 0))
	checked := time.Since(start)
	start = time.Now()
	set := collected(w, a, collect.Options{})
	collected := time.Since(start)
	a.Kill(t)
	qt.Assert(t, qt.HasLen(set.Sockets, n+1))
	qt.Assert(t, qt.IsNil(set.Arm()))
	start = time.Now()
	watcher := watch(w, set, wake.Policy{})
	armed := time.Since(start)
	asleep(t, watcher)
	start = time.Now()
	w.Write(clients[n/2], "hello")
	e := awake(t, watcher, wake.Data)
	t.Logf("%d sockets: checked in %v, collected in %v, watched in %v, woken after %v", n, checked, collected, armed, time.Since(start))
	qt.Assert(t, qt.Equals(e.Remote, w.Local(clients[n/2])))
}
