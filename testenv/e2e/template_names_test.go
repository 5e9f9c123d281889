package e2e

import (
	"context"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/go-quicktest/qt"

	"github.com/snapctl/snapctl/runtime/api"
	"github.com/snapctl/snapctl/runtime/client"
)

// TestNamesOfClonesAreTaken asks for the name of a clone that is yet to be made.
func TestNamesOfClonesAreTaken(t *testing.T) {
	w, _, clients, g := pausedAt(t, "clone.begun")
	_, err := w.API.TakeSnapshot(t.Context(), &api.SnapshotRequest{App: "cache", Name: "s1"}, nil)
	qt.Assert(t, qt.IsNil(err))
	const many = 40 // more than are made at the same time
	names := make([]string, many)
	for i := range names {
		names[i] = "redis-server"
		if i < many-1 {
			names[i] = "c" + string(rune('a'+i/26)) + string(rune('a'+i%26))
		}
	}
	ctx, hangUp := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		_, err := w.API.Clone(ctx, &api.CloneRequest{Template: "t", Names: names}, client.CloneWatch{})
		ended <- err
	}()
	_, err = g.Wait(t.Context())
	qt.Assert(t, qt.IsNil(err))
	_, err = w.API.Show(t.Context(), "redis-server")
	qt.Assert(t, qt.ErrorIs(err, errdefs.ErrNotFound))

	_, err = w.API.Run(t.Context(), redisRequest("redis-server", "10.77.0.99"))
	qt.Assert(t, qt.ErrorIs(err, errdefs.ErrAlreadyExists))
	_, err = w.API.Restore(t.Context(), &api.RestoreRequest{Snapshot: "s1", As: "redis-server", Endpoint: "10.77.0.99"}, nil)
	qt.Assert(t, qt.ErrorIs(err, errdefs.ErrAlreadyExists))
	chosen := w.Run(redisRequest("", "10.77.0.99"))
	qt.Assert(t, qt.Equals(chosen.GetName(), "redis-server-2"))

	hangUp()
	qt.Assert(t, qt.ErrorIs(<-ended, context.Canceled))
	open(t, g)
	w.Until("the clones are given up", func() error {
		_, err := w.API.Run(t.Context(), redisRequest("redis-server", "10.77.0.98"))
		return err
	})
	qt.Assert(t, qt.DeepEquals(w.names(), []string{"cache", "redis-server", "redis-server-2"}))
	w.remove("redis-server", "redis-server-2")
	goesOn(w, clients)
}
