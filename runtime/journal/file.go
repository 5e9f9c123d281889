// Package journal keeps what a daemon has to know after it was killed.
//
// Today it has the files in which records are kept: each is replaced as a whole, and
// carries a digest by which damage is noticed.
package journal

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// Durability is what a file has to survive.
type Durability int

// A daemon that is killed at any moment finds the old file or the new one with both.
const (
	UntilReboot Durability = iota // what the file says does not survive a reboot either
	Forever                       // also a power cut, from the moment Write returns
)

// Write replaces the file at path by v as indented JSON with a digest. v is a struct with
// fields. If it fails the old file is there as it was.
func Write(path string, v any, durable Durability) error {
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return fmt.Errorf("encode %s: %w", path, err)
	}
	return replace(path, seal(b), durable)
}

// Read reads a file of Write into v. Returns an error wrapping ErrSeal if the file is not
// as it was written, or one wrapping fs.ErrNotExist. A file without a digest is read too:
// it is of an older snapctl, or somebody changed it on purpose.
func Read(path string, v any) error {
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if b, err = unseal(b); err != nil {
		return err
	}
	return json.Unmarshal(b, v)
}

// Half is the suffix of a file that is being written. A file of such a name was left by a
// daemon that was killed, and says nothing.
const Half = ".new"

// replace writes a file aside and renames it into place.
func replace(path string, b []byte, durable Durability) (err error) {
	tmp := path + Half
	f, err := os.OpenFile(tmp, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	_, err = f.Write(b)
	if durable == Forever {
		err = errors.Join(err, f.Sync())
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(tmp, path)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("write %s: %w", path, err), os.Remove(tmp))
	}
	if durable == Forever {
		// A rename survives a power cut only once its directory is written: fsync(2), NOTES.
		return syncDir(filepath.Dir(path))
	}
	return nil
}

func syncDir(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("write directory: %w", err)
	}
	return errors.Join(f.Sync(), f.Close())
}
