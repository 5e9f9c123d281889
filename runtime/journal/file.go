// Package journal keeps what a daemon has to know after it was killed, and sees to it that
// each operation is done, or never was.
//
// An operation is described by a [Kind]: a [Table] of the steps that it comes to, and functions
// that undo and finish it. [Kind.Do] does one. While it is open the record of what it is done to
// has an [Entry]; there is no other log. What fails and what a crash leaves go the same way:
// the operation is finished if there is no way back, which is asked of the world and not of the
// record, and undone if there is one. From the table come the fault points at which tests kill
// a daemon, what users are told while it goes on, how well each step is written, and the
// pages that say what a crash leaves.
//
// Records are files, see [Write]: each is replaced as a whole, and carries a digest by which
// damage is noticed.
package journal

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// Write replaces the file at path by v as indented JSON with a digest. keep is UntilReboot or
// Forever. v is a struct with
// fields. If it fails the old file is there as it was.
func Write(path string, v any, keep Keep) error {
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return fmt.Errorf("encode %s: %w", path, err)
	}
	return Replace(path, seal(b), keep)
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

// Replace replaces the file at path by bytes, as [Write] does, without a digest: it is there as a whole, or as it was.
func Replace(path string, b []byte, keep Keep) (err error) {
	tmp := path + Half
	f, err := os.OpenFile(tmp, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	_, err = f.Write(b)
	if keep == Forever {
		err = errors.Join(err, f.Sync())
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(tmp, path)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("write %s: %w", path, err), os.Remove(tmp))
	}
	if keep == Forever {
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
