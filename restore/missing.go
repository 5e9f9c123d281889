package restore

import (
	"context"
	"errors"
	"fmt"

	"github.com/snapctl/snapctl/snapshot"
	"github.com/snapctl/snapctl/snapshot/hostfile"
	"github.com/snapctl/snapctl/snapshot/image/inspect"
	"github.com/snapctl/snapctl/snapshot/memory"
)

// ErrHostFile is a file of the host that a saved app needs and that is not there any more
// as it was, neither on the host nor kept.
var ErrHostFile = errors.New("a file that the app needs is gone or has changed")

// FileError is a file of the host without which a saved app does not come back.
type FileError struct {
	Path   string // as the app knows it
	Reason string // which file of which process, and what is wrong with it
	Remedy string // what to do
	cause  error
}

// Error implements error.
func (e *FileError) Error() string {
	return fmt.Sprintf("%v: %s; %s", ErrHostFile, e.Reason, e.Remedy)
}

// Unwrap gives [ErrHostFile] and the cause.
func (e *FileError) Unwrap() []error { return []error{ErrHostFile, e.cause} }

// Missing says what of the host is missing for a restore, or has changed, that could not
// be made up for: mostly a [FileError] each. It changes nothing.
//
// With [snapshot.BySize] it reads no file of the host and of the store: it then says
// nothing of a file that has the size and mode that it had, and perhaps another content.
func Missing(ctx context.Context, o Options, depth snapshot.Depth) (missing []error) {
	place := hostfile.Place{Root: o.Place.Root, Lower: o.Place.Lower, Binds: o.Place.Binds}
	who := users{images: o.Snapshot.Images()}
	for i := range o.Manifest.HostFiles {
		f := &o.Manifest.HostFiles[i]
		if f.Name == "" && !place.Changed(f) {
			continue
		}
		err := errNotKept
		if f.ID != "" {
			err = o.HostFiles.Check(ctx, f, depth)
		}
		if err == nil || f.Name == "" && restored(ctx, &place, f, depth) {
			continue
		}
		missing = append(missing, hostFileError(ctx, &who, f, err))
	}
	if !bindsFiles(o.Manifest) {
		return missing
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

// restored tells whether the host has the content of a file again.
func restored(ctx context.Context, place *hostfile.Place, f *hostfile.File, depth snapshot.Depth) bool {
	if depth == memory.BySize {
		return place.Similar(f)
	}
	ok, err := place.Restored(ctx, f)
	return ok && err == nil
}

// bindsFiles tells whether the app sees files of the host by binds.
func bindsFiles(m *snapshot.Manifest) bool {
	for _, e := range m.External {
		if e.Kind == snapshot.ExternalBind {
			return true
		}
	}
	return false
}

// errNotKept is a file of which there is no copy.
var errNotKept = fmt.Errorf("it is larger than %d MiB, and the file system of the state directory can't share its bytes, so that no copy of it was kept", hostfile.MaxCopyBytes>>20)

// hostFileError says what is missing, who needs it, and what to do.
func hostFileError(ctx context.Context, who *users, f *hostfile.File, cause error) error {
	return &FileError{
		Path:   f.Path,
		Reason: fmt.Sprintf("%s%s on this host is not the file that it was when the app was saved: %v", f.Path, who.of(ctx, f.Path), cause),
		Remedy: fmt.Sprintf("put that file back (%d bytes, SHA-256 %s)", f.SizeBytes, f.SHA256),
		cause:  cause,
	}
}

// users knows which processes of a saved app use a file. The images are only read if
// somebody asks.
type users struct {
	images string
	info   *inspect.Info
}

// of names a process that uses a file, for people.
func (u *users) of(ctx context.Context, path string) string {
	if u.info == nil {
		u.info = &inspect.Info{}
		if info, err := inspect.Read(ctx, u.images); err == nil {
			u.info = info
		}
	}
	for _, f := range u.info.Files {
		if f.Name == path && len(f.OpenAt) > 0 {
			return fmt.Sprintf(", descriptor %d of process %d,", f.OpenAt[0].FD, f.OpenAt[0].PID)
		}
	}
	for i := range u.info.Processes {
		if p := &u.info.Processes[i]; p.Exe == path {
			return fmt.Sprintf(", the program of process %d,", p.PID)
		}
	}
	return ", which a process maps,"
}
