package layer

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/snapctl/snapctl/snapshot/memory"
	"github.com/snapctl/snapctl/snapshot/tree"
)

// A layer has two names. Its ID is that of this very directory: the list that it is the digest of has
// the inode numbers of the files, by which a change is found. Its content is the same on every host:
// by it a host finds out that it has a layer that another one would send.

// contentFile is beside the list of a layer, and has its content's name. It is made when that is asked for.
const contentFile = "content"

// Files is the list of a layer's files. Returns an error wrapping [tree.ErrDamaged].
func (l *Store) Files(id memory.ID) ([]tree.File, error) {
	if err := id.Validate(); err != nil {
		return nil, fmt.Errorf("%w: %w", tree.ErrDamaged, err)
	}
	damaged := func(err error) error {
		return fmt.Errorf("%w: storage layer %s: %s: %w", tree.ErrDamaged, id, listFile, err)
	}
	list, err := tree.ReadFile(filepath.Join(l.dir.Path(string(id)), listFile))
	if err != nil {
		return nil, damaged(err)
	}
	sum := sha256.Sum256(list)
	if hex.EncodeToString(sum[:]) != string(id) {
		return nil, damaged(errors.New("its content changed"))
	}
	var files []tree.File
	if err := json.Unmarshal(list, &files); err != nil {
		return nil, damaged(err)
	}
	return files, nil
}

// Content names what a layer contains: the SHA-256 of what [tree.Entries] reads of it. Layers of the
// same content mean the same, on whatever host they are. The caller has the layer pinned, or a record
// that names it.
//
// Cost: the first time, that of looking at each file, without reading it.
func (l *Store) Content(id memory.ID) (memory.ID, error) {
	path := filepath.Join(l.dir.Path(string(id)), contentFile)
	if b, err := os.ReadFile(path); err == nil && memory.ID(b).Validate() == nil {
		return memory.ID(b), nil
	}
	files, err := l.Files(id)
	if err != nil {
		return "", err
	}
	content, err := ContentOf(l.Path(id), files)
	if err != nil {
		return "", err
	}
	// A file that was written in part has no valid name, and is written again.
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		return "", fmt.Errorf("note content of storage layer: %w", err)
	}
	return content, nil
}

// ContentOf names the content of a directory with these files.
func ContentOf(dir string, files []tree.File) (memory.ID, error) {
	h := sha256.New()
	if err := tree.Entries(dir, files, func(e *tree.Entry) error { return e.Write(h) }); err != nil {
		return "", err
	}
	return memory.ID(hex.EncodeToString(h.Sum(nil))), nil
}

// Find finds layers by their contents, and pins each that it returns. Whether their files are still as
// they were made [Store.Check] tells. What can't be read is not found.
func (l *Store) Find(contents []memory.ID) (map[memory.ID]Ref, error) {
	if len(contents) == 0 {
		return nil, nil //nolint:nilnil // none
	}
	wanted := make(map[memory.ID]bool, len(contents))
	for _, c := range contents {
		wanted[c] = true
	}
	entries, err := os.ReadDir(l.dir.Path(""))
	if err != nil {
		return nil, fmt.Errorf("find storage layers: %w", err)
	}
	found := make(map[memory.ID]Ref)
	for _, e := range entries {
		id := memory.ID(e.Name())
		if id.Validate() != nil {
			continue
		}
		l.dir.Pin(string(id))
		content, err := l.Content(id)
		if _, twice := found[content]; err == nil && wanted[content] && !twice {
			if ref, err := l.refOf(id); err == nil {
				found[content] = ref
				continue
			}
		}
		l.dir.Unpin(string(id))
	}
	return found, nil
}

// refOf is the reference to a layer that is there.
func (l *Store) refOf(id memory.ID) (Ref, error) {
	files, err := l.Files(id)
	if err != nil {
		return Ref{}, err
	}
	linked, size, err := countLinks(l.Path(id), files)
	return Ref{ID: id, SizeBytes: size, Linked: linked}, err
}
