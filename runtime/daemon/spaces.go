package daemon

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/containerd/errdefs"

	"github.com/snapctl/snapctl/runtime/journal"
	"github.com/snapctl/snapctl/snapshot"
	"github.com/snapctl/snapctl/vem"
	"github.com/snapctl/snapctl/vem/address"
)

// spaces keeps the address spaces of networks, each in a file of this directory.
type spaces string

var _ vem.Spaces = spaces("")

func (s spaces) file(network string) string { return filepath.Join(string(s), network+".json") }

// Load implements [vem.Spaces].
func (s spaces) Load(network string) (address.Space, error) {
	var found address.Space
	if err := snapshot.ValidateName(network); err != nil {
		return found, fmt.Errorf("network: %w: %w", errdefs.ErrInvalidArgument, err)
	}
	err := journal.Read(s.file(network), &found)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		err = fmt.Errorf("read network %s: %w", network, err)
	}
	return found, err
}

// Save implements [vem.Spaces].
func (s spaces) Save(network string, space address.Space) error {
	if err := os.MkdirAll(string(s), 0o700); err != nil {
		return fmt.Errorf("make network: %w", err)
	}
	return journal.Write(s.file(network), space, journal.Forever)
}

// Count implements [vem.Spaces].
func (s spaces) Count() (int, error) {
	files, err := filepath.Glob(s.file("*"))
	return len(files), err
}
