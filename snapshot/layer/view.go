package layer

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/snapshot/tree"
)

// view is what an overlay shows of layers, the topmost first, above a lower root:
// which files, whose attributes and whose bytes. It follows the marks as the kernel
// does (fs/overlayfs/namei.c, ovl_lookup).
type view struct {
	trees  []string // and last the lower root
	layers int      // how many of the trees are layers
	root   *os.File
}

// openView opens a view. The caller closes it. It needs CAP_SYS_ADMIN: to see the
// lower root as an overlay does, without what is mounted in it, is to have a mount of
// it (open_tree(2), Linux 5.2).
func openView(layers []string, root string) (view, error) {
	fd, err := unix.OpenTree(unix.AT_FDCWD, root, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return view{}, fmt.Errorf("open lower root %s: %w", root, err)
	}
	v := view{layers: len(layers), root: os.NewFile(uintptr(fd), root)}
	v.trees = append(slices.Clone(layers), fmt.Sprintf("/proc/self/fd/%d", fd))
	return v, nil
}

func (v view) close() { _ = v.root.Close() } // a handle

// rootHas tells whether the lower root has a directory at a path.
func (v view) rootHas(path string) (bool, error) {
	var st unix.Stat_t
	err := unix.Lstat(v.file(place{v.layers, path}), &st)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("look at lower root: %s: %w", path, err)
	}
	return st.Mode&unix.S_IFMT == unix.S_IFDIR, nil
}

// place is a path in one of the layers.
type place struct {
	layer int
	path  string // from the layer's root
}

// kind is what a view has at a path.
type kind int

const (
	nothing kind = iota // in the layers; no lower directory leads there
	below               // in the layers: it is as in the lower root
	hidden              // a whiteout
	leaf                // anything but a directory
	directory
)

// seen is what a view has at a path, or that is to be.
type seen struct {
	kind kind
	at   place // whose attributes it has
	st   unix.Stat_t
	// data is where a regular file's bytes are, if fromRoot is empty.
	data place
	// fromRoot is the path in the lower root of a file's bytes, or of the directory
	// that is merged with those of the layers.
	fromRoot string
	// dirs are the directories that this one is merged of.
	dirs []place
}

func (v view) file(p place) string { return filepath.Join(v.trees[p.layer], p.path) }

// root is the root directory of the layers from one on.
func (v view) rootDir(from int) seen {
	s := seen{kind: directory, fromRoot: "/"}
	for i := from; i < v.layers; i++ {
		s.dirs = append(s.dirs, place{i, "/"})
	}
	return s
}

// child finds a name in a directory.
func (v view) child(dir seen, name string) (seen, error) {
	for i, d := range dir.dirs {
		at := place{d.layer, path.Join(d.path, name)}
		s := seen{at: at}
		err := unix.Lstat(v.file(at), &s.st)
		if errors.Is(err, unix.ENOENT) {
			continue
		}
		if err != nil {
			return seen{}, fmt.Errorf("look at %s: %w", v.file(at), err)
		}
		if isWhiteout(&s.st) {
			return seen{kind: hidden}, nil
		}
		format := s.st.Mode & unix.S_IFMT
		if s.kind = leaf; format != unix.S_IFDIR && format != unix.S_IFREG {
			return s, nil
		}
		marks, err := tree.ReadMarks(v.file(at))
		if err != nil {
			return seen{}, err
		}
		rest := seen{kind: directory, dirs: dir.dirs[i+1:], fromRoot: dir.fromRoot}
		if format == unix.S_IFREG {
			if s.data = at; marks.MetadataOnly {
				err = v.findData(&s, rest, marks, name)
			}
			return s, err
		}
		s.kind, s.dirs = directory, []place{at}
		if marks.Opaque {
			return s, nil
		}
		lower, err := v.lower(rest, d.layer, marks, name)
		if err != nil {
			return seen{}, err
		}
		if lower.kind == directory || lower.kind == below {
			s.dirs, s.fromRoot = append(s.dirs, lower.dirs...), lower.fromRoot
		}
		return s, nil
	}
	if dir.fromRoot == "" {
		return seen{}, nil
	}
	return seen{kind: below, fromRoot: path.Join(dir.fromRoot, name)}, nil
}

// lower finds what is below a file or directory of a layer: rest is the rest of the
// directory that it is in.
func (v view) lower(rest seen, layer int, marks tree.Marks, name string) (seen, error) {
	switch {
	case marks.Redirect == "":
		return v.child(rest, name)
	case !path.IsAbs(marks.Redirect):
		return v.child(rest, marks.Redirect)
	}
	s := v.rootDir(layer + 1)
	for part := range strings.SplitSeq(strings.Trim(marks.Redirect, "/"), "/") {
		switch {
		case s.kind == below:
			s.fromRoot = path.Join(s.fromRoot, part)
			continue
		case s.kind != directory:
			return seen{}, nil
		}
		var err error
		if s, err = v.child(s, part); err != nil {
			return seen{}, err
		}
	}
	return s, nil
}

