// Package storage has the files and the memory that the apps of a host share.
//
// An app that is made of a snapshot does not copy the snapshot's files. It has them as layers below
// its own writes, and shares them with every other app that has the same layers:
//
//	the app's own writes        STATE/apps/NAME/storage/upper
//	layers, the topmost first   STATE/layers/ID, or one tree of stubs for all of them
//	the app's lower root        a directory of the host
//
// In which way layers come above a lower root depends on where both are. It is tried once for each
// lower root, see [sandbox.Stack]: directly, by a tree of stubs, or not at all. Then the app gets
// copies of the files.
//
// Memory files (STATE/memory) and kept files of the host (STATE/files) are shared in the same way.
// None of this is counted. Records and manifests name what they need. What none of them names is
// swept: see [Storage.Sweep].
package storage

import (
	"context"
	"errors"
	"log/slog"
	"path/filepath"
	"slices"
	"sync"

	"github.com/snapctl/snapctl/runtime/sandbox"
	"github.com/snapctl/snapctl/snapshot/hostfile"
	"github.com/snapctl/snapctl/snapshot/layer"
	"github.com/snapctl/snapctl/snapshot/memory"
	"github.com/snapctl/snapctl/snapshot/relink"
)

// Options says where the storage is.
type Options struct {
	StateDir string // which outlives a reboot of the host
	RunDir   string // which does not
	Log      *slog.Logger
}

// Storage is what the apps of a host share. Its methods may be called at the same time. One process
// has it.
type Storage struct {
	Memory    *memory.Store
	Layers    *layer.Store
	HostFiles *hostfile.Store

	stubs  stubs
	tmpfs  string // that the stubs are on
	try    func(lower string) (sandbox.Stacking, error)
	log    *slog.Logger
	sweeps chan struct{} // has a token while somebody wants a sweep

	mu    sync.Mutex
	tried map[string]func() (sandbox.Stacking, error) // by lower root; waits for the trial that goes on
}

// stubs are [layer.Stubs].
type stubs interface {
	Stack(layers []layer.Ref, within string) string
	Make(ctx context.Context, layers []layer.Ref, root, within string) (string, error)
	Takes(tree string) (bool, error)
	Sweep(needed func() (map[string]bool, error)) error
	Used() (bool, error)
}

// Stack is the layers of an app, the topmost first, above a lower root.
type Stack struct {
	Layers []layer.Ref
	Root   string
}

// ErrUnstackable is a stack whose layers can't be between an app's own files and its lower root. The
// app needs copies of their files.
var ErrUnstackable = errors.New("layers can't be stacked")

// unstackable is an ErrUnstackable that says in its own words why.
type unstackable struct{ error }

func (u unstackable) Unwrap() error        { return u.error }
func (u unstackable) Is(target error) bool { return target == ErrUnstackable }

// Open opens the storage, and mounts a tmpfs for trees of stubs, which outlives the process as the
// mounts of apps do. Needs CAP_SYS_ADMIN. Nothing is swept yet, but for what an interrupted trial
// has left.
func Open(opt Options) (*Storage, error) {
	if err := sandbox.SweepProbes(opt.StateDir); err != nil {
		return nil, err
	}
	tmpfs := filepath.Join(opt.RunDir, "stubs")
	if err := sandbox.MountStubs(tmpfs); err != nil {
		return nil, err
	}
	s, err := open(opt)
	if err != nil {
		return nil, err
	}
	s.tmpfs = tmpfs
	if s.stubs, err = layer.OpenStubs(tmpfs, s.Layers); err != nil {
		return nil, err
	}
	return s, nil
}

// open opens all but the stubs.
func open(opt Options) (*Storage, error) {
	s := &Storage{
		log: opt.Log, sweeps: make(chan struct{}, 1), tried: make(map[string]func() (sandbox.Stacking, error)),
		try: func(lower string) (sandbox.Stacking, error) { return sandbox.Stack(lower, opt.StateDir) },
	}
	var err error
	if s.Memory, err = memory.Open(filepath.Join(opt.StateDir, "memory")); err != nil {
		return nil, err
	}
	if s.Layers, err = layer.Open(filepath.Join(opt.StateDir, "layers")); err != nil {
		return nil, err
	}
	if s.HostFiles, err = hostfile.Open(filepath.Join(opt.StateDir, "files")); err != nil {
		return nil, err
	}
	return s, nil
}

