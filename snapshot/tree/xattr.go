package tree

import (
	"errors"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"
)

// own tells whether an extended attribute is a file's own, and not a note of the overlay about it.
func own(name string) bool {
	return !strings.HasPrefix(name, overlayPrefix) || strings.HasPrefix(name, nestedPrefix)
}

// ownAttributes reads the extended attributes that are the file's own; nil if there are none.
func ownAttributes(path string) (map[string][]byte, error) {
	names, err := Xattrs(path)
	if err != nil {
		return nil, err
	}
	var values map[string][]byte
	for _, name := range names {
		if !own(name) {
			continue
		}
		value, err := getXattr(path, name)
		if err != nil {
			return nil, err
		}
		if values == nil {
			values = make(map[string][]byte)
		}
		values[name] = value
	}
	return values, nil
}

// setAttributes gives a file, which is not followed, extended attributes.
func setAttributes(path string, values map[string][]byte) error {
	for name, value := range values {
		if err := unix.Lsetxattr(path, name, value, 0); err != nil {
			return &XattrError{Path: path, Name: name, Err: err}
		}
	}
	return nil
}

// CopyXattrs copies the extended attributes that are the file's own.
func CopyXattrs(from, to string) error {
	values, err := ownAttributes(from)
	if err != nil {
		return err
	}
	return setAttributes(to, values)
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

// Xattrs is empty where the file system has none.
func Xattrs(path string) ([]string, error) {
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
