package restore

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/snapshot"
	"github.com/snapctl/snapctl/snapshot/hostfile"
	"github.com/snapctl/snapctl/snapshot/image"
	"github.com/snapctl/snapctl/snapshot/image/openfile"
)

// While an app sleeps, others write to the files that the app has open below binds. When the
// app comes back it finds these files as they are, as any program does that shares files:
// longer or shorter, replaced, with another mode. A file that is gone and that the app could
// write to, such as a log that was rotated, is made anew, empty, as if the app had opened it
// now. If a file is gone that the app only reads, the app is not woken, unless
// [Options.AcceptChanged] says so.

// bindFiles looks after the files of binds.
type bindFiles struct {
	o       Options
	mounts  map[int]bound // by CRIU's number
	mapped  map[uint32]openfile.Mapped
	owners  map[string]hostfile.Bound
	dry     bool  // nothing is made
	users   users // for messages
	done    map[string]bool
	refused []error
}

// bound is a directory or file of the host that is mounted inside the app, or the app's
// root directory.
type bound struct {
	inside, host string
	root         bool
}

// editBindFiles has CRIU take the files of binds as they are, and makes those that are
// gone.
func (p *Plan) editBindFiles(ctx context.Context, view *image.View, o Options) error {
	b, files, err := lookAtBinds(ctx, view.Dir(), o)
	if err != nil {
		return err
	}
	changes := make(map[uint32]openfile.Change)
	for _, b.dry = range []bool{true, false} { // nothing is made if something is refused
		clear(b.done)
		for _, f := range files {
			if key, ok := p.host.byPath[f.Name]; ok && b.mapped[f.ID].Code {
				changes[f.ID] = openfile.Change{Key: key}
				continue
			}
			if err := b.look(ctx, &f, files); err != nil {
				return err
			}
			if f.Mode&unix.S_IFMT == unix.S_IFREG && !f.Removed && !b.mapped[f.ID].Code {
				changes[f.ID] = openfile.Change{Unchecked: true}
			}
		}
		if len(b.refused) > 0 {
			return errors.Join(b.refused...)
		}
		if p.rehearsal {
			break
		}
	}
	return openfile.ChangeSaved(view, changes)
}

// lookAtBinds lists the files below binds. If a bound directory or file is gone it is refused,
// and the files below it are not listed.
func lookAtBinds(ctx context.Context, images string, o Options) (*bindFiles, []openfile.Saved, error) {
	b := &bindFiles{o: o, users: users{images: o.Snapshot.Images()}, mounts: make(map[int]bound), owners: make(map[string]hostfile.Bound), done: make(map[string]bool)}
	gone := make(map[string]bool)
	for _, e := range o.Manifest.External {
		if e.Kind != snapshot.ExternalBind {
			continue
		}
		source := o.Place.Binds[e.Path]
		if _, err := os.Stat(source); err != nil {
			gone[e.Path] = true
			b.refused = append(b.refused, &FileError{
				Path: e.Path, Reason: fmt.Sprintf("%s, which the app has at %s: %v", source, e.Path, err), Remedy: "put it back", cause: err,
			})
		}
	}
	mounts, err := openfile.ReadMounts(images)
	if err != nil {
		return nil, nil, err
	}
	for _, m := range mounts {
		if source, ok := o.Place.Binds[m.Mountpoint]; ok && m.External != "" && !gone[m.Mountpoint] {
			b.mounts[m.ID] = bound{inside: m.Mountpoint, host: source}
		}
	}
	b.mounts[openfile.RootMount(mounts)] = bound{inside: "/", host: o.Place.Root, root: true}
	for _, f := range o.Manifest.Bound {
		b.owners[f.Path] = f
	}
	if b.mapped, err = openfile.ReadMapped(ctx, images); err != nil {
		return nil, nil, err
	}
	files, err := openfile.ReadSaved(ctx, images)
	if err != nil {
		return nil, nil, err
	}
	files = slices.DeleteFunc(files, func(f openfile.Saved) bool {
		at, ok := b.mounts[f.Mount]
		if !ok || f.External || f.Mode == 0 || f.Removed && f.Link == "" {
			return true
		}
		return at.root && (f.Removed || f.Mode&unix.S_IFMT == unix.S_IFREG) // the app's own, or kept
	})
	return b, files, nil
}

// look looks whether a file is there, and makes it if it may.
func (b *bindFiles) look(ctx context.Context, f *openfile.Saved, all []openfile.Saved) error {
	at := b.mounts[f.Mount]
	if f.Link != "" {
		return b.link(ctx, at, f)
	}
	if b.done[f.Name] {
		return nil
	}
	b.done[f.Name] = true
	rest := strings.TrimPrefix(strings.TrimPrefix(f.Name, at.inside), "/")
	if rest == "" {
		return nil // what is bound, or the root
	}
	root, err := os.OpenRoot(at.host)
	if err != nil {
		return fmt.Errorf("open bind %s: %w", at.inside, err)
	}
	defer root.Close() //nolint:errcheck // a handle
	info, err := root.Stat(rest)
	switch {
	case err == nil && sameType(info, f.Mode):
		return nil
	case err == nil:
		b.refuse(ctx, f, fmt.Errorf("it is a %s now", kind(info)), "put it back")
		return nil
	case !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.ENOTDIR):
		// A link leads out of the bind, or something else that CRIU may know better.
		return nil
	}
	if at.root && f.Mode&unix.S_IFMT != unix.S_IFDIR && f.Mode&unix.S_IFMT != unix.S_IFIFO {
		return nil
	}
	size, may := b.toMake(f, all)
	if !may && !b.o.AcceptChanged {
		b.refuse(ctx, f, errors.New("it is gone"), "put it back, or have it made, empty, with --accept-changed-files")
		return nil
	}
	if b.dry {
		return nil
	}
	if err := b.make(root, rest, f, size); err != nil {
		b.refuse(ctx, f, fmt.Errorf("it is gone, and can't be made: %w", err), "put it back")
		return nil
	}
	if b.o.Note != nil {
		what := "empty"
		if size > 0 {
			what = "with zeros in it, since the app maps it"
		}
		b.o.Note(fmt.Sprintf("%s was gone and has been made anew, %s", f.Name, what), "")
	}
	return nil
}

