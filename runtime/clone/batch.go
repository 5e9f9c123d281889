package clone

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

// batches is the directory of these files.
type batches string

// begin begins a request for several clones and returns its name.
func (b batches) begin() (string, error) {
	name := rand.Text()
	// Nothing of it has to outlive the host: its processes do not.
	if err := os.WriteFile(filepath.Join(string(b), name), nil, 0o600); err != nil {
		return "", fmt.Errorf("begin to make clones: %w", err)
	}
	return name, nil
}

// end says that all clones are made, or none is left. Without a name it does
// nothing.
func (b batches) end(name string) error {
	if name == "" {
		return nil
	}
	if err := os.Remove(filepath.Join(string(b), name)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("commit clones: %w", err)
	}
	return nil
}

// Unfinished tells whether an app was made by a request that was never over.
func (c *Clones) Unfinished(rec app.Record) bool {
	if rec.Batch == "" || snapshot.ValidateName(rec.Batch) != nil {
		return false
	}
	_, err := os.Lstat(filepath.Join(string(c.batches), rec.Batch))
	return err == nil
}

// Recover forgets the requests of earlier daemons of which nothing is left. It is called when
// the engine has removed the apps that are [Clones.Unfinished], before there are new requests.
func (c *Clones) Recover() error {
	entries, err := os.ReadDir(string(c.batches))
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
			errs = append(errs, c.batches.end(e.Name()))
		}
	}
	return errors.Join(errs...)
}