// findData finds the bytes of a file that has none itself.
func (v view) findData(s *seen, rest seen, marks tree.Marks, name string) error {
	lower, err := v.lower(rest, s.at.layer, marks, name)
	if err != nil {
		return err
	}
	switch {
	case lower.kind == below:
		s.fromRoot = lower.fromRoot
	case lower.kind == leaf && lower.st.Mode&unix.S_IFMT == unix.S_IFREG:
		s.data, s.fromRoot = lower.data, lower.fromRoot
	default:
		return fmt.Errorf("%w: %s: no layer below has its data", tree.ErrDamaged, v.file(s.at))
	}
	return nil
}

// names lists what the layers have in a directory, whiteouts included.
func (v view) names(dir seen) ([]string, error) {
	names := make(map[string]bool)
	for _, d := range dir.dirs {
		entries, err := os.ReadDir(v.file(d))
		if err != nil {
			return nil, fmt.Errorf("list layer: %w", err)
		}
		for _, e := range entries {
			names[e.Name()] = true
		}
	}
	return slices.Sorted(maps.Keys(names)), nil
}

// flatten makes a single layer of a view, at to: the same above the lower root as
// all of them. lay puts one file there, with what marks it needs.
//
// natural is the path in the lower root that the file would be merged with if it had
// no mark; empty if there is none. A directory that the lower root does not have is
// merged with none: an overlay looks for whiteouts in merged directories alone
// (fs/overlayfs/readdir.c, ovl_iterate), and shows them in others.
func (v view) flatten(ctx context.Context, to string, lay func(s *seen, natural, to string) error) error {
	var dir func(s seen, to string) error
	dir = func(s seen, to string) error {
		names, err := v.names(s)
		if err != nil {
			return err
		}
		for _, name := range names {
			if err := ctx.Err(); err != nil {
				return err
			}
			c, err := v.child(s, name)
			if err != nil {
				return err
			}
			natural, target := "", filepath.Join(to, name)
			if s.fromRoot != "" {
				natural = path.Join(s.fromRoot, name)
			}
			switch c.kind {
			case hidden:
				if natural == "" {
					continue // nothing to hide
				}
				if err := whiteout(target); err != nil {
					return err
				}
			case leaf:
				if err := lay(&c, natural, target); err != nil {
					return err
				}
			case directory:
				if c.fromRoot != "" {
					has, err := v.rootHas(c.fromRoot)
					if err != nil {
						return err
					}
					if !has {
						c.fromRoot = ""
					}
				}
				if err := lay(&c, natural, target); err != nil {
					return err
				}
				if err := dir(c, target); err != nil {
					return err
				}
				if err := tree.SetTimes(target, &c.st); err != nil {
					return err
				}
			case nothing, below: // it was removed just now
				return fmt.Errorf("%w: %s: %w", tree.ErrDamaged, target, fs.ErrNotExist)
			}
		}
		return nil
	}
	top := v.rootDir(0)
	if len(top.dirs) == 0 {
		return nil
	}
	top.at = top.dirs[0]
	if err := unix.Lstat(v.file(top.at), &top.st); err != nil {
		return fmt.Errorf("look at %s: %w", v.file(top.at), err)
	}
	if err := lay(&top, "/", to); err != nil {
		return err
	}
	if err := dir(top, to); err != nil {
		return err
	}
	return tree.SetTimes(to, &top.st)
}

// Flatten copies layers, the topmost first, into one directory that is the same
// alone above the lower root: every file has its bytes then, wherever they were.
func Flatten(ctx context.Context, layers []string, root, to string) error {
	if len(layers) == 0 {
		return nil
	}
	if err := os.MkdirAll(to, 0o755); err != nil {
		return fmt.Errorf("copy layers: %w", err)
	}
	v, err := openView(layers, root)
	if err != nil {
		return err
	}
	defer v.close()
	m := tree.NewMaker()
	return v.flatten(ctx, to, func(s *seen, natural, to string) error {
		data := ""
		var marks tree.Marks
		switch {
		case s.kind == directory && s.fromRoot != natural && s.fromRoot != "":
			// The app has renamed a directory of the lower root: it is copied.
			s.dirs, s.fromRoot = append(s.dirs, place{v.layers, s.fromRoot}), ""
			marks.Opaque = natural != ""
		case s.kind == directory:
			marks.Opaque = s.fromRoot == "" && natural != ""
		case s.fromRoot != "":
			data = v.file(place{v.layers, s.fromRoot})
		default:
			data = v.file(s.data)
		}
		if err := m.Make(v.file(s.at), to, &s.st, data); err != nil {
			return err
		}
		return marks.Set(to)
	})
}
