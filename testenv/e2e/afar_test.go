package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"syscall"
	"testing"
	"time"

	"github.com/go-quicktest/qt"

	"github.com/snapctl/snapctl/runtime/api"
	"github.com/snapctl/snapctl/runtime/fault"
	"github.com/snapctl/snapctl/testenv/gate"
	"github.com/snapctl/snapctl/testenv/host"
)

// restored is what snapctl restore prints.
type restored struct {
	Results []struct {
		Host       string
		SentBytes  int64 `json:"sent_bytes"`
		SavedBytes int64 `json:"saved_bytes"`
		App        struct{ Name, Endpoint string }
	}
}

// TestRestoreAfar has another host make an app of a snapshot of this one.
func TestRestoreAfar(t *testing.T) {
	tr := newTravels(t)
	alpha, beta := tr.alpha, tr.beta
	digest := tr.redis.digest()
	// The connection of the test belongs to the app that was saved.
	for round, sent := range []bool{true, false} { // the second time the snapshot is there
		r := alpha.CLI("restore", "cache-1", "--as", "copy", "--host", "beta", "-o", "json")
		qt.Assert(t, qt.Equals(r.Code, 6), qt.Commentf("%s", r.Stderr))
		var got restored
		qt.Assert(t, qt.IsNil(json.Unmarshal([]byte(r.Stdout), &got)))
		qt.Assert(t, qt.HasLen(got.Results, 1))
		t.Logf("round %d: %+v", round, got.Results[0])
		qt.Check(t, qt.Equals(got.Results[0].Host, "beta"))
		qt.Check(t, qt.Equals(got.Results[0].SentBytes > 0, sent))
		qt.Check(t, qt.Equals(alpha.CLI("show", "copy").Code, 4))
		a := beta.Show("copy")
		qt.Check(t, qt.Equals(a.GetStatus(), api.Status_STATUS_RUNNING))
		qt.Check(t, qt.Equals(a.GetRestoredFrom(), "cache-1"))
		qt.Check(t, qt.Equals(beta.redis(a.GetEndpoint()).digest(), digest))
		qt.Check(t, qt.DeepEquals(beta.snapshots(), []string{"cache-1"}))
		beta.OK("rm", "--force", "copy")
	}
	// It was there before: it stays if nothing comes of it.
	r := alpha.CLI("restore", "cache-1", "--host", "beta")
	qt.Check(t, qt.Equals(r.Code, 1))
	qt.Check(t, qt.StringContains(r.Stderr, "host beta: ")) // alpha has the app, and its address
	qt.Check(t, qt.StringContains(r.Stderr, "--as and --endpoint make another app of it"))
	qt.Check(t, qt.DeepEquals(beta.snapshots(), []string{"cache-1"}))
	beta.OK("snapshots", "rm", "cache-1")
	// It was not: it goes.
	r = alpha.CLI("restore", "cache-1", "--host", "beta")
	qt.Check(t, qt.Equals(r.Code, 1))
	qt.Check(t, qt.HasLen(beta.snapshots(), 0))
	// The other host has another one of that name.
	alpha.OK("snapshot", "cache", "--name", "clash")
	alpha.OK("snapshots", "push", "cache-1", "--to", "beta", "--as", "clash")
	r = alpha.CLI("restore", "clash", "--as", "copy", "--host", "beta")
	qt.Check(t, qt.Equals(r.Code, 1))
	qt.Check(t, qt.StringContains(r.Stderr, "host beta: there is another snapshot clash: already exists"))
	qt.Check(t, qt.StringContains(r.Stderr, "snapctl snapshots push clash --to beta --as NAME"))
	beta.OK("snapshots", "rm", "clash")
	// By its own name a host does it itself, and there is none of others.
	r = alpha.CLI("restore", "cache-1", "--as", "copy", "--host", "alpha")
	qt.Check(t, qt.Equals(r.Code, 6), qt.Commentf("%s", r.Stderr))
	alpha.OK("rm", "--force", "copy")
	qt.Check(t, qt.Equals(alpha.CLI("restore", "cache-1", "--as", "copy", "--host", "nowhere").Code, 4))
	qt.Check(t, qt.Equals(alpha.CLI("restore", "nothing", "--host", "beta").Code, 4))
	// It takes the place of one that is gone, at an address of its own host's.
	alpha.OK("rm", "--force", "cache")
	r = alpha.CLI("restore", "cache-1", "--host", "beta")
	qt.Assert(t, qt.Equals(r.Code, 6), qt.Commentf("%s", r.Stderr))
	qt.Check(t, qt.StringContains(r.Stderr, "that is one of the addresses that host alpha gives out"))
	qt.Check(t, qt.Equals(beta.redis(beta.Show("cache").GetEndpoint()).digest(), digest))
	alpha.nothingPartial()
	beta.nothingPartial()
}

// TestRestoreAfarIsKilled has the daemon of either host die while the app is made: the snapshot does not stay
// without the app.
func TestRestoreAfarIsKilled(t *testing.T) {
	tr := newTravels(t)
	alpha, beta := tr.alpha, tr.beta
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	defer cancel()
	for _, test := range []struct {
		dies, other *World
		point       fault.Name
	}{{beta, alpha, "restore.furnished"}, {beta, alpha, "cargo.committed"}, {alpha, beta, "cargo.sent"}} {
		qt.Assert(t, qt.IsNil(test.dies.RestartDaemon(ctx, syscall.SIGTERM, host.Daemon{Env: gate.Env(gate.Kill(test.point))})))
		test.dies.Dial()
		tr.until(alpha, string(test.point), func() error {
			r := alpha.CLI("restore", "cache-1", "--as", "copy", "--host", "beta") //nolint:contextcheck // it has the test's
			qt.Assert(t, qt.Equals(r.Code, 1), qt.Commentf("%s: %s", test.point, r.Stdout))
			if _, err := test.dies.DaemonPID(); err == nil && !gone(ctx, test.dies) {
				return errors.New(r.Stderr)
			}
			return nil
		})
		qt.Assert(t, qt.IsNil(test.dies.StartDaemon(ctx, host.Daemon{})))
		test.dies.Dial()
		tr.until(beta, "nothing is left", func() error {
			if names := beta.snapshots(); len(names) > 0 || beta.CLI("show", "copy").Code != 4 {
				return fmt.Errorf("snapshots %v, and perhaps the app", names)
			}
			return nil
		})
	}
}