// link gives a file that had lost its name the name again by which CRIU finds it. CRIU then
// removes that name.
func (b *bindFiles) link(ctx context.Context, at bound, f *openfile.Saved) error {
	other := b.owners[f.Link].Other
	if other == "" {
		return nil
	}
	root, err := os.OpenRoot(at.host)
	if err != nil {
		return fmt.Errorf("open bind %s: %w", at.inside, err)
	}
	defer root.Close() //nolint:errcheck // a handle
	if b.dry {
		return nil
	}
	below := func(name string) string { return strings.TrimPrefix(strings.TrimPrefix(name, at.inside), "/") }
	if err := root.Link(below(other), below(f.Link)); err != nil && !errors.Is(err, fs.ErrExist) {
		b.refuse(ctx, f, fmt.Errorf("had been removed, and its other name %s is gone too: %w", other, err), "put that name back")
	}
	return nil
}

// toMake tells whether a file that is gone may be made anew, and of which size. A directory that
// a process is in, a pipe, and a file that some process had open for writing may be. A mapped
// file gets the length that it had, or the app would end at its first use.
func (b *bindFiles) toMake(f *openfile.Saved, all []openfile.Saved) (size int64, may bool) {
	if f.Mode&unix.S_IFMT != unix.S_IFREG {
		return 0, f.Mode&unix.S_IFMT == unix.S_IFDIR || f.Mode&unix.S_IFMT == unix.S_IFIFO
	}
	for _, other := range all {
		if other.Name != f.Name || other.Mount != f.Mount {
			continue
		}
		may = may || other.Flags&unix.O_ACCMODE != unix.O_RDONLY
		if m, ok := b.mapped[other.ID]; ok {
			size = max(size, other.SizeBytes)
			if m.Code {
				return 0, false
			}
		}
	}
	return size, may
}

// make makes a file that is gone, as it was but for its content.
func (b *bindFiles) make(root *os.Root, name string, f *openfile.Saved, size int64) (err error) {
	if err := root.MkdirAll(path.Dir(name), 0o755); err != nil {
		return err
	}
	switch f.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		err = root.Mkdir(name, 0o700)
	case unix.S_IFIFO:
		err = mkfifo(root, name)
	default:
		var file *os.File
		if file, err = root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600); err == nil {
			err = errors.Join(file.Truncate(size), file.Close())
		}
	}
	if errors.Is(err, fs.ErrExist) {
		return nil // somebody else was faster
	}
	if err != nil {
		return err
	}
	owner := b.owners[f.Name]
	if err := root.Lchown(name, int(owner.UID), int(owner.GID)); err != nil {
		return err
	}
	return root.Chmod(name, fs.FileMode(f.Mode&0o777)|setBits(f.Mode))
}

func mkfifo(root *os.Root, name string) error {
	dir, err := root.Open(path.Dir(name))
	if err != nil {
		return err
	}
	defer dir.Close() //nolint:errcheck // a handle
	return unix.Mkfifoat(int(dir.Fd()), path.Base(name), 0o600)
}

// setBits are the upper bits of a mode, as package os has them.
func setBits(mode uint32) (bits fs.FileMode) {
	for bit, to := range map[uint32]fs.FileMode{unix.S_ISUID: fs.ModeSetuid, unix.S_ISGID: fs.ModeSetgid, unix.S_ISVTX: fs.ModeSticky} {
		if mode&bit != 0 {
			bits |= to
		}
	}
	return bits
}

// refuse notes a file without which the app is not to come back.
func (b *bindFiles) refuse(ctx context.Context, f *openfile.Saved, cause error, remedy string) {
	at := b.mounts[f.Mount]
	host := path.Join(at.host, strings.TrimPrefix(f.Name, at.inside))
	b.refused = append(b.refused, &FileError{
		Path: f.Name, Reason: fmt.Sprintf("%s (%s on the host)%s %v", f.Name, host, b.users.of(ctx, f.Name), cause), Remedy: remedy, cause: cause,
	})
}

// sameType tells whether a file is of the type that a mode says.
func sameType(info fs.FileInfo, mode uint32) bool {
	types := map[uint32]fs.FileMode{
		unix.S_IFREG: 0, unix.S_IFDIR: fs.ModeDir, unix.S_IFIFO: fs.ModeNamedPipe, unix.S_IFSOCK: fs.ModeSocket,
		unix.S_IFCHR: fs.ModeDevice | fs.ModeCharDevice, unix.S_IFBLK: fs.ModeDevice, unix.S_IFLNK: fs.ModeSymlink,
	}
	want, ok := types[mode&unix.S_IFMT]
	return !ok || info.Mode().Type() == want || want == fs.ModeSymlink
}

// kind names the type of a file.
func kind(info fs.FileInfo) string {
	names := []struct {
		bit  fs.FileMode
		name string
	}{{fs.ModeDir, "directory"}, {fs.ModeNamedPipe, "pipe"}, {fs.ModeSocket, "socket"}, {fs.ModeDevice, "device"}}
	i := slices.IndexFunc(names, func(n struct {
		bit  fs.FileMode
		name string
	},
	) bool {
		return info.Mode()&n.bit != 0
	})
	if i < 0 {
		return "file"
	}
	return names[i].name
}
