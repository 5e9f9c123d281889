package clone

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/go-quicktest/qt"

	"github.com/snapctl/snapctl/runtime/app"
	"github.com/snapctl/snapctl/runtime/catalog"
	"github.com/snapctl/snapctl/runtime/journal"
)

// fakeKeeper is a keeper that tells what it is asked, and answers what errs says.
type fakeKeeper struct {
	asked chan string
	errs  map[string]error // of a template's name, or "strays"
}

func newKeeper() *fakeKeeper {
	return &fakeKeeper{asked: make(chan string, 100), errs: make(map[string]error)}
}

func (k *fakeKeeper) keepPool(_ context.Context, t *catalog.Template) error {
	k.asked <- t.Name
	return k.errs[t.Name]
}

func (k *fakeKeeper) dropStrays(context.Context) error {
	k.asked <- "strays"
	return k.errs["strays"]
}

func quiet() *pools { return newPools(slog.New(slog.DiscardHandler)) }

// Pools are filled when nobody asks for clones, or somebody has for too long.
func TestCalm(t *testing.T) {
	p := quiet()
	qt.Assert(t, qt.Equals(p.rest(), 0))
	qt.Assert(t, qt.IsTrue(p.calm(t.Context())))

	one, two := p.BeginRequest(), p.BeginRequest()
	one()
	qt.Assert(t, qt.Equals(p.rest(), callPause))
	two()
	qt.Assert(t, qt.IsTrue(p.rest() > 0))
	qt.Assert(t, qt.IsTrue(p.calm(t.Context())))
	qt.Assert(t, qt.Equals(p.rest(), 0))

	p.BeginRequest() // it never ends
	qt.Assert(t, qt.IsTrue(p.calm(t.Context())))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	qt.Assert(t, qt.IsFalse(p.calm(ctx)))
}

// handedOut is a clone that was handed out, with its record aside.
func handedOut(t *testing.T, dir string) *app.App {
	t.Helper()
	a := app.New(dir, t.TempDir(), app.Record{Identity: app.Identity{Name: "t-1"}, State: app.State{Status: app.Pooled}})
	qt.Assert(t, qt.IsNil(a.Mark(journal.Mark{Ends: string(app.Running), Keep: journal.Aside})))
	return a
}

// What is to be recorded for good may have been removed meanwhile, on a full disk
// without a record of that.
func TestRecordHandedOut(t *testing.T) {
	p := quiet()
	a := handedOut(t, filepath.Join(t.TempDir(), "gone"))
	p.handedOut(a)
	qt.Assert(t, qt.IsFalse(p.record())) // it can't be
	qt.Check(t, qt.IsNotNil(a.Noted()))
	qt.Assert(t, qt.IsFalse(p.record())) // nor is it given up
	(&app.Registry[*app.App]{}).Remove(a)
	qt.Assert(t, qt.IsTrue(p.record()))
	qt.Assert(t, qt.IsTrue(p.record()))
}

func TestRecordWaitsForTheTurn(t *testing.T) {
	p := quiet()
	dir := t.TempDir()
	a := handedOut(t, dir)
	release, err := a.Take(t.Context(), "exec")
	qt.Assert(t, qt.IsNil(err))
	p.handedOut(a)
	qt.Check(t, qt.IsFalse(p.record()))
	release()
	qt.Check(t, qt.IsTrue(p.record()))
	qt.Check(t, qt.Equals(len(glob(t, dir, app.RecordFile)), 1))
}

func glob(t *testing.T, dir, name string) []string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(dir, name))
	qt.Assert(t, qt.IsNil(err))
	return found
}

// run has pools kept until the returned function is called.
func run(t *testing.T, p *pools, templates func() []*catalog.Template, k *fakeKeeper) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); p.run(ctx, templates, k) }()
	return func() { cancel(); <-done }
}

func TestRun(t *testing.T) {
	p, k := quiet(), newKeeper()
	one, two := &catalog.Template{Name: "one"}, &catalog.Template{Name: "two"}
	stop := run(t, p, func() []*catalog.Template { return []*catalog.Template{one, two} }, k)
	next := func() (asked []string) {
		for range 3 {
			asked = append(asked, <-k.asked)
		}
		return asked
	}
	qt.Check(t, qt.DeepEquals(next(), []string{"one", "two", "strays"})) // at once
	p.Soon()
	p.Soon()
	qt.Check(t, qt.DeepEquals(next(), []string{"one", "two", "strays"}))

	dir := t.TempDir()
	end := p.BeginRequest()
	p.handedOut(handedOut(t, dir))
	stop()
	end()
	qt.Check(t, qt.HasLen(glob(t, dir, app.RecordFile), 1)) // recorded although nobody was calm
}

// What has failed is tried again, and shown until it succeeds or its template is gone.
func TestRunAgain(t *testing.T) {
	var log bytes.Buffer
	p, k := newPools(slog.New(slog.NewTextHandler(&log, nil))), newKeeper()
	p.pause = time.Millisecond
	one := &catalog.Template{Name: "one"}
	full := errors.New("the disk is full")
	k.errs["one"] = full
	stop := run(t, p, func() []*catalog.Template { return []*catalog.Template{one} }, k)
	for range 4 {
		<-k.asked
	}
	stop()
	qt.Check(t, qt.Equals(p.Failed(one), full))
	qt.Check(t, qt.IsTrue(strings.Contains(log.String(), `msg="fill pool" template=one error="the disk is full"`)), qt.Commentf("%s", log.String()))

	delete(k.errs, "one")
	k.errs["strays"] = full
	qt.Check(t, qt.IsFalse(p.keepOnce(t.Context(), []*catalog.Template{one}, k)))
	qt.Check(t, qt.IsNil(p.Failed(one)))
	delete(k.errs, "strays")
	qt.Check(t, qt.IsTrue(p.keepOnce(t.Context(), []*catalog.Template{one}, k)))

	k.errs["one"] = full
	qt.Check(t, qt.IsFalse(p.keepOnce(t.Context(), []*catalog.Template{one}, k)))
	qt.Check(t, qt.IsTrue(p.keepOnce(t.Context(), nil, k)))
	qt.Check(t, qt.IsNil(p.Failed(one)))
	qt.Check(t, qt.HasLen(p.failed, 0))
}
