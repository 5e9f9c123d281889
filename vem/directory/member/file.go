package member

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// writeJSON puts a file in the place of another one, whole or not at all, and lasting.
func writeJSON(path string, v any) error {
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	return writeFile(path, func(w io.Writer) error {
		_, err := w.Write(append(b, '\n'))
		return err
	})
}

// writeFile makes a file aside, which only its owner reads, and renames it to path when it lasts.
func writeFile(path string, fill func(w io.Writer) error) error { return placeFile(path, 0, fill) }

// placeFile is writeFile with flags of renameat2(2), which the file system has to know.
func placeFile(path string, flags uint, fill func(w io.Writer) error) (err error) {
	part := path + ".part"
	f, err := os.OpenFile(part, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	err = fill(f)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = unix.Renameat2(unix.AT_FDCWD, part, unix.AT_FDCWD, path, flags)
	}
	if err != nil {
		return errors.Join(err, os.Remove(part))
	}
	return syncDir(filepath.Dir(path))
}

func syncDir(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

const (
	logMax  = 8 << 20   // what a log may become
	logKeep = 256 << 10 // what is kept of it then, as log.old
)

// trimLog makes room in a log that has become too large. A process may have it open, for
// appending; what that writes in between is lost.
func trimLog(path string) error {
	st, err := os.Stat(path)
	if errors.Is(err, os.ErrNotExist) || err == nil && st.Size() <= logMax {
		return nil
	}
	if err != nil {
		return err
	}
	err = writeFile(path+".old", func(w io.Writer) error {
		tail, err := readTail(path, 0, logKeep)
		if err == nil {
			_, err = w.Write(tail)
		}
		return err
	})
	if err == nil {
		err = os.Truncate(path, 0)
	}
	if err != nil {
		return fmt.Errorf("shorten log: %w", err)
	}
	return nil
}

// readTail returns the last bytes of a file after an offset, at most n.
func readTail(path string, after, n int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close() //nolint:errcheck // only read from
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	from := min(max(after, st.Size()-n), st.Size())
	return io.ReadAll(io.NewSectionReader(f, from, st.Size()-from))
}
