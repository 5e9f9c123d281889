package memory

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// Adopt is [Store.AdoptAll] for one file.
func (s *Store) Adopt(ctx context.Context, path string) (File, error) {
	files, err := s.AdoptAll(ctx, []string{path})
	if err != nil {
		return File{}, err
	}
	return files[0], nil
}

// AdoptAll moves files, which must be on the store's file system and which nobody
// changes any more, into the store, brings them to the disk and pins them, each as
// often as it is there. A file of the same content that is there already takes a
// file's place. If it fails some may be in the store, none of them pinned.
//
// Cost: that of reading the files and of a SHA-256, on all processors, or that of
// writing them to the disk, whatever takes longer. To begin with either while CRIU
// still writes them was tried and left: all three got slower than one after the other.
func (s *Store) AdoptAll(ctx context.Context, paths []string) ([]File, error) {
	return s.adoptAll(ctx, paths, false)
}

// AdoptVolatile is AdoptAll for files that need not outlive the host's boot: they are not brought to the disk.
// Whatever names one of them for longer calls [Store.Sync] first.
func (s *Store) AdoptVolatile(ctx context.Context, paths []string) ([]File, error) {
	return s.adoptAll(ctx, paths, true)
}

func (s *Store) adoptAll(ctx context.Context, paths []string, volatile bool) (_ []File, err error) {
	ids := make([]ID, 0, len(paths))
	for some := range slices.Chunk(paths, maxOpen) {
		more, err := digestAndSync(ctx, some, volatile)
		if err != nil {
			return nil, fmt.Errorf("adopt memory file: %w", err)
		}
		ids = append(ids, more...)
	}
	pinned := make([]File, 0, len(paths))
	defer func() {
		if err != nil {
			s.Unpin(pinned)
			err = fmt.Errorf("adopt memory file: %w", err)
		}
	}()
	placed := make(map[ID]bool, len(paths)) // and so proved to be what they are called
	for i, path := range paths {
		s.dir.Pin(string(ids[i])) // it may be there already, and nobody's
		pinned = append(pinned, File{ID: ids[i]})
		if placed[ids[i]] {
			err = os.Remove(path)
		} else {
			err = s.place(ctx, path, ids[i], !volatile)
		}
		if err != nil {
			return nil, err
		}
		placed[ids[i]] = true
	}
	if !volatile {
		if err := syncDir(s.path); err != nil {
			return nil, err
		}
	}
	for i := range pinned {
		if pinned[i], err = s.describe(ids[i]); err != nil {
			pinned[i].ID = ids[i]
			return nil, err
		}
		s.prove(pinned[i])
	}
	return pinned, nil
}

// maxOpen is how many files are open at the same time: an app has one for each process.
const maxOpen = 256

// syncers is how many files are synced at the same time. The journal of a file
// system commits for all who wait.
const syncers = 8

// Sync brings memory files to the disk that are not known to be there. The caller has them pinned, or keeps them
// otherwise. It costs nothing for files that AdoptAll has adopted; of those that an earlier daemon had it is not
// known, and fsync(2) is asked once.
func (s *Store) Sync(ctx context.Context, files []File) error {
	var g errgroup.Group
	g.SetLimit(syncers)
	some := false
	for _, f := range files {
		if s.isDurable(f.ID) {
			continue
		}
		some = true
		g.Go(func() error {
			in, err := s.OpenFile(f.ID)
			if err != nil {
				return err
			}
			return errors.Join(startWriting(ctx, in), awaitWriting(ctx, in), ctx.Err(), in.Sync(), in.Close())
		})
	}
	if err := g.Wait(); err != nil {
		return fmt.Errorf("bring memory files to the disk: %w", err)
	}
	if !some {
		return nil
	}
	if err := syncDir(s.path); err != nil {
		return fmt.Errorf("bring memory files to the disk: %w", err)
	}
	for _, f := range files {
		s.setDurable(f.ID, true)
	}
	return nil
}

