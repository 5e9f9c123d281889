package engine

import (
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/snapctl/snapctl/runtime/app"
	"github.com/snapctl/snapctl/snapshot"
)

// Clones that are made together are all made or none, also if the daemon dies
// between the first and the last one. Each is an app of its own as soon as it runs,
// with a record that names the request; a file of the request's name tells that it
// is not over, and its removal commits them all. A daemon that finds the file ends
// every app that names it.

func (eng *Engine) batchesDir() string { return filepath.Join(eng.stateDir, "batches") }

// beginBatch begins a request for several clones and returns its name.
func (eng *Engine) beginBatch() (string, error) {
	name := rand.Text()
	// Nothing of it has to outlive the host: its processes do not.
	if err := os.WriteFile(filepath.Join(eng.batchesDir(), name), nil, 0o600); err != nil {
		return "", fmt.Errorf("begin to make clones: %w", err)
	}
	return name, nil
}

// endBatch says that all clones are made, or none is left. Without a name it does
// nothing.
func (eng *Engine) endBatch(name string) error {
	if name == "" {
		return nil
	}
	if err := os.Remove(filepath.Join(eng.batchesDir(), name)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("commit clones: %w", err)
	}
	return nil
}

// unfinished tells whether an app was made by a request that was never over.
func (eng *Engine) unfinished(rec app.Record) bool {
	if rec.Batch == "" || snapshot.ValidateName(rec.Batch) != nil {
		return false
	}
	_, err := os.Lstat(filepath.Join(eng.batchesDir(), rec.Batch))
	return err == nil
}

// dropBatches forgets requests of which nothing is left.
func (eng *Engine) dropBatches() error {
	entries, err := os.ReadDir(eng.batchesDir())
	if err != nil {
		return fmt.Errorf("list requests for clones: %w", err)
	}
	left := make(map[string]bool)
	for _, a := range eng.Apps.List() {
		rec, _ := a.Read()
		left[rec.Batch] = true
	}
	var errs []error
	for _, e := range entries {
		if !left[e.Name()] {
			errs = append(errs, eng.endBatch(e.Name()))
		}
	}
	return errors.Join(errs...)
}
