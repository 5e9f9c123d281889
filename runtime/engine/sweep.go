package engine

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/snapctl/snapctl/runtime/app"
	"github.com/snapctl/snapctl/runtime/storage"
	"github.com/snapctl/snapctl/snapshot"
	"github.com/snapctl/snapctl/snapshot/layer"
)

// needed asks all manifests and records. What can't be read may need anything:
// then the answer is an error.
func (eng *Engine) needed() (storage.Needs, error) {
	n := storage.NoNeeds()
	names, err := eng.Store.Names()
	if err != nil {
		return n, err
	}
	for _, name := range names {
		if err := n.AddSaved(eng.Store.Dir(name)); err != nil {
			return n, err
		}
	}
	known := make(map[string]bool)
	for _, a := range eng.Apps.List() {
		rec, _ := a.Read()
		known[rec.DirName()] = true
		n.Add(rec.Memory, rec.Layers, rec.HostFiles)
		if rec.Restacking != nil {
			n.Add(nil, []layer.Ref{*rec.Restacking}, nil)
		}
		// The record of a held app names what its images need; one that is about
		// to be held may have images already.
		if rec.Now() == app.Running || rec.Now() == app.Stopped || rec.Now() == app.Held && len(rec.Memory)+len(rec.HostFiles) > 0 {
			continue
		}
		if err := n.AddSaved(a.Hibernation()); err != nil {
			return n, err
		}
	}
	entries, err := os.ReadDir(eng.appsDir())
	if err != nil {
		return n, fmt.Errorf("list apps: %w", err)
	}
	for _, e := range entries {
		if known[e.Name()] {
			continue
		}
		if _, err := app.Read(eng.appDir(e.Name())); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return n, fmt.Errorf("app %s: %w", e.Name(), err)
		}
		if err := n.AddSaved(snapshot.Dir(filepath.Join(eng.appDir(e.Name()), "hibernation"))); err != nil {
			return n, err
		}
	}
	return n, nil
}

// mounted lists the stacks that apps have or are going to have mounted.
func (eng *Engine) mounted() []storage.Stack {
	var stacks []storage.Stack
	for _, a := range eng.Apps.List() {
		rec, _ := a.Read()
		if len(rec.Layers) == 0 || rec.Now() == app.Stopped {
			continue
		}
		stack := stackOf(&rec)
		stacks = append(stacks, stack)
		if rec.Restacking != nil {
			stack.Layers = slices.Insert(slices.Clone(stack.Layers), 0, *rec.Restacking)
			stacks = append(stacks, stack)
		}
	}
	return stacks
}
