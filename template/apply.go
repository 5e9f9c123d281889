package template

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/snapshot/tree"
)

// ErrEscape is a path that would lead to files that are not the clone's own.
var ErrEscape = errors.New("path leads out of the clone")

// Apply makes the links and writes the files of the plan, and the machine id and
// [InstanceFile], below root: the clone's root directory, mounted, in which no
// process runs: there is none yet, or they are frozen. binds are what the clone sees of the host: path inside to path on
// the host; below them only directories that redirects lead to are made.
//
// Symbolic links lead where the clone would see them lead, and never out of root.
// If it fails, what was written stays: the clone is not to be started.
//
// It needs the rights to write there, and CAP_CHOWN.
func (p *Plan) Apply(ctx context.Context, root string, binds map[string]string) (err error) {
	dir, err := os.OpenRoot(root)
	if err != nil {
		return fmt.Errorf("apply plan: %w", err)
	}
	defer func() { err = errors.Join(err, dir.Close()) }()
	t := cloneTree{root: dir, binds: binds}
	for _, r := range p.Redirects {
		if err := t.redirect(ctx, r); err != nil {
			return fmt.Errorf("redirect %s to %s: %w", r.Path, r.Target, err)
		}
	}
	for _, f := range p.Files {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := t.write(f); err != nil {
			return err
		}
	}
	if err := t.machineID(p.MachineID); err != nil {
		return err
	}
	return p.Instance.Write(root)
}

// cloneTree is a clone's files. All access is through root, which the kernel does
// not let it leave; paths are the clone's, absolute.
type cloneTree struct {
	root  *os.Root
	binds map[string]string
}

// local is a path as root wants it.
func local(p string) string {
	if p == "/" {
		return "."
	}
	return strings.TrimPrefix(path.Clean(p), "/")
}

// maxLinks is how many links the kernel follows (MAXSYMLINKS,
// include/linux/namei.h).
const maxLinks = 40

// resolve follows symbolic links as the clone would: an absolute one starts at
// its root, and ".." there stays there. os.Root would refuse these. What is
// missing is taken as it is; lastLink tells to leave a link at the end alone.
func (t cloneTree) resolve(p string, last lastLink) (string, error) {
	done, rest, links := "/", strings.Split(strings.TrimPrefix(path.Clean(p), "/"), "/"), 0
	for len(rest) > 0 {
		next := path.Join(done, rest[0])
		rest = rest[1:]
		if len(rest) == 0 && last == keepLast {
			return next, nil
		}
		info, err := t.root.Lstat(local(next))
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return path.Join(append([]string{next}, rest...)...), nil
		case err != nil:
			return "", err
		case info.Mode()&fs.ModeSymlink == 0:
			done = next
			continue
		}
		if links++; links > maxLinks {
			return "", &fs.PathError{Op: "resolve", Path: p, Err: syscall.ELOOP}
		}
		target, err := t.root.Readlink(local(next))
		if err != nil {
			return "", err
		}
		if path.IsAbs(target) {
			done = "/"
		}
		parts := strings.FieldsFunc(target, func(r rune) bool { return r == '/' })
		rest = slices.Concat(parts, rest)
	}
	return done, nil
}

// lastLink says whether a link at the end of a path is followed.
type lastLink int

const (
	followLast lastLink = iota
	keepLast
)

// bind finds the bind that a path is below.
func (t cloneTree) bind(p string) (at, source string, ok bool) {
	for inside, host := range t.binds {
		if below(p, inside) && len(inside) >= len(at) {
			at, source, ok = inside, host, true
		}
	}
	return at, source, ok
}

// own checks that a path is the clone's own.
func (t cloneTree) own(p string) error {
	if at, _, ok := t.bind(p); ok {
		return fmt.Errorf("%w: %s is in the bind %s, which is the host's: redirect it, or choose a path outside", ErrEscape, p, at)
	}
	for _, dir := range foreign {
		if below(p, dir) {
			return fmt.Errorf("%w: %s is not part of the app's files", ErrEscape, p)
		}
	}
	return nil
}

// write writes a file aside and renames it into place.
func (t cloneTree) write(f PlannedFile) (err error) {
	wrap := func(err error) error { return fmt.Errorf("write %s: %w", f.Path, err) }
	where, err := t.resolve(f.Path, followLast)
	if err != nil {
		return wrap(err)
	}
	if err := t.own(where); err != nil {
		return wrap(err)
	}
	mode, owner := fs.FileMode(0o644), identity{}
	switch info, err := t.root.Lstat(local(where)); {
	case err == nil && !info.Mode().IsRegular():
		return wrap(errors.New("there is something else than a file"))
	case err == nil:
		mode = info.Mode() & (fs.ModePerm | fs.ModeSetuid | fs.ModeSetgid | fs.ModeSticky)
		owner = ownerOf(info)
	case !errors.Is(err, fs.ErrNotExist):
		return wrap(err)
	}
	if f.Mode != nil {
		mode = *f.Mode
	}
	switch f.Owner {
	case "":
	case rootOwner:
		owner = identity{} // without a look into passwd(5)
	default:
		if owner, err = t.identity(f.Owner); err != nil {
			return wrap(fmt.Errorf("owner %w", err))
		}
	}
	if err := t.root.MkdirAll(local(path.Dir(where)), 0o755); err != nil {
		return wrap(err)
	}
	aside := path.Join(path.Dir(where), ".snapctl-"+newUUID())
	file, err := t.root.OpenFile(local(aside), os.O_WRONLY|os.O_CREATE|os.O_EXCL|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return wrap(err)
	}
	_, err = file.Write(f.Content)
	// chown(2) clears the set-user-ID bit, so the mode comes after it.
	if err = errors.Join(err, file.Chown(owner.uid, owner.gid), file.Chmod(mode), file.Close()); err == nil {
		err = t.root.Rename(local(aside), local(where))
	}
	if err != nil {
		return wrap(errors.Join(err, ignoreMissing(t.root.Remove(local(aside)))))
	}
	return nil
}