// Close unmounts the tmpfs of the stubs if no app needs it.
func (s *Storage) Close() error {
	if used, err := s.stubs.Used(); err != nil || used {
		return err
	}
	return sandbox.UnmountStubs(s.tmpfs)
}

// stacking tells how layers come above a lower root. It is tried once, and again after an error.
func (s *Storage) stacking(lower string) (sandbox.Stacking, error) {
	s.mu.Lock()
	try, ok := s.tried[lower]
	if !ok {
		try = sync.OnceValues(func() (sandbox.Stacking, error) { return s.tryOnce(lower) })
		s.tried[lower] = try
	}
	s.mu.Unlock()
	return try()
}

func (s *Storage) tryOnce(lower string) (sandbox.Stacking, error) {
	how, err := s.try(lower)
	if err != nil {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.tried, lower)
		return how, err
	}
	if how.How == sandbox.Copied {
		s.log.Warn("clones can't share files", slog.String("root", lower), slog.Any("error", how.Why))
	}
	return how, nil
}

// within is where the layers are in an app's lower root.
func within(s sandbox.Stacking) string { return filepath.Join(s.Within, "layers") }

// Paths are where layers are.
func (s *Storage) Paths(layers []layer.Ref) []string {
	paths := make([]string, len(layers))
	for i, l := range layers {
		paths[i] = s.Layers.Path(l.ID)
	}
	return paths
}

// Dirs are the directories to mount between an app's own files and its lower root, the topmost
// first. They stay as long as a record names the layers. Returns an error wrapping ErrUnstackable if
// there can be none.
func (s *Storage) Dirs(ctx context.Context, stack Stack) ([]string, error) {
	if len(stack.Layers) == 0 {
		return nil, nil
	}
	how, err := s.stacking(stack.Root)
	if err != nil {
		return nil, err
	}
	switch how.How {
	case sandbox.Directly:
		return s.Paths(stack.Layers), nil
	case sandbox.ByStubs:
		tree, err := s.stubs.Make(ctx, stack.Layers, stack.Root, within(how))
		switch {
		case errors.Is(err, layer.ErrNoStubs):
			return nil, unstackable{err}
		case err != nil:
			return nil, err
		}
		return []string{tree}, nil
	case sandbox.Copied:
	}
	return nil, unstackable{how.Why}
}

// Copies are the layers of a new app of which it needs copies, because they can't be below its own
// files: all of them, or none.
func (s *Storage) Copies(ctx context.Context, stack Stack) (paths []string, err error) {
	_, err = s.Dirs(ctx, stack)
	if !errors.Is(err, ErrUnstackable) {
		return nil, err
	}
	if errors.Is(err, layer.ErrNoStubs) { // else it was said when it was tried
		s.log.WarnContext(ctx, "a clone can't share files", slog.Any("error", err))
	}
	return s.Paths(stack.Layers), nil
}

// Relink keeps files of several names in an app's layers one file each: it copies them to the app's
// own files, which are mounted at root. See [relink.Files].
func (s *Storage) Relink(ctx context.Context, layers []layer.Ref, root string) error {
	names, err := s.Layers.Linked(layers)
	if err != nil {
		return err
	}
	return relink.Files(ctx, root, names)
}

// Addition is what an app wrote, which can be made the topmost layer of its stack.
type Addition struct {
	Layer *layer.Draft // nil: the app has written nothing since its topmost layer was made
	All   []layer.Ref  // of the stack afterwards
}

// Add describes the directory upper, with what an app wrote, as a layer on top of a stack. Nothing is
// changed before [layer.Draft.Place]. fits tells whether an overlay of so many directories can
// be mounted. ok is false if the files have to be copied.
func (s *Storage) Add(ctx context.Context, stack Stack, upper string, fits func(dirs []string) bool) (_ Addition, ok bool, err error) {
	how, err := s.stacking(stack.Root)
	if err != nil || how.How == sandbox.Copied {
		return Addition{}, false, err
	}
	fresh, err := s.Layers.Describe(ctx, upper)
	if err != nil {
		return Addition{}, false, err
	}
	if fresh == nil {
		return Addition{All: stack.Layers}, true, nil
	}
	all := slices.Concat([]layer.Ref{fresh.Ref}, stack.Layers)
	if how.How == sandbox.Directly && !fits(s.Paths(all)) {
		return Addition{}, false, nil
	}
	if how.How == sandbox.ByStubs {
		if takes, err := s.stubs.Takes(upper); err != nil || !takes {
			return Addition{}, false, err
		}
	}
	return Addition{Layer: fresh, All: all}, true, nil
}
