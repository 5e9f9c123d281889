package tree

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"

	"golang.org/x/sync/errgroup"

	"github.com/snapctl/snapctl/snapshot/memory"
)

// stampFrom is the size from which a stamp stands in for a digest.
//
// It finds all that is done to the file through the file system, short of setting
// the clock back, and not what is done to the disk below: see memory.Stamp.
const stampFrom = 1 << 20

// Check checks that all below dir is as it was described. Files directly in dir that are called
// as one of except need not be in the description. Returns an error wrapping ErrDamaged that
// names a file if one differs, is missing or is not part of the description.
func Check(ctx context.Context, dir string, files []File, depth memory.Depth, except ...string) error {
	want := make(map[string]File, len(files))
	for _, f := range files {
		want[f.Path] = f
	}
	found, err := List(dir)
	if err != nil {
		return err
	}
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(4)
	for _, name := range found {
		f, ok := want[name]
		if !ok && slices.Contains(except, name) {
			continue
		}
		if !ok {
			return errors.Join(fmt.Errorf("%w: %s: not part of it", ErrDamaged, name), g.Wait())
		}
		delete(want, name)
		g.Go(func() error { return compare(gctx, dir, f, depth) })
	}
	if err := g.Wait(); err != nil {
		return err
	}
	for name := range want {
		return fmt.Errorf("%w: %s: missing", ErrDamaged, name)
	}
	return nil
}

// compare checks that one file is as it was described.
func compare(ctx context.Context, dir string, want File, depth memory.Depth) error {
	got, err := describe(dir, want.Path)
	if err != nil {
		return fmt.Errorf("%w: %s: %w", ErrDamaged, want.Path, err)
	}
	if want.Type == "dir" && want.Stamp == "" { // described before marks were
		got.Marks = want.Marks
	}
	if got.Type != want.Type || got.SizeBytes != want.SizeBytes || got.Mode != want.Mode || got.Marks != want.Marks {
		return fmt.Errorf("%w: %s: type, mode, size or overlay mark differs from the manifest", ErrDamaged, want.Path)
	}
	if want.MetadataOnly {
		return nil
	}
	if depth == memory.BySize || depth == memory.ByStamp && want.SizeBytes >= stampFrom && got.Stamp == want.Stamp {
		return nil
	}
	if got.SHA256, err = digest(ctx, filepath.Join(dir, want.Path), want.Type); err != nil {
		return fmt.Errorf("%w: %s: %w", ErrDamaged, want.Path, err)
	}
	if got.SHA256 != want.SHA256 {
		return fmt.Errorf("%w: %s: its content changed", ErrDamaged, want.Path)
	}
	return nil
}
