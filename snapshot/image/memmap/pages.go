package memmap

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"

	"github.com/snapctl/snapctl/snapshot/image"
)

// keepPages replaces a pages image by one that has the pages of some runs only.
func keepPages(v *image.View, name string, runs []Run) (err error) {
	path := filepath.Join(v.Dir(), name)
	from, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("copy pages: %w", err)
	}
	defer from.Close() //nolint:errcheck // only read from
	if err := os.Remove(path); err != nil {
		return fmt.Errorf("copy pages: %w", err)
	}
	to, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return fmt.Errorf("copy pages: %w", err)
	}
	defer func() { err = errors.Join(err, to.Close()) }()
	return copyRuns(to, from, runs)
}

// copyRuns appends the pages of each run to a file.
func copyRuns(to io.Writer, from io.ReaderAt, runs []Run) error {
	var buf []byte
	for _, r := range runs {
		for done := uint64(0); done < r.Pages; {
			n := min(r.Pages-done, 256)
			buf = slices.Grow(buf[:0], int(n*image.PageSize))[:n*image.PageSize]
			if _, err := from.ReadAt(buf, int64((r.Offset+done)*image.PageSize)); err != nil {
				return fmt.Errorf("copy pages: %w", err)
			}
			if _, err := to.Write(buf); err != nil {
				return fmt.Errorf("copy pages: %w", err)
			}
			done += n
		}
	}
	return nil
}
