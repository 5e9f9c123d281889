package image

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/snapshot/image/wire"
)

// A View is a directory that CRIU can restore from: links to the images of a
// dump, of which some can be replaced by edited copies. The dump itself is
// never written to, except through [InPlace].
//
// A View belongs to one goroutine. Whoever made it removes it by
// [View.Remove], when CRIU has ended.
type View struct {
	images string
	dir    string
}

// InPlace is a view that is the dump itself: what is replaced in it is changed in the dump.
func InPlace(images string) *View { return &View{images: images, dir: images} }

// NewView makes dir, which must be missing or empty, a view of the dump in
// images.
//
// The links are hard ones where dir is on the file system of images, else
// symbolic ones with a relative target. An absolute target would not do: CRIU
// opens some images (pagemap-*.img, in the restored task) when it has already
// changed its mount namespace and root, and only ".." still leads from its
// images directory to where the dump is. So CRIU has to see both
// directories at their places.
//
// A view belongs on a tmpfs, where each image costs 5 to 10 us. On ext4 a hard
// link took 20 to 70 us, and a symbolic one 250 us.
//
// Linked are the images and the link to a parent dump. Logs and statistics are
// not: CRIU opens those by the same names for writing, and would write through
// the link.
//
// On an error nothing is left behind but an empty dir that was there before.
func NewView(ctx context.Context, images, dir string) (_ *View, err error) {
	target, err := realPath(images)
	if err != nil {
		return nil, fmt.Errorf("view images: %w", err)
	}
	names, err := Names(target)
	if err != nil {
		return nil, fmt.Errorf("view images: %w", err)
	}
	undo, err := makeEmptyDir(dir)
	if err != nil {
		return nil, fmt.Errorf("make view: %w", err)
	}
	v := &View{images: target, dir: dir}
	defer func() {
		if err != nil {
			err = errors.Join(err, v.unlink(), undo())
		}
	}()
	place, err := realPath(dir)
	if err != nil {
		return nil, fmt.Errorf("make view: %w", err)
	}
	way, err := filepath.Rel(place, target)
	if err != nil {
		return nil, fmt.Errorf("make view: %w", err)
	}
	for _, name := range names {
		if err := ctx.Err(); err != nil {
			return nil, fmt.Errorf("make view: %w", err)
		}
		if err := link(target, way, name, dir); err != nil {
			return nil, fmt.Errorf("link image: %w", err)
		}
	}
	return v, nil
}

// link makes name in dir lead to name in images, to which way is the relative
// path. What is a symbolic link already, to a parent dump or to a memory file, is
// only right where it is.
func link(images, way, name, dir string) error {
	info, err := os.Lstat(filepath.Join(images, name))
	if err != nil {
		return err
	}
	if info.Mode().Type() != os.ModeSymlink {
		err := os.Link(filepath.Join(images, name), filepath.Join(dir, name))
		if !errors.Is(err, unix.EXDEV) {
			return err
		}
	}
	return os.Symlink(filepath.Join(way, name), filepath.Join(dir, name))
}

// realPath returns an absolute path without links, so that ".." in it leads
// where it seems to.
func realPath(path string) (string, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return "", err
	}
	return filepath.EvalSymlinks(abs)
}

// Dir returns the directory of the view, to be CRIU's images directory.
func (v *View) Dir() string { return v.dir }

// Images returns the absolute path of the dump that the view shows.
func (v *View) Images() string { return v.images }

// Remove deletes the view's directory and whatever CRIU wrote there. The dump
// stays. It returns nil if the directory is gone already.
func (v *View) Remove() error {
	if err := os.RemoveAll(v.dir); err != nil {
		return fmt.Errorf("remove view: %w", err)
	}
	return nil
}

// unlink empties the view's directory.
func (v *View) unlink() error {
	entries, err := os.ReadDir(v.dir)
	errs := []error{err}
	for _, entry := range entries {
		errs = append(errs, os.Remove(filepath.Join(v.dir, entry.Name())))
	}
	return errors.Join(errs...)
}

// Read returns the content of an image as the view shows it.
func (v *View) Read(name string) ([]byte, error) {
	return os.ReadFile(filepath.Join(v.dir, name))
}