// digestAndSync makes files read-only, brings them to the disk unless they are volatile, and returns their
// names, both at the same time.
func digestAndSync(ctx context.Context, paths []string, volatile bool) (_ []ID, err error) {
	ids, files := make([]ID, len(paths)), make([]*os.File, len(paths))
	defer func() {
		for _, in := range files {
			if in != nil {
				_ = in.Close() // only read from
			}
		}
	}()
	for i, path := range paths {
		if files[i], err = os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW, 0); err != nil {
			return nil, err
		}
		if err := files[i].Chmod(0o400); err != nil {
			return nil, err
		}
	}
	all, ctx := errgroup.WithContext(ctx)
	all.Go(func() error {
		var g errgroup.Group
		g.SetLimit(runtime.NumCPU())
		for i, in := range files {
			g.Go(func() (err error) {
				ids[i], err = hash(ctx, in)
				return err
			})
		}
		return g.Wait()
	})
	if volatile {
		return ids, all.Wait()
	}
	all.Go(func() error {
		// Once all have their place on the disk, one commit of the journal is
		// enough for all of them.
		for _, in := range files {
			if err := startWriting(ctx, in); err != nil {
				return err
			}
		}
		var g errgroup.Group
		g.SetLimit(syncers)
		for _, in := range files {
			g.Go(func() error {
				if err := awaitWriting(ctx, in); err != nil {
					return err
				}
				return in.Sync()
			})
		}
		return g.Wait()
	})
	return ids, all.Wait()
}

// place gives a file the name that its content has, or removes it if the store has
// that already. What has only the name gives way. The file is on the disk if it is durable.
func (s *Store) place(ctx context.Context, path string, id ID, durable bool) error {
	err := unix.Renameat2(unix.AT_FDCWD, path, unix.AT_FDCWD, s.Path(id), unix.RENAME_NOREPLACE)
	if errors.Is(err, unix.EEXIST) {
		return s.settle(ctx, path, id, durable)
	}
	if err == nil {
		s.setDurable(id, durable)
	}
	return err
}

// settle is place for a name that is taken. Two of one content take turns: what
// the first puts there may be mapped already, and must stay.
func (s *Store) settle(ctx context.Context, path string, id ID, durable bool) error {
	s.settling.Lock()
	defer s.settling.Unlock()
	err := s.verify(ctx, id)
	if errors.Is(err, ErrDamaged) {
		s.setDurable(id, durable)
		return os.Rename(path, s.Path(id))
	}
	if err != nil {
		return err
	}
	if durable && !s.isDurable(id) { // the one that is there may not be
		if err := s.Sync(ctx, []File{{ID: id}}); err != nil {
			return err
		}
	}
	return os.Remove(path)
}

// startWriting begins to write a file to the disk, and does not wait for its end. It is an
// optimisation, for fsync(2) does it too: a failure shows there.
func startWriting(ctx context.Context, f *os.File) error {
	return inPieces(ctx, f, unix.SYNC_FILE_RANGE_WRITE)
}

// awaitWriting waits for what startWriting began. Nothing interrupts fsync(2), so that is to have
// little left to do.
func awaitWriting(ctx context.Context, f *os.File) error {
	return inPieces(ctx, f, unix.SYNC_FILE_RANGE_WAIT_BEFORE)
}

// piece is how much of a file is written or waited for at a time: what a disk does in a moment.
const piece = 8 << 20

// inPieces calls sync_file_range(2) for a file. It returns early if ctx ends.
func inPieces(ctx context.Context, f *os.File, flags int) error {
	info, err := f.Stat()
	if err != nil {
		return err
	}
	for at := int64(0); at < info.Size(); at += piece {
		if err := ctx.Err(); err != nil {
			return err
		}
		_ = unix.SyncFileRange(int(f.Fd()), at, piece, flags)
	}
	return ctx.Err()
}

func syncDir(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}
