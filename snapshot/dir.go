package snapshot

import (
	"context"
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

// Dir is the directory of a committed snapshot.
type Dir string

// Images is the directory of CRIU's images.
func (d Dir) Images() string { return filepath.Join(string(d), imagesDir) }

// Storage is the directory of the app's saved writes.
func (d Dir) Storage() string { return filepath.Join(string(d), storageDir) }

// Shm is the directory of the app's saved /dev/shm.
func (d Dir) Shm() string { return filepath.Join(string(d), shmDir) }

// Dev is the directory of what else the app had made in its /dev.
func (d Dir) Dev() string { return filepath.Join(string(d), devDir) }

// Connections is the file of the TCP connections inside the app: those that a copy of the
// app gets, and those that it does not get, with the reason. The manifest says whether there is
// such a file.
func (d Dir) Connections() string { return filepath.Join(string(d), connectionsFile) }

// Sockets is the file of the settings in which the app's sockets differ from new ones. It is
// missing if there are none.
func (d Dir) Sockets() string { return filepath.Join(string(d), socketsFile) }

// Network is the file of the app's own settings of its network namespace. It is missing if
// there are none.
func (d Dir) Network() string { return filepath.Join(string(d), networkFile) }

// Depth says how thoroughly [Dir.Open] checks the files.
type Depth = memory.Depth

const (
	// ByStamp compares the digests of small files, and of a large file its
	// size and stamp, and its digest only if the stamp differs.
	ByStamp = memory.ByStamp
	// ByDigest reads every byte.
	ByDigest = memory.ByDigest
	// BySize reads nothing but the manifest.
	BySize = memory.BySize
)

// Open reads the manifest and checks that every file is what it says and that
// no other file is there, and likewise the memory files that it needs of the
// store. Returns an error wrapping [tree.ErrDamaged] or ErrInvalid that names the file.
func (d Dir) Open(ctx context.Context, depth Depth, store *memory.Store) (*Manifest, error) {
	m, err := d.Manifest()
	if err != nil {
		return nil, err
	}
	return m, d.Check(ctx, m, depth, store)
}

// Sync brings a snapshot to the disk that was volatile when it was committed, see [Partial.Volatile], and the memory
// files that it needs.
func (d Dir) Sync(ctx context.Context, m *Manifest, store *memory.Store) error {
	return errors.Join(store.Sync(ctx, m.MemoryFiles()), tree.Sync(ctx, string(d)), tree.SyncPaths(filepath.Dir(string(d))))
}

// Check does what Open does after it has read the manifest: it verifies every file and
// memory file against m.
func (d Dir) Check(ctx context.Context, m *Manifest, depth Depth, store *memory.Store) error {
	if err := tree.Check(ctx, string(d), m.Files, depth, ownFiles...); err != nil {
		return err
	}
	for _, f := range m.Memory {
		if err := store.Check(ctx, f.File, depth); err != nil {
			return fmt.Errorf("%w: %w", tree.ErrDamaged, err)
		}
	}
	return d.checkLinks(m, store)
}

// checkLinks makes sure that the images lead to their memory files, and nowhere
// else out of the snapshot: CRIU would follow them. [Manifest.Validate] has made
// sure that there is no other link, and the memory files are checked.
func (d Dir) checkLinks(m *Manifest, store *memory.Store) error {
	for _, f := range m.Memory {
		if f.Image == "" {
			continue
		}
		name := imagesDir + "/" + f.Image
		want, err := linkTo(d.Images(), store, f.ID)
		if err != nil {
			return err
		}
		// Not only to the same file: CRIU follows it from another root as well,
		// see image.NewView.
		if got, err := os.Readlink(filepath.Join(string(d), name)); err != nil || got != want {
			return fmt.Errorf("%w: %s: it does not lead to memory file %s", tree.ErrDamaged, name, f.ID)
		}
	}
	return nil
}

// linkTo is what an image that is a memory file is a link to.
func linkTo(images string, store *memory.Store, id memory.ID) (string, error) {
	target, err := filepath.Rel(images, store.Path(id))
	if err != nil {
		return "", fmt.Errorf("link memory file: %w", err)
	}
	return target, nil
}

// linkMemory makes the links to the memory files of m that are images.
func (d Dir) linkMemory(m *Manifest, store *memory.Store) error {
	for i := range m.Memory {
		f := &m.Memory[i]
		if f.Image == "" {
			continue
		}
		target, err := linkTo(d.Images(), store, f.ID)
		if err != nil {
			return err
		}
		if err := os.Symlink(target, filepath.Join(d.Images(), f.Image)); err != nil {
			return fmt.Errorf("link memory file: %w", err)
		}
	}
	return nil
}

// Manifest reads the manifest alone and checks it against its digest.
func (d Dir) Manifest() (*Manifest, error) {
	b, err := tree.ReadFile(filepath.Join(string(d), manifestFile))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", tree.ErrDamaged, err)
	}
	want, err := tree.ReadFile(filepath.Join(string(d), digestFile))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", tree.ErrDamaged, err)
	}
	sum := sha256.Sum256(b)
	if hex.EncodeToString(sum[:]) != string(want) {
		return nil, fmt.Errorf("%w: %s: it does not match %s", tree.ErrDamaged, manifestFile, digestFile)
	}
	return ParseManifest(b)
}

// writeManifest writes the manifest, which lists the files already.
func writeManifest(dir string, m *Manifest) error {
	m.Version = ManifestVersion
	if err := m.Validate(); err != nil {
		return err
	}
	b, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return fmt.Errorf("encode manifest: %w", err)
	}
	sum := sha256.Sum256(b)
	return errors.Join(
		os.WriteFile(filepath.Join(dir, manifestFile), b, 0o600),
		os.WriteFile(filepath.Join(dir, digestFile), []byte(hex.EncodeToString(sum[:])), 0o600),
	)
}