// Replace puts an edited image into the place of a link or of an earlier edit.
// If it fails the image may be missing, and the view is only fit to be removed.
func (v *View) Replace(name string, data []byte) error {
	path := filepath.Join(v.dir, name)
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove link: %w", err)
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return fmt.Errorf("make image: %w", err)
	}
	_, err = f.Write(data)
	if err := errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("write image: %w", err)
	}
	return nil
}

// redirect puts a symbolic link into the place of an image.
func (v *View) redirect(name, target string) error {
	path := filepath.Join(v.dir, name)
	if err := os.Remove(path); err != nil {
		return fmt.Errorf("remove link: %w", err)
	}
	return os.Symlink(target, path)
}

// makeEmptyDir returns how to undo what it did.
func makeEmptyDir(dir string) (undo func() error, err error) {
	err = os.Mkdir(dir, 0o700)
	if err == nil {
		return func() error { return os.Remove(dir) }, nil
	}
	if !errors.Is(err, os.ErrExist) {
		return nil, err
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	if len(entries) > 0 {
		return nil, fmt.Errorf("use directory %s: %w: it is not empty", dir, os.ErrExist)
	}
	return func() error { return nil }, nil
}

// parentLink is the name of the link to the dump that a dump builds on
// (CR_PARENT_LINK in criu/include/image.h).
const parentLink = "parent"

// Names lists the images of a dump, and its parent link, in no order.
func Names(dir string) ([]string, error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	all, err := f.Readdirnames(-1)
	err = errors.Join(err, f.Close())
	if err != nil {
		return nil, err
	}
	names := all[:0]
	for _, name := range all {
		if name == parentLink || isImageName(name) {
			names = append(names, name)
		}
	}
	if len(names) == 0 {
		return nil, fmt.Errorf("read directory %s: %w: no images", dir, os.ErrNotExist)
	}
	return names, nil
}

// isImageName tells the images of a dump from what else CRIU leaves in the
// directory: logs, and statistics of this and of earlier runs (stats-dump,
// irmap-cache), which have no suffix.
func isImageName(name string) bool {
	return strings.HasSuffix(name, ".img") && !strings.HasPrefix(name, ".")
}

// EditFirst changes the first message of an image.
func (v *View) EditFirst(name string, want Type, fn func(msg []byte) ([]byte, error)) error {
	data, err := v.Read(name)
	if err != nil {
		return err
	}
	img, err := Decode(data)
	if err != nil {
		return fmt.Errorf("read %s: %w", name, err)
	}
	if img.Type != want || len(img.Records) == 0 {
		return fmt.Errorf("read %s: %w: it is of type %s, with %d records", name, wire.ErrMalformed, img.Type, len(img.Records))
	}
	if img.Records[0].Message, err = fn(img.Records[0].Message); err != nil {
		return fmt.Errorf("edit %s: %w", name, err)
	}
	return v.Replace(name, img.Encode())
}

// EditAll edits the records of an image, and leaves an image alone in which nothing
// changes.
func (v *View) EditAll(name string, want Type, fn func(msg []byte) ([]byte, error)) error {
	img, err := v.Decode(name, want)
	if err != nil {
		return fmt.Errorf("read %s: %w", name, err)
	}
	changed := false
	for i := range img.Records {
		r := &img.Records[i]
		edited, err := fn(r.Message)
		if err != nil {
			return fmt.Errorf("edit %s: %w", name, err)
		}
		changed = changed || string(edited) != string(r.Message)
		r.Message = edited
	}
	if !changed {
		return nil
	}
	return v.Replace(name, img.Encode())
}

// Decode reads an image that must be of a type, or be empty.
func (v *View) Decode(name string, want Type) (*Image, error) {
	data, err := v.Read(name)
	if err != nil {
		return nil, err
	}
	return DecodeAs(want, data)
}

// Take returns an image as the view shows it, and has CRIU open the path at instead of it,
// in the root directory that the process has that opens it. Replace undoes it.
func (v *View) Take(name, at string) ([]byte, error) {
	data, err := v.Read(name)
	if err != nil {
		return nil, fmt.Errorf("take image: %w", err)
	}
	if err := v.redirect(name, at); err != nil {
		return nil, fmt.Errorf("take image: %w", err)
	}
	return data, nil
}
