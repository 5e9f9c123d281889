package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/go-quicktest/qt"

	"github.com/snapctl/snapctl/runtime/api"
	"github.com/snapctl/snapctl/runtime/cargo"
	"github.com/snapctl/snapctl/testenv"
	"github.com/snapctl/snapctl/testenv/gate"
	"github.com/snapctl/snapctl/testenv/host"
	"github.com/snapctl/snapctl/testenv/underlay"
)

// transferred is what snapshots push and pull print.
type transferred struct {
	As         string
	TotalBytes int64 `json:"total_bytes"`
	SentBytes  int64 `json:"sent_bytes"`
	SavedBytes int64 `json:"saved_bytes"`
	Files      int
	Notes      []string
}

// travels are two hosts, on the first of which a Redis with data runs.
type travels struct {
	*hosts
	alpha, beta *World
	redis       *redis
}

func newTravels(t *testing.T) *travels {
	t.Helper()
	testenv.Need(t, testenv.Program("redis-server"), testenv.Program("redis-cli"), testenv.Program("ip"), testenv.Program("nft"))
	hs := newInstallation(t, "alpha", "beta")
	tr := &travels{hosts: hs, alpha: hs.worlds[0], beta: hs.worlds[1]}
	req := redisRequest("cache", "10.77.0.7")
	req.Args = append(req.Args, "--enable-debug-command", "yes")
	tr.alpha.Run(req)
	tr.redis = tr.alpha.redis("10.77.0.7")
	// Values that compress, in some 40 MB.
	qt.Assert(t, qt.Equals(tr.redis.do("DEBUG POPULATE 200000 key 100"), "+OK"))
	tr.alpha.OK("exec", "cache", "--", "sh", "-c", "mkdir -p /srv/data && echo kept > /srv/data/file && ln /srv/data/file /srv/data/again && chown 33:34 /srv/data/file && head -c 300000 /dev/urandom > /srv/data/random")
	tr.alpha.OK("snapshot", "cache")
	return tr
}

// digest is that of all data of a Redis.
func (r *redis) digest() string {
	r.t.Helper()
	d := r.do("DEBUG DIGEST")
	qt.Assert(r.t, qt.HasLen(d, 41))
	return d
}

// is proves that an app that was made of a snapshot has the data.
func (tr *travels) is(w *World, snapshot, digest string) {
	tr.t.Helper()
	r := w.CLI("restore", snapshot, "--as", "copy")
	// The test's own connection belongs to the app that was saved.
	qt.Assert(tr.t, qt.Equals(r.Code, 6), qt.Commentf("%s", r.Stderr))
	qt.Check(tr.t, qt.Equals(w.redis(w.Show("copy").GetEndpoint()).digest(), digest))
	qt.Check(tr.t, qt.Equals(w.OK("exec", "copy", "--", "sh", "-c", "cat /srv/data/file; stat -c '%h %u %g' /srv/data/again"), "kept\n2 33 34\n"))
	w.OK("rm", "--force", "copy")
}

