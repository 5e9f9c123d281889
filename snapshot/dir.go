package snapshot

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sort"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/snapshot/memory"
)

// ErrDamaged is a snapshot whose files are not what its manifest says.
var ErrDamaged = errors.New("snapshot is damaged")

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

// stampFrom is the size from which a stamp stands in for a digest.
//
// It finds all that is done to the file through the file system, short of setting
// the clock back, and not what is done to the disk below: see memory.Stamp.
const stampFrom = 1 << 20

// Open reads the manifest and checks that every file is what it says and that
// no other file is there, and likewise the memory files that it needs of the
// store. Returns an error wrapping ErrDamaged or ErrInvalid that names the file.
func (d Dir) Open(ctx context.Context, depth Depth, store *memory.Store) (*Manifest, error) {
	m, err := d.Manifest()
	if err != nil {
		return nil, err
	}
	return m, d.Check(ctx, m, depth, store)
}

// Check does what Open does after it has read the manifest: it verifies every file and
// memory file against m.
func (d Dir) Check(ctx context.Context, m *Manifest, depth Depth, store *memory.Store) error {
	if err := checkTree(ctx, string(d), m.Files, depth); err != nil {
		return err
	}
	for _, f := range m.Memory {
		if err := store.Check(ctx, f.File, depth); err != nil {
			return fmt.Errorf("%w: %w", ErrDamaged, err)
		}
	}
	return d.checkLinks(m, store)
}

// checkTree checks that all below dir is as it was described.
func checkTree(ctx context.Context, dir string, files []File, depth Depth) error {
	want := make(map[string]File, len(files))
	for _, f := range files {
		want[f.Path] = f
	}
	found, err := listTree(dir)
	if err != nil {
		return err
	}
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(4)
	for _, name := range found {
		f, ok := want[name]
		if !ok {
			return errors.Join(fmt.Errorf("%w: %s: not part of it", ErrDamaged, name), g.Wait())
		}
		delete(want, name)
		g.Go(func() error { return check(gctx, dir, f, depth) })
	}
	if err := g.Wait(); err != nil {
		return err
	}
	for name := range want {
		return fmt.Errorf("%w: %s: missing", ErrDamaged, name)
	}
	return nil
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
			return fmt.Errorf("%w: %s: it does not lead to memory file %s", ErrDamaged, name, f.ID)
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

// Manifest reads the manifest alone and checks it against its digest.
func (d Dir) Manifest() (*Manifest, error) {
	b, err := readRegular(filepath.Join(string(d), manifestFile))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	want, err := readRegular(filepath.Join(string(d), digestFile))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	sum := sha256.Sum256(b)
	if hex.EncodeToString(sum[:]) != string(want) {
		return nil, fmt.Errorf("%w: %s: it does not match %s", ErrDamaged, manifestFile, digestFile)
	}
	return parseManifest(b)
}

// maxManifest bounds what is read: a million files fit.
const maxManifest = 256 << 20

// readRegular reads a file that is no link, no device and no pipe.
func readRegular(path string) (_ []byte, err error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close() //nolint:errcheck // only read from
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() || info.Size() > maxManifest {
		return nil, fmt.Errorf("read %s: it is no file of a sensible size", path)
	}
	return io.ReadAll(f)
}

func check(ctx context.Context, dir string, want File, depth Depth) error {
	got, err := describe(dir, want.Path)
	if err != nil {
		return fmt.Errorf("%w: %s: %w", ErrDamaged, want.Path, err)
	}
	if want.Type == "dir" && want.Stamp == "" { // described before marks were
		got.Marks = want.Marks
	}
	if got.Type != want.Type || got.SizeBytes != want.SizeBytes || got.Mode != want.Mode || got.Marks != want.Marks {
		return fmt.Errorf("%w: %s: type, mode, size or overlay mark differs from the manifest", ErrDamaged, want.Path)
	}
	if want.MetadataOnly {
		return nil
	}
	if depth == BySize || depth == ByStamp && want.SizeBytes >= stampFrom && got.Stamp == want.Stamp {
		return nil
	}
	if got.SHA256, err = digest(ctx, filepath.Join(dir, want.Path), want.Type); err != nil {
		return fmt.Errorf("%w: %s: %w", ErrDamaged, want.Path, err)
	}
	if got.SHA256 != want.SHA256 {
		return fmt.Errorf("%w: %s: its content changed", ErrDamaged, want.Path)
	}
	return nil
}

// listTree lists all below dir but the manifest, in a fixed order.
func listTree(dir string) ([]string, error) {
	var names []string
	err := filepath.WalkDir(dir, func(p string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(dir, p)
		if err != nil {
			return err
		}
		if rel != "." && rel != manifestFile && rel != digestFile {
			names = append(names, filepath.ToSlash(rel))
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list snapshot: %w", err)
	}
	sort.Strings(names)
	return names, nil
}

// describe reads a file's attributes, not its content.
func describe(dir, name string) (File, error) {
	var st unix.Stat_t
	if err := unix.Lstat(filepath.Join(dir, name), &st); err != nil {
		return File{}, err
	}
	f := File{Path: name, Mode: st.Mode, Type: "other", Stamp: memory.Stamp(&st)}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		f.Type, f.SizeBytes = "file", st.Size
	case unix.S_IFDIR:
		f.Type = "dir"
	case unix.S_IFLNK:
		f.Type = "symlink"
		return f, nil
	default:
		return f, nil
	}
	var err error
	f.Marks, err = marksOf(filepath.Join(dir, name))
	return f, err
}

// digest hashes a file's bytes or a link's target.
func digest(ctx context.Context, path, kind string) (string, error) {
	h := sha256.New()
	switch kind {
	case "symlink":
		target, err := os.Readlink(path)
		if err != nil {
			return "", err
		}
		h.Write([]byte(target))
	case "file":
		f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW, 0)
		if err != nil {
			return "", err
		}
		defer f.Close() //nolint:errcheck // only read from
		if _, err := io.Copy(h, &ctxReader{ctx, f}); err != nil {
			return "", err
		}
	default:
		return "", nil
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// ctxReader ends a long read when its request does.
type ctxReader struct {
	ctx context.Context //nolint:containedctx // lives for one io.Copy
	r   io.Reader
}

func (r *ctxReader) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.r.Read(p)
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