// rootOwner is root, whatever the clone calls it.
const rootOwner = "0:0"

func ignoreMissing(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// machineIDs are where the machine id is: machine-id(5), and where D-Bus has its
// own if it was installed without systemd (dbus-uuidgen(1)).
var machineIDs = []string{"/etc/machine-id", "/var/lib/dbus/machine-id"}

func (t cloneTree) machineID(id PlannedMachineID) error {
	if id.ID == "" {
		return nil
	}
	mode := fs.FileMode(0o444)
	for i, name := range machineIDs {
		where, err := t.resolve(name, followLast)
		if err != nil {
			return fmt.Errorf("write %s: %w", name, err)
		}
		info, err := t.root.Lstat(local(where))
		if exists := err == nil && info.Mode().IsRegular(); !exists && (i > 0 || !id.Create) {
			continue
		}
		if err := t.write(PlannedFile{Path: name, Mode: &mode, Content: []byte(id.ID + "\n")}); err != nil {
			return err
		}
	}
	return nil
}

// redirect makes a link, and what it leads to.
func (t cloneTree) redirect(ctx context.Context, r PlannedRedirect) error {
	link, err := t.resolve(r.Path, keepLast)
	if err != nil {
		return err
	}
	if err := t.own(link); err != nil {
		return err
	}
	target, err := t.resolve(r.Target, followLast)
	if err != nil {
		return err
	}
	if below(target, link) || below(link, target) {
		return fmt.Errorf("%w: %s and %s are in one another", ErrInvalid, link, target)
	}
	at, source, bound := t.bind(target)
	dst := t
	if bound {
		outer, err := os.OpenRoot(source)
		if err != nil {
			return err
		}
		defer outer.Close() //nolint:errcheck // only a handle
		dst = cloneTree{root: outer}
	} else if err := t.own(target); err != nil {
		return err
	}
	place := path.Join("/", strings.TrimPrefix(target, at))
	if err := t.move(ctx, link, dst, place); err != nil {
		return err
	}
	if err := t.root.MkdirAll(local(path.Dir(link)), 0o755); err != nil {
		return err
	}
	to, err := filepath.Rel(path.Dir(link), target)
	if err != nil {
		return err
	}
	return t.root.Symlink(to, local(link))
}

// move moves what is at from, if anything, to a place where there is nothing,
// which is made otherwise: as a directory.
func (t cloneTree) move(ctx context.Context, from string, dst cloneTree, to string) error {
	info, err := t.root.Lstat(local(from))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	there := err == nil && info.Mode()&fs.ModeSymlink == 0
	_, err = dst.root.Stat(local(to))
	switch {
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return err
	case err == nil || !there: // what is at the target counts
		if errors.Is(err, fs.ErrNotExist) {
			if err := dst.root.MkdirAll(local(to), 0o755); err != nil {
				return err
			}
		}
		return t.root.RemoveAll(local(from))
	}
	if err := dst.root.MkdirAll(local(path.Dir(to)), 0o755); err != nil {
		return err
	}
	if dst.root == t.root {
		// An overlay refuses to rename a directory of a lower layer
		// (Documentation/filesystems/overlayfs.rst, "redirect_dir").
		if err := t.root.Rename(local(from), local(to)); !errors.Is(err, syscall.EXDEV) {
			return err
		}
	}
	switch {
	case info.IsDir():
		err = t.copyDir(ctx, from, dst, to)
	case info.Mode().IsRegular():
		err = t.copyFile(from, info, dst, to)
	default:
		return errors.New("there is neither a file nor a directory at the path")
	}
	if err != nil {
		return err
	}
	return t.root.RemoveAll(local(from))
}

// copyDir copies a directory aside, where nobody else gets, and renames it into
// place: other apps may have the place too, and make links of what is in it.
func (t cloneTree) copyDir(ctx context.Context, from string, dst cloneTree, to string) (err error) {
	aside := path.Join(path.Dir(to), ".snapctl-"+newUUID())
	if err := dst.root.Mkdir(local(aside), 0o700); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, dst.root.RemoveAll(local(aside))) }()
	whole := path.Join(aside, "whole")
	if err := dst.root.Mkdir(local(whole), 0o700); err != nil {
		return err
	}
	source, err := t.root.Open(local(from))
	if err != nil {
		return err
	}
	defer source.Close() //nolint:errcheck // only a handle
	target, err := dst.root.Open(local(whole))
	if err != nil {
		return err
	}
	defer target.Close() //nolint:errcheck // only a handle
	// By descriptor, so that no link is followed on the way; with "/." since
	// proc_pid_fd(5) itself is a link, of which lchown(2) would not get past.
	err = tree.Copy(ctx, fmt.Sprintf("/proc/self/fd/%d/.", source.Fd()), fmt.Sprintf("/proc/self/fd/%d/.", target.Fd()))
	if err != nil {
		return err
	}
	return dst.root.Rename(local(whole), local(to))
}

func (t cloneTree) copyFile(from string, info fs.FileInfo, dst cloneTree, to string) (err error) {
	in, err := t.root.OpenFile(local(from), os.O_RDONLY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	defer in.Close() //nolint:errcheck // only read from
	out, err := dst.root.OpenFile(local(to), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	owner := ownerOf(info)
	return errors.Join(err, out.Chown(owner.uid, owner.gid), out.Chmod(info.Mode()), out.Close(),
		dst.root.Chtimes(local(to), info.ModTime(), info.ModTime()))
}
