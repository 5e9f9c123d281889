package tree

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sort"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/snapshot/memory"
)

// Describe lists all below dir, in a fixed order, with digests and stamps. Left out are the files
// directly in dir that are called as one of except.
func Describe(ctx context.Context, dir string, except ...string) ([]File, error) {
	names, err := List(dir, except...)
	if err != nil {
		return nil, err
	}
	files := make([]File, len(names))
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(4)
	for i, name := range names {
		g.Go(func() error {
			f, err := describe(dir, name)
			if err != nil {
				return err
			}
			if f.MetadataOnly { // what it reads as is not its content
				files[i] = f
				return nil
			}
			if f.SHA256, err = digest(ctx, filepath.Join(dir, name), f.Type); err != nil {
				return fmt.Errorf("hash %s: %w", name, err)
			}
			files[i] = f
			return nil
		})
	}
	return files, g.Wait()
}

// List lists the paths of all below dir, relative to it and in a fixed order. Left out are the
// files directly in dir that are called as one of except.
func List(dir string, except ...string) ([]string, error) {
	var names []string
	err := filepath.WalkDir(dir, func(p string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(dir, p)
		if err != nil {
			return err
		}
		if rel != "." && !slices.Contains(except, rel) {
			names = append(names, filepath.ToSlash(rel))
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list snapshot: %w", err)
	}
	sort.Strings(names)
	return names, nil
}

// describe reads a file's attributes, not its content.
func describe(dir, name string) (File, error) {
	var st unix.Stat_t
	if err := unix.Lstat(filepath.Join(dir, name), &st); err != nil {
		return File{}, err
	}
	f := File{Path: name, Mode: st.Mode, Type: "other", Stamp: memory.Stamp(&st)}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		f.Type, f.SizeBytes = "file", st.Size
	case unix.S_IFDIR:
		f.Type = "dir"
	case unix.S_IFLNK:
		f.Type = "symlink"
		return f, nil
	default:
		return f, nil
	}
	var err error
	f.Marks, err = ReadMarks(filepath.Join(dir, name))
	return f, err
}

// digest hashes a file's bytes or a link's target.
func digest(ctx context.Context, path, kind string) (string, error) {
	h := sha256.New()
	switch kind {
	case "symlink":
		target, err := os.Readlink(path)
		if err != nil {
			return "", err
		}
		h.Write([]byte(target))
	case "file":
		f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW, 0)
		if err != nil {
			return "", err
		}
		defer f.Close() //nolint:errcheck // only read from
		if _, err := io.Copy(h, &ctxReader{ctx, f}); err != nil {
			return "", err
		}
	default:
		return "", nil
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// ctxReader ends a long read when its request does.
type ctxReader struct {
	ctx context.Context //nolint:containedctx // lives for one io.Copy
	r   io.Reader
}

func (r *ctxReader) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.r.Read(p)
}
