package snapshot

import (
	"errors"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"
)

// Extended attributes by which an overlay marks the files of a layer
// (Documentation/filesystems/overlayfs.rst). Other attributes with the same prefix name files
// of layers below by inode. They are not kept: where such a file is not, they mean nothing.
const (
	overlayPrefix = "trusted.overlay."
	opaqueMark    = overlayPrefix + "opaque"
	redirectMark  = overlayPrefix + "redirect"
	metacopyMark  = overlayPrefix + "metacopy"
	// nestedPrefix is what an overlay inside the app has set: the app's own data
	// (fs/overlayfs/xattrs.c, ovl_xattr_escape_name; Linux 6.7).
	nestedPrefix = overlayPrefix + "overlay."
)

// Marks are what an overlay has to know of a file of a layer.
type Marks struct {
	// Opaque is a directory that hides those below it.
	Opaque bool `json:"opaque,omitempty"`
	// MetadataOnly is a file with no data but its size: a layer below has the data,
	// at the same name or where Redirect says. The app has changed its mode, owner,
	// times or name, and nothing else.
	MetadataOnly bool `json:"metadata_only,omitempty"`
	// Redirect is the name, in the same directory or from the root, that the file or
	// directory has in the layers below.
	Redirect string `json:"redirect,omitempty"`
}

// marksOf reads the marks of a file, which is not followed.
func marksOf(path string) (Marks, error) {
	names, err := listXattrs(path)
	if err != nil {
		return Marks{}, err
	}
	var m Marks
	for _, name := range names {
		switch name {
		case opaqueMark:
			value, err := getXattr(path, name)
			if err != nil {
				return m, err
			}
			m.Opaque = string(value) == "y"
		case metacopyMark:
			m.MetadataOnly = true
		case redirectMark:
			value, err := getXattr(path, name)
			if err != nil {
				return m, err
			}
			m.Redirect = string(value)
		}
	}
	return m, nil
}

// set marks a file.
func (m Marks) set(path string) error {
	var errs []error
	mark := func(name, value string) {
		if err := unix.Lsetxattr(path, name, []byte(value), 0); err != nil {
			errs = append(errs, &XattrError{Path: path, Name: name, Err: err})
		}
	}
	if m.Opaque {
		mark(opaqueMark, "y")
	}
	if m.MetadataOnly {
		mark(metacopyMark, "")
	}
	if m.Redirect != "" {
		mark(redirectMark, m.Redirect)
	}
	return errors.Join(errs...)
}

// copyXattrs copies the extended attributes that are the file's own.
func copyXattrs(from, to string) error {
	names, err := listXattrs(from)
	if err != nil {
		return err
	}
	for _, name := range names {
		if strings.HasPrefix(name, overlayPrefix) && !strings.HasPrefix(name, nestedPrefix) {
			continue
		}
		value, err := getXattr(from, name)
		if err != nil {
			return err
		}
		if err := unix.Lsetxattr(to, name, value, 0); err != nil {
			return &XattrError{Path: to, Name: name, Err: err}
		}
	}
	return nil
}

// XattrError is an extended attribute that a file system does not take.
type XattrError struct {
	Path, Name string
	Err        error
}

func (e *XattrError) Error() string {
	return fmt.Sprintf("set extended attribute %s of %s: %v", e.Name, e.Path, e.Err)
}

// Unwrap returns the kernel's error.
func (e *XattrError) Unwrap() error { return e.Err }

// listXattrs is empty where the file system has none.
func listXattrs(path string) ([]string, error) {
	buf := make([]byte, 512)
	for {
		n, err := unix.Llistxattr(path, buf)
		switch {
		case errors.Is(err, unix.ERANGE):
			buf = make([]byte, 8*len(buf))
			continue
		case errors.Is(err, unix.ENOTSUP):
			return nil, nil
		case err != nil:
			return nil, fmt.Errorf("list extended attributes of %s: %w", path, err)
		case n == 0:
			return nil, nil
		}
		return strings.Split(strings.TrimSuffix(string(buf[:n]), "\x00"), "\x00"), nil
	}
}

func getXattr(path, name string) ([]byte, error) {
	buf := make([]byte, 256)
	for {
		n, err := unix.Lgetxattr(path, name, buf)
		if errors.Is(err, unix.ERANGE) {
			buf = make([]byte, 8*len(buf))
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("read extended attribute %s of %s: %w", name, path, err)
		}
		return buf[:n], nil
	}
}