// TestSnapshotsTravel takes a snapshot to another host, where an app is made of it. What is there already is
// not sent again.
func TestSnapshotsTravel(t *testing.T) {
	tr := newTravels(t)
	alpha, beta := tr.alpha, tr.beta
	digest := tr.redis.digest()
	var first, again, more, back transferred
	alpha.JSON(&first, "snapshots", "push", "cache-1", "--to", "beta", "-o", "json")
	t.Logf("first: %+v", first)
	qt.Check(t, qt.HasLen(first.Notes, 0))
	qt.Check(t, qt.IsTrue(first.TotalBytes > 20<<20 && first.SentBytes < first.TotalBytes/2))
	qt.Check(t, qt.IsTrue(first.SavedBytes > 0)) // both hosts have the same programs and libraries
	beta.OK("inspect", "cache-1")
	tr.is(beta, "cache-1", digest)

	alpha.JSON(&again, "snapshots", "push", "cache-1", "--to", "beta", "--as", "other", "-o", "json")
	t.Logf("again: %+v", again)
	qt.Check(t, qt.IsTrue(again.TotalBytes < first.TotalBytes/10 && again.SentBytes < first.SentBytes/4))
	qt.Check(t, qt.Equals(again.As, "other"))
	// Of the next snapshot what has changed is sent.
	alpha.OK("snapshots", "rm", "cache-1")
	qt.Assert(t, qt.Equals(tr.redis.do("DEBUG POPULATE 1000 more 100"), "+OK"))
	digest = tr.redis.digest()
	alpha.OK("snapshots", "pull", "other", "--from", "beta", "--as", "cache-1")
	alpha.OK("snapshot", "cache", "--name", "changed")
	alpha.JSON(&more, "snapshots", "push", "changed", "--to", "beta", "-o", "json", "--bandwidth", "50MiB")
	t.Logf("changed: %+v", more)
	qt.Check(t, qt.IsTrue(more.SentBytes < first.SentBytes))
	tr.is(beta, "changed", digest)
	beta.JSON(&back, "snapshots", "push", "changed", "--to", "alpha", "--as", "back", "-o", "json")
	t.Logf("back: %+v", back)
	qt.Check(t, qt.IsTrue(back.TotalBytes < first.TotalBytes/10))
	tr.is(alpha, "back", digest)

	for _, test := range []struct {
		world      *World
		code       int
		want, hint string
		args       []string
	}{
		{alpha, 1, "host beta: snapshot other: already exists", "choose another name for it there with --as", []string{"push", "changed", "--to", "beta", "--as", "other"}},
		{beta, 1, "snapshot changed: already exists", "choose another name for it here with --as", []string{"pull", "changed", "--from", "alpha"}},
		{alpha, 4, "host nowhere: not found", "`snapctl host ls` lists what there is", []string{"push", "changed", "--to", "nowhere"}},
		{alpha, 2, "host alpha is this host", "", []string{"push", "changed", "--to", "alpha"}},
		{alpha, 4, "snapshot nothing: not found", "`snapctl snapshots` lists what there is", []string{"push", "nothing", "--to", "beta"}},
		{alpha, 4, "host beta: snapshot nothing: not found", "", []string{"pull", "nothing", "--from", "beta"}},
		{alpha, 2, "", "", []string{"push", "changed", "--to", "beta", "--as", "../x"}},
	} {
		r := test.world.CLI(append([]string{"snapshots"}, test.args...)...)
		qt.Check(t, qt.Equals(r.Code, test.code), qt.Commentf("%v: %s", test.args, r.Stderr))
		qt.Check(t, qt.StringContains(r.Stderr, test.want))
		qt.Check(t, qt.StringContains(r.Stderr, test.hint))
	}
	// What was damaged on the way to the other host's disk is refused here.
	tr.rot(alpha, "changed")
	r := alpha.CLI("snapshots", "push", "changed", "--to", "beta", "--as", "rotten")
	qt.Check(t, qt.Equals(r.Code, 1))
	qt.Check(t, qt.StringContains(r.Stderr, "damaged"))
	qt.Check(t, qt.Not(qt.StringContains(beta.OK("snapshots"), "rotten")))
	alpha.nothingPartial()
	beta.nothingPartial()
}

// rot changes a byte of a file of a snapshot.
func (tr *travels) rot(w *World, name string) {
	tr.t.Helper()
	images, err := filepath.Glob(w.Outside(filepath.Join(w.StateDir(), "snapshots", name, "images", "core-*.img")))
	qt.Assert(tr.t, qt.IsNil(err))
	b, err := os.ReadFile(images[0])
	qt.Assert(tr.t, qt.IsNil(err))
	b[len(b)/2] ^= 1
	qt.Assert(tr.t, qt.IsNil(os.WriteFile(images[0], b, 0o600)))
}

