package hostfile

import (
	"context"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/snapshot/memory"
)

// A file that comes from another host, with a snapshot that was saved there, has the name that its
// content, path and attributes give it, as it had there: so what is here already is known. Only the
// stamps are this host's own.

// Dir is the directory of the store.
func (s *Store) Dir() string { return s.path }

// Temporary returns a path for a file that is to be handed to [Store.Put]: see [keep.Dir.Temporary].
func (s *Store) Temporary() (path string, done func() error) { return s.dir.Temporary() }

// Have looks for the copy of a file of another host, reads all of it, and pins it. It returns the
// file with this host's stamps. A copy that is damaged is none.
func (s *Store) Have(ctx context.Context, f File) (_ File, ok bool, err error) {
	if err := f.foreign(); err != nil {
		return File{}, false, err
	}
	s.dir.Pin(string(f.ID))
	f.Stamp, f.Own = "", false
	if err = s.Check(ctx, &f, memory.ByDigest); err == nil {
		err = s.stamp(&f)
	}
	if err == nil {
		return f, true, nil
	}
	s.dir.Unpin(string(f.ID))
	return File{}, false, ctx.Err()
}

// KeepAlike keeps and pins the host's own file, if it is where a file of another host was, and is the
// same. It returns the file with this host's stamps.
func (s *Store) KeepAlike(ctx context.Context, f File, p Place) (_ File, ok bool, err error) {
	if err := f.foreign(); err != nil {
		return File{}, false, err
	}
	if f.Bind != "" {
		return File{}, false, nil // what is below binds here is unknown
	}
	st, err := p.stat(&f)
	if err != nil || st.Size != f.SizeBytes || st.Mode != f.Mode || st.Uid != f.UID || st.Gid != f.GID {
		return File{}, false, nil //nolint:nilerr // it is not there
	}
	got, err := s.Keep(ctx, Wanted{Path: f.Path, Source: p.onHost(&f)})
	if err != nil {
		return File{}, false, ctx.Err() // it is being changed, or can't be read: whatever it is, it is not this one
	}
	if got.ID != f.ID {
		s.Unpin([]File{got})
		return File{}, false, nil
	}
	got.Name = f.Name
	return got, true, nil
}

// Put makes the copy of a file of another host of the file at data, which is on the store's file
// system and loses its name, and pins the copy. modified is when the file was modified. Returns an
// error wrapping [ErrDamaged] if data has other bytes than the file.
func (s *Store) Put(ctx context.Context, f File, data string, modified unix.Timespec) (_ File, err error) {
	if err := f.foreign(); err != nil {
		return File{}, err
	}
	in, err := openRegular(data, false)
	if err != nil {
		return File{}, fmt.Errorf("put %s: %w", f.Path, err)
	}
	defer in.Close() //nolint:errcheck // synced by finish
	sum, err := digest(ctx, in)
	if err != nil {
		return File{}, fmt.Errorf("put %s: %w", f.Path, err)
	}
	if sum != f.SHA256 {
		return File{}, fmt.Errorf("%w: %s: it has other bytes than were saved", ErrDamaged, f.Path)
	}
	s.dir.Pin(string(f.ID)) // it may be there already, and nobody's
	f.Stamp, f.Own = "", false
	err = s.install(ctx, &f, func(to string) error {
		return errors.Join(os.Rename(data, to), finish(in, to, &f, modified, modified))
	})
	if err != nil {
		s.dir.Unpin(string(f.ID))
		return File{}, fmt.Errorf("put %s: %w", f.Path, err)
	}
	return f, nil
}

// foreign checks a file of another host: that its name is the one that all that is said of it gives.
func (f *File) foreign() error {
	if err := f.Validate(); err != nil {
		return fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	if f.ID != f.id() || f.SizeBytes < 0 || f.Mode&unix.S_IFMT != unix.S_IFREG {
		return fmt.Errorf("%w: %s: it is not the file that its name says", ErrDamaged, f.Path)
	}
	return nil
}
