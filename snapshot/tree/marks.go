package tree

import (
	"errors"

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

// ReadMarks reads the marks of a file, which is not followed.
func ReadMarks(path string) (Marks, error) {
	names, err := Xattrs(path)
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

// Set marks a file.
func (m Marks) Set(path string) error {
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
