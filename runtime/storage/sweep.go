package storage

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"

	"github.com/snapctl/snapctl/runtime/sandbox"
	"github.com/snapctl/snapctl/snapshot"
	"github.com/snapctl/snapctl/snapshot/hostfile"
	"github.com/snapctl/snapctl/snapshot/layer"
	"github.com/snapctl/snapctl/snapshot/memory"
)

// Needs is what snapshots, held apps and running processes need of a storage.
type Needs struct{ memory, layers, files map[memory.ID]bool }

// NoNeeds is a Needs to which one adds.
func NoNeeds() Needs {
	return Needs{memory: make(map[memory.ID]bool), layers: make(map[memory.ID]bool), files: make(map[memory.ID]bool)}
}

// Add adds memory files, layers and kept files of the host.
func (n Needs) Add(files []memory.File, layers []layer.Ref, host []hostfile.File) {
	for _, f := range files {
		n.memory[f.ID] = true
	}
	for _, l := range layers {
		n.layers[l.ID] = true
	}
	for i := range host {
		n.files[host[i].ID] = true
	}
}

// AddSaved adds what the app needs that is saved in a directory. If the directory is not there,
// nothing is needed. If its manifest can't be read, anything may be: then an error is returned.
func (n Needs) AddSaved(dir snapshot.Dir) error {
	m, err := dir.Manifest()
	if errors.Is(err, fs.ErrNotExist) {
		if _, err := os.Lstat(string(dir)); errors.Is(err, fs.ErrNotExist) {
			return nil // or it was removed meanwhile
		}
	}
	if err != nil {
		return fmt.Errorf("%s: %w", dir, err)
	}
	n.Add(m.MemoryFiles(), m.Layers, m.HostFiles)
	return nil
}

// Users tells what is in use. It is asked anew by each sweep.
type Users struct {
	// Needed asks all manifests and records. After an error no memory file, layer or kept file
	// of the host is removed.
	Needed func() (Needs, error)
	// Mounted lists the stacks that apps have, or are going to have, mounted.
	Mounted func() []Stack
}

// SweepSoon has [Storage.Sweep] remove what nobody needs any more. It returns at once.
func (s *Storage) SweepSoon() {
	select {
	case s.sweeps <- struct{}{}:
	default: // it is asked for already
	}
}

// Sweep removes the memory files, layers, kept files of the host and trees of stubs that nobody
// needs, once, and then whenever it is asked to, until ctx ends. Errors are logged.
func (s *Storage) Sweep(ctx context.Context, users Users) {
	for {
		freed, err := s.sweepOnce(users)
		if err != nil {
			s.log.ErrorContext(ctx, "remove what no app needs", slog.Any("error", err))
		}
		if freed > 0 {
			s.log.DebugContext(ctx, "removed what no app needs", slog.Int64("freed_bytes", freed))
		}
		select {
		case <-s.sweeps:
		case <-ctx.Done():
			return
		}
	}
}

// sweepOnce returns how many bytes it has freed. Each kind of thing is swept by what is needed when its
// sweep begins, and so is asked for anew: what was pinned until then may be in a record since.
func (s *Storage) sweepOnce(users Users) (freed int64, err error) {
	kinds := []struct {
		sweep func(func() (map[memory.ID]bool, error)) (int64, error)
		of    func(Needs) map[memory.ID]bool
	}{
		{s.Memory.Sweep, func(n Needs) map[memory.ID]bool { return n.memory }},
		{s.Layers.Sweep, func(n Needs) map[memory.ID]bool { return n.layers }},
		{s.HostFiles.Sweep, func(n Needs) map[memory.ID]bool { return n.files }},
	}
	var errs []error
	for _, k := range kinds {
		some, err := k.sweep(func() (map[memory.ID]bool, error) {
			n, err := users.Needed()
			return k.of(n), err
		})
		freed += some
		errs = append(errs, err)
	}
	errs = append(errs, s.stubs.Sweep(func() (map[string]bool, error) { return s.trees(users.Mounted()) }))
	return freed, errors.Join(errs...)
}

// trees names the trees of stubs of stacks.
func (s *Storage) trees(stacks []Stack) (map[string]bool, error) {
	trees := make(map[string]bool)
	for _, stack := range stacks {
		how, err := s.stacking(stack.Root)
		if err != nil {
			return nil, err
		}
		if how.How == sandbox.ByStubs {
			trees[s.stubs.Stack(stack.Layers, within(how))] = true
		}
	}
	return trees, nil
}
