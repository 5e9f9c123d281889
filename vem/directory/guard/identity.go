package guard

import (
	"os"
	"path/filepath"
	"sync/atomic"

	"github.com/snapctl/snapctl/vem/trust"
)

// identity is this host's certificate, which the daemon renews.
type identity struct {
	pair    string // path
	current atomic.Pointer[version]
}

// version is what one file had.
type version struct {
	file os.FileInfo
	open *trust.Identity
}

// now returns the certificate as it is on the disk. One that can't be read, while there was
// another before, changes nothing.
func (i *identity) now() (*trust.Identity, error) {
	old := i.current.Load()
	// A renewal puts another file in the place of the one before (rename(2)).
	info, err := os.Stat(i.pair)
	if err == nil && old != nil && os.SameFile(info, old.file) && info.ModTime().Equal(old.file.ModTime()) {
		return old.open, nil
	}
	next, err := trust.Open(filepath.Dir(i.pair), nil)
	switch {
	case err == nil:
		i.current.Store(&version{info, next})
		return next, nil
	case old != nil:
		return old.open, nil
	}
	return nil, err
}
