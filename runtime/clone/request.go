package clone

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/snapctl/snapctl/runtime/app"
	"github.com/snapctl/snapctl/runtime/engine"
	"github.com/snapctl/snapctl/runtime/journal"
	"github.com/snapctl/snapctl/snapshot"
)

// Clones that are made together are all made or none, also if the daemon dies
// between the first and the last one. Each is an app of its own as soon as it runs,
// with a record that names the request; a file of the request's name tells that it
// is not over, and its removal commits them all. A daemon that finds the file ends
// every app that names it.

var requestTable = journal.Table{
	Name: "clone-request",
	Steps: []journal.Step{
		{Name: "begun", Means: "a file tells that the request is not over", Keep: journal.UntilReboot},
		{Name: "recorded", Means: "a clone is recorded as running, others of the request may not be"},
		{Name: "complete", Means: "all of the request are"},
		{Name: "over", Means: "the file is gone", Keep: journal.UntilReboot, Ends: journal.Same, Commits: true},
	},
}

// request is one for several clones, or for one.
type request struct {
	name string // empty if its clones need not all be made
	file string

	mu   sync.Mutex
	made []*engine.App
}

var _ journal.Subject = (*request)(nil)

func (c *Clones) newRequest(req *Request) *request {
	r := &request{}
	if len(req.Names) > 1 && !req.KeepGoing {
		r.name = rand.Text()
		r.file = filepath.Join(c.requestsDir, r.name)
	}
	return r
}

func (c *Clones) requestKind() *journal.Kind[*request] {
	return &journal.Kind[*request]{Table: requestTable, Log: c.log, Undo: func(ctx context.Context, r *journal.Run[*request]) error {
		if err := c.undo(ctx, r.Subject.made); err != nil {
			return err // the next daemon undoes the rest
		}
		return r.Close()
	}}
}

// Mark implements [journal.Subject].
func (r *request) Mark(m journal.Mark) error {
	switch {
	case r.file == "" || m.Keep == journal.Nothing && m.Ends == "":
		return nil
	case m.Ends == "":
		// Nothing of it has to outlive the host: its processes do not.
		if err := os.WriteFile(r.file, nil, 0o600); err != nil {
			return fmt.Errorf("begin to make clones: %w", err)
		}
		return nil
	default:
		return forget(r.file)
	}
}

// forget says that all clones of a request are made, or none is left.
func forget(file string) error {
	if err := os.Remove(file); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("commit clones: %w", err)
	}
	return nil
}

// Name implements [journal.Subject].
func (r *request) Name() string { return r.name }

// Note implements [journal.Subject].
func (r *request) Note(error) {}

// add makes a clone known that would be undone with the others.
func (r *request) add(a *engine.App) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.made = append(r.made, a)
}

// undo removes clones that were made with one that failed.
func (c *Clones) undo(ctx context.Context, list []*engine.App) error {
	var g errgroup.Group
	g.SetLimit(max(4, 2*runtime.NumCPU()))
	for _, a := range list {
		g.Go(func() error {
			release, err := a.Take(ctx, "undo")
			if err != nil {
				return err
			}
			defer release()
			return c.Engine.Expunge(ctx, a)
		})
	}
	return g.Wait()
}

// Unfinished tells whether an app was made by a request that was never over.
func (c *Clones) Unfinished(rec app.Record) bool {
	if rec.Batch == "" || snapshot.ValidateName(rec.Batch) != nil {
		return false
	}
	_, err := os.Lstat(filepath.Join(c.requestsDir, rec.Batch))
	return err == nil
}

// Recover forgets the requests of earlier daemons of which nothing is left. It is called when
// the engine has removed the apps that are [Clones.Unfinished], before there are new requests.
func (c *Clones) Recover() error {
	entries, err := os.ReadDir(c.requestsDir)
	if err != nil {
		return fmt.Errorf("list requests for clones: %w", err)
	}
	left := make(map[string]bool)
	for _, a := range c.Apps.List() {
		rec, _ := a.Read()
		left[rec.Batch] = true
	}
	var errs []error
	for _, e := range entries {
		if !left[e.Name()] {
			errs = append(errs, forget(filepath.Join(c.requestsDir, e.Name())))
		}
	}
	return errors.Join(errs...)
}
