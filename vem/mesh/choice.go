package mesh

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
)

// AutoChannel has channels be of the best kind that both hosts make.
const AutoChannel = "auto"

// Choice is the path of a file in which a host remembers of which kind all its channels are to be.
type Choice string

// Read returns what was written last: the name of a kind, which another release may know, or
// [AutoChannel] if nothing was written.
func (c Choice) Read() (string, error) {
	b, err := os.ReadFile(string(c))
	if errors.Is(err, fs.ErrNotExist) {
		return AutoChannel, nil
	}
	if err != nil {
		return "", fmt.Errorf("read which channels this host is to have: %w", err)
	}
	return strings.TrimSpace(string(b)), nil
}

// Write writes the file aside and renames it: if it fails the old one is there.
func (c Choice) Write(name string) error {
	aside := string(c) + ".new"
	f, err := os.OpenFile(aside, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err == nil {
		_, err = f.WriteString(name + "\n")
		err = errors.Join(err, f.Sync(), f.Close())
	}
	if err == nil {
		err = os.Rename(aside, string(c))
	}
	if err != nil {
		return errors.Join(fmt.Errorf("write which channels this host is to have: %w", err), os.RemoveAll(aside))
	}
	return nil
}