// TestTransferIsKilled has the daemon of either host die at each step of a transfer, which either of them
// asked for: nothing is left of it, or all is there, and it can be done again.
func TestTransferIsKilled(t *testing.T) {
	tr := newTravels(t)
	alpha, beta := tr.alpha, tr.beta
	ctx, cancel := context.WithTimeout(t.Context(), 8*time.Minute)
	defer cancel()
	push, pull := []string{"snapshots", "push", "cache-1", "--to", "beta"}, []string{"snapshots", "pull", "cache-1", "--from", "alpha"}
	for _, point := range hostPoints("cargo.") {
		dies, source := beta, point == cargo.Offered || point == cargo.Sent
		if source {
			dies = alpha
		}
		for _, byTarget := range []bool{false, true} {
			asks, command := alpha, push
			if byTarget {
				asks, command = beta, pull
			}
			qt.Assert(t, qt.IsNil(dies.RestartDaemon(ctx, syscall.SIGTERM, host.Daemon{Env: gate.Env(gate.Kill(point))})))
			dies.Dial()
			// The hosts find each other first.
			tr.until(asks, string(point), func() error {
				r := asks.CLI(command...) //nolint:contextcheck // it has the test's
				qt.Assert(t, qt.Not(qt.Equals(r.Code, 0)), qt.Commentf("%s: %s", point, r.Stdout))
				if _, err := dies.DaemonPID(); err == nil && !gone(ctx, dies) {
					return errors.New(r.Stderr)
				}
				return nil
			})
			qt.Assert(t, qt.IsNil(dies.StartDaemon(ctx, host.Daemon{})))
			dies.Dial()
			for _, w := range []*World{alpha, beta} {
				w.nothingPartial()
				tr.until(w, "layers and kept files are those that are needed", w.sharedFiles)
			}
			if names := beta.snapshots(); len(names) > 0 { // the last moment was over
				qt.Check(t, qt.IsTrue(point == cargo.Sent || point == cargo.Committed), qt.Commentf("%s: %v", point, names))
				qt.Check(t, qt.DeepEquals(names, []string{"cache-1"}))
				beta.OK("snapshots", "rm", "cache-1")
			} else {
				qt.Check(t, qt.Not(qt.Equals(point, cargo.Committed)))
			}
		}
	}
	tr.until(beta, "it comes in the end", func() error {
		if r := beta.CLI(pull...); r.Code != 0 {
			return errors.New(r.Stderr)
		}
		return nil
	})
	tr.is(beta, "cache-1", tr.redis.digest())
}

