package restore

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/snapctl/snapctl/snapshot/hostfile"
	"github.com/snapctl/snapctl/snapshot/image"
	"github.com/snapctl/snapctl/snapshot/memory"
)

// ErrHostFile is a file of the host that a saved app needs and that is not there any more
// as it was, neither on the host nor kept.
var ErrHostFile = errors.New("a file that the app needs is gone or has changed")

// hostFiles are the kept files that CRIU gets in the place of the host's.
type hostFiles struct {
	open   map[string]*os.File // by the key for CRIU to inherit
	byPath map[string]string   // keys without the slash that image.FileChange adds
}

// hostKey names a kept file for CRIU to inherit; no path may be that, as with memoryKey.
func hostKey(f *hostfile.File) string { return string(f.ID[:16]) + "//kept" }

// openHostFiles opens those kept files that take the place of the host's.
func (p *Plan) openHostFiles(ctx context.Context, o Options) (err error) {
	p.host = hostFiles{open: make(map[string]*os.File), byPath: make(map[string]string)}
	defer func() {
		if err != nil {
			p.host.close()
		}
	}()
	place := hostfile.Place{Root: o.Place.Root, Lower: o.Place.Lower, Binds: o.Place.Binds}
	for i := range o.Manifest.HostFiles {
		f := &o.Manifest.HostFiles[i]
		if f.Name == "" && !place.Changed(f) {
			continue
		}
		file, err := openHostFile(ctx, o.HostFiles, f)
		if err != nil {
			restored, rerr := false, error(nil)
			if f.Name == "" {
				restored, rerr = place.Restored(ctx, f)
			}
			if restored {
				continue
			}
			return errors.Join(hostFileError(ctx, o, f, err), rerr)
		}
		key := f.Name
		if key == "" {
			p.host.byPath[f.Path] = hostKey(f)
			key = "/" + hostKey(f)
		}
		p.host.open[key] = file
	}
	return nil
}

// Missing says what of the host is missing for a restore, or has changed, that could not
// be made up for: each an error wrapping [ErrHostFile]. It changes nothing.
func Missing(ctx context.Context, o Options) (missing []error) {
	place := hostfile.Place{Root: o.Place.Root, Lower: o.Place.Lower, Binds: o.Place.Binds}
	for i := range o.Manifest.HostFiles {
		f := &o.Manifest.HostFiles[i]
		if f.Name == "" && !place.Changed(f) {
			continue
		}
		err := errNotKept
		if f.ID != "" {
			err = o.HostFiles.Check(ctx, f, memory.ByStamp)
		}
		if err == nil {
			continue
		}
		if restored, _ := place.Restored(ctx, f); f.Name != "" || !restored {
			missing = append(missing, hostFileError(ctx, o, f, err))
		}
	}
	b, files, err := lookAtBinds(ctx, o.Snapshot.Images(), o)
	if err != nil {
		return append(missing, err)
	}
	b.dry = true
	for _, f := range files {
		if b.mapped[f.ID].Code || b.mounts[f.Mount].root {
			continue
		}
		if err := b.look(ctx, &f, files); err != nil {
			missing = append(missing, err)
		}
	}
	return append(missing, b.refused...)
}

// errNotKept is a file of which there is no copy.
var errNotKept = fmt.Errorf("it is larger than %d MiB, and the file system of the state directory can't share its bytes, so that no copy of it was kept", hostfile.MaxCopyBytes>>20)

func openHostFile(ctx context.Context, store *hostfile.Store, f *hostfile.File) (*os.File, error) {
	if f.ID == "" {
		return nil, errNotKept
	}
	if err := store.Check(ctx, f, memory.ByStamp); err != nil {
		return nil, err
	}
	return store.OpenFile(f)
}

// hostFileError says what is missing, who needs it, and what to do.
func hostFileError(ctx context.Context, o Options, f *hostfile.File, cause error) error {
	users := ""
	if info, err := image.Inspect(ctx, o.Snapshot.Images()); err == nil {
		users = usersOf(info, f.Path)
	}
	return fmt.Errorf("%w: %s%s on this host is not the file that it was when the app was saved: %w; put that file back (%d bytes, SHA-256 %s)",
		ErrHostFile, f.Path, users, cause, f.SizeBytes, f.SHA256)
}

// usersOf names a process that uses a file, for people.
func usersOf(info *image.Info, path string) string {
	for _, f := range info.Files {
		if f.Name == path && len(f.OpenAt) > 0 {
			return fmt.Sprintf(", descriptor %d of process %d,", f.OpenAt[0].FD, f.OpenAt[0].PID)
		}
	}
	for i := range info.Processes {
		p := &info.Processes[i]
		if p.Exe == path {
			return fmt.Sprintf(", the program of process %d,", p.PID)
		}
	}
	return ", which a process maps,"
}

// editHostFiles has CRIU open kept files.
func (p *Plan) editHostFiles(ctx context.Context, view *image.View) error {
	if len(p.host.byPath) == 0 {
		return nil
	}
	mounts, err := image.SavedMounts(view.Dir())
	if err != nil {
		return err
	}
	root := image.RootMount(mounts)
	files, err := image.SavedFiles(ctx, view.Dir())
	if err != nil {
		return err
	}
	changes := make(map[uint32]image.FileChange)
	for _, f := range files {
		if key, ok := p.host.byPath[f.Name]; ok && f.Mount == root && !f.External && !f.Removed {
			changes[f.ID] = image.FileChange{Key: key}
		}
	}
	return view.ChangeFiles(changes)
}

// close closes what openHostFiles opened, which CRIU has of its own by then.
func (h *hostFiles) close() {
	for _, f := range h.open {
		_ = f.Close() // only mapped and read
	}
	h.open = nil
}
