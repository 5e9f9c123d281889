package sandbox

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// emptyDirs are the directories of the host's root that an app gets empty.
var emptyDirs = map[string]os.FileMode{
	"/tmp":     0o777 | os.ModeSticky,
	"/var/tmp": 0o777 | os.ModeSticky,
	"/run":     0o755,
}

// opaque marks a directory of an overlay that hides what is below it
// (Documentation/filesystems/overlayfs.rst, "whiteouts and opaque directories").
const opaque = "trusted.overlay.opaque"

// HiddenDir is a directory of the host that an app sees empty.
type HiddenDir struct {
	path string // below the lower root
	mode os.FileMode
}

// HiddenDirs lists what an app with the host's root for its lower one must not see:
// the host's scratch space, and private, the daemon's own directories. None is below
// another one: what is hidden needs no further hiding, and a directory that is made in
// it would make it look as if it were done.
func HiddenDirs(private ...string) ([]HiddenDir, error) { return hiddenDirs("/", private) }

func hiddenDirs(root string, private []string) ([]HiddenDir, error) {
	var all []HiddenDir
	for dir, mode := range emptyDirs {
		all = append(all, HiddenDir{dir, mode})
		// With /tmp a link to another directory, that one is the host's scratch space.
		if real, err := filepath.EvalSymlinks(filepath.Join(root, dir)); err == nil {
			if rel, ok := within(root, real); ok && rel != dir {
				all = append(all, HiddenDir{rel, mode})
			}
		}
	}
	for _, dir := range private {
		paths, err := underNames(root, dir)
		if err != nil {
			return nil, err
		}
		for _, path := range paths {
			all = append(all, HiddenDir{path, 0o700})
		}
	}
	// Parents come before what is below them, and of two modes the wider one.
	slices.SortFunc(all, func(a, b HiddenDir) int {
		if c := strings.Compare(a.path+"/", b.path+"/"); c != 0 {
			return c
		}
		return int(b.mode.Perm()) - int(a.mode.Perm())
	})
	var list []HiddenDir
	for _, dir := range all {
		if dir.path == "/" {
			return nil, errors.New("hide the daemon's directories: one of them is the root directory")
		}
		if len(list) > 0 {
			if _, ok := within(list[len(list)-1].path, dir.path); ok {
				continue
			}
		}
		list = append(list, dir)
	}
	return list, nil
}

// underNames lists the paths at which an overlay over root has a directory. The overlay
// knows the directories of root's file system, whatever is mounted on them: one that is
// reached by a bind mount has another path in it.
func underNames(root, dir string) ([]string, error) {
	real, err := filepath.EvalSymlinks(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("hide %s: %w", dir, err)
	}
	var paths []string
	if rel, ok := within(root, real); ok {
		paths = append(paths, rel)
	}
	from, err := locate(root)
	if err != nil {
		return nil, err
	}
	to, err := locate(real)
	if err != nil {
		return nil, err
	}
	if rel, ok := within(from.path, to.path); ok && from.device == to.device {
		paths = append(paths, rel)
	}
	return paths, nil
}

// within returns path as seen from dir, if it is dir or below it.
func within(dir, path string) (string, bool) {
	rel, err := filepath.Rel(dir, path)
	if err != nil || rel == ".." || strings.HasPrefix(rel, "../") {
		return "", false
	}
	return filepath.Join("/", rel), true
}

// hideHostDirs puts empty, opaque directories over those of the host that an app must
// not see.
func (s *Sandbox) hideHostDirs(layers []string) error {
	for _, dir := range s.Hide {
		if s.written(dir.path, layers) {
			continue // made before: what the app wrote stays
		}
		upper := filepath.Join(s.Upper(), dir.path)
		if err := s.makeLike(dir.path, layers); err != nil {
			return fmt.Errorf("hide %s: %w", dir.path, err)
		}
		if err := os.Chmod(upper, dir.mode); err != nil {
			return fmt.Errorf("hide %s: %w", dir.path, err)
		}
		if err := unix.Setxattr(upper, opaque, []byte("y"), 0); err != nil {
			return fmt.Errorf("hide %s: %w", dir.path, err)
		}
	}
	return nil
}

// makeLike makes a directory among the app's own files. Those that lead to it get the
// owner and mode of the directories that they take the place of.
func (s *Sandbox) makeLike(path string, layers []string) error {
	if parent := filepath.Dir(path); parent != "/" {
		if err := s.makeLike(parent, layers); err != nil {
			return err
		}
	}
	upper := filepath.Join(s.Upper(), path)
	if err := os.Mkdir(upper, 0o755); err != nil {
		if errors.Is(err, os.ErrExist) {
			return nil
		}
		return err
	}
	for _, lower := range append(slices.Clone(layers), s.Spec.Root.Path) {
		var st unix.Stat_t
		if err := unix.Lstat(filepath.Join(lower, path), &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFDIR {
			continue
		}
		return errors.Join(os.Lchown(upper, int(st.Uid), int(st.Gid)), unix.Chmod(upper, st.Mode&0o7777))
	}
	return nil
}

// written tells whether the app has a path of its own, or has removed it. A directory
// that only leads to something else, and lets the host's through, does not count.
func (s *Sandbox) written(path string, layers []string) bool {
	for _, layer := range append([]string{s.Upper()}, layers...) {
		at := filepath.Join(layer, path)
		st, err := os.Lstat(at)
		if err != nil {
			continue
		}
		if !st.IsDir() {
			return true
		}
		if n, err := unix.Lgetxattr(at, opaque, make([]byte, 1)); err == nil && n == 1 {
			return true
		}
	}
	return false
}