// TestTransferIsEnded ends transfers between two files: who asked for one hangs up, on either host, or the
// networks between the hosts fail. Nothing is left of it, and it can be done again.
func TestTransferIsEnded(t *testing.T) {
	tr := newTravels(t)
	alpha, beta := tr.alpha, tr.beta
	dir, err := os.MkdirTemp("", "gate") //nolint:usetesting // a socket's path is short
	qt.Assert(t, qt.IsNil(err))
	t.Cleanup(func() { qt.Check(t, qt.IsNil(os.RemoveAll(dir))) })
	g, err := gate.Open(t.Context(), dir, cargo.Filling)
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.IsNil(g.Close())) // each transfer has a new one there, at which no other waits
	qt.Assert(t, qt.IsNil(beta.RestartDaemon(t.Context(), syscall.SIGTERM, host.Daemon{Env: gate.Env(g.Fault())})))
	beta.Dial()
	push := func(ctx context.Context) error {
		_, err := alpha.API.PushSnapshot(ctx, &api.TransferRequest{Snapshot: "cache-1", Host: "beta"}, nil)
		return err
	}
	pull := func(ctx context.Context) error {
		_, err := beta.API.PullSnapshot(ctx, &api.TransferRequest{Snapshot: "cache-1", Host: "alpha"}, nil)
		return err
	}
	for name, test := range map[string]struct {
		do  func(context.Context) error
		cut bool
	}{
		"who pushes hangs up": {do: push}, "who pulls hangs up": {do: pull},
		"the network fails while it is pushed": {do: push, cut: true}, "the network fails while it is pulled": {do: pull, cut: true},
	} {
		t.Run(name, func(t *testing.T) {
			g := gate.New(t, dir, cargo.Filling)
			asking, hangUp := context.WithCancel(t.Context())
			defer hangUp()
			stop, ended := tr.begun(g, func() error { return test.do(asking) })
			if test.cut {
				for _, p := range []*underlay.Port{tr.eth0[1], tr.eth1[1]} {
					qt.Assert(t, qt.IsNil(p.Cut(underlay.Both)))
					defer func() { qt.Check(t, qt.IsNil(p.Mend(underlay.Both))) }()
				}
			} else {
				hangUp()
			}
			_ = stop.Continue() // it may be gone
			err := <-ended
			qt.Check(t, qt.IsNotNil(err))
			t.Log(err)
			for _, w := range []*World{alpha, beta} {
				w.nothingPartial()
				tr.until(w, "layers and kept files are those that are needed", w.sharedFiles)
			}
			qt.Check(t, qt.HasLen(beta.snapshots(), 0))
		})
	}
	qt.Assert(t, qt.IsNil(beta.RestartDaemon(t.Context(), syscall.SIGTERM, host.Daemon{})))
	beta.Dial()
	tr.until(alpha, "it comes in the end", func() error { return push(t.Context()) })
	tr.is(beta, "cache-1", tr.redis.digest())
	// A host that gives waits a while for one that it does not hear of, and keeps what it gives.
	tr.until(alpha, "nothing is being sent any more", func() error {
		if r := alpha.CLI("snapshots", "rm", "cache-1"); r.Code != 0 {
			return errors.New(r.Stderr)
		}
		return nil
	})
}

// begun begins a transfer, again for as long as hosts have to find each other, and returns when it waits at a
// gate. What becomes of the transfer comes from the channel.
func (tr *travels) begun(g *gate.Gate, do func() error) (stop *gate.Stop, ended <-chan error) {
	tr.t.Helper()
	waits, failed := make(chan *gate.Stop, 1), make(chan error, 1)
	ctx, cancel := context.WithCancel(tr.t.Context())
	defer cancel()
	go func() {
		s, err := g.Wait(ctx)
		if err != nil {
			failed <- err
			return
		}
		waits <- s
	}()
	tr.until(tr.beta, "a transfer has begun", func() error {
		done := make(chan error, 1)
		ended = done
		go func() { done <- do() }()
		select {
		case stop = <-waits:
			return nil
		case err := <-done:
			return fmt.Errorf("it has ended before: %w", err)
		case err := <-failed:
			tr.t.Fatal(err)
			return err
		}
	})
	return stop, ended
}

func (tr *travels) until(w *World, what string, fn func() error) {
	tr.t.Helper()
	w.Until(what, fn)
}

// gone waits for a moment until a daemon has ended that was told to die.
func gone(ctx context.Context, w *World) bool {
	ctx, cancel := context.WithTimeout(ctx, 200*time.Millisecond)
	defer cancel()
	_, err := w.WaitDaemon(ctx)
	return err == nil
}

// sharedFiles proves that every layer and kept file of the host is named by a snapshot or an app.
func (w *World) sharedFiles() error {
	state := w.Outside(w.StateDir())
	var named strings.Builder
	for _, pattern := range []string{"snapshots/*/manifest.json", "apps/*/hibernation/manifest.json", "apps/*/app.json"} {
		names, err := filepath.Glob(filepath.Join(state, pattern))
		if err != nil {
			return err
		}
		for _, name := range names {
			b, err := os.ReadFile(name)
			if err != nil {
				return err
			}
			named.Write(b)
		}
	}
	for _, dir := range []string{"layers", "files"} {
		entries, err := os.ReadDir(filepath.Join(state, dir))
		if err != nil {
			return err
		}
		for _, e := range entries {
			if !strings.Contains(named.String(), e.Name()) {
				return fmt.Errorf("nobody needs %s/%s", dir, e.Name())
			}
		}
	}
	return nil
}
