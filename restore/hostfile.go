package restore

import (
	"context"
	"errors"
	"os"

	"github.com/snapctl/snapctl/snapshot/hostfile"
	"github.com/snapctl/snapctl/snapshot/image"
	"github.com/snapctl/snapctl/snapshot/image/openfile"
	"github.com/snapctl/snapctl/snapshot/memory"
)

// hostFiles are the kept files that CRIU gets in the place of the host's.
type hostFiles struct {
	open   map[string]*os.File // by the key for CRIU to inherit
	byPath map[string]string   // keys without the slash that openfile.Change adds
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
	who := users{images: o.Snapshot.Images()}
	var missing []error
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
			missing = append(missing, errors.Join(hostFileError(ctx, &who, f, err), rerr))
			continue
		}
		key := f.Name
		if key == "" {
			p.host.byPath[f.Path] = hostKey(f)
			key = "/" + hostKey(f)
		}
		p.host.open[key] = file
	}
	return errors.Join(missing...)
}

func openHostFile(ctx context.Context, store *hostfile.Store, f *hostfile.File) (*os.File, error) {
	if f.ID == "" {
		return nil, errNotKept
	}
	if err := store.Check(ctx, f, memory.ByStamp); err != nil {
		return nil, err
	}
	return store.OpenFile(f)
}

// editHostFiles has CRIU open kept files.
func (p *Plan) editHostFiles(ctx context.Context, view *image.View) error {
	if len(p.host.byPath) == 0 {
		return nil
	}
	mounts, err := openfile.ReadMounts(view.Dir())
	if err != nil {
		return err
	}
	root := openfile.RootMount(mounts)
	files, err := openfile.ReadSaved(ctx, view.Dir())
	if err != nil {
		return err
	}
	changes := make(map[uint32]openfile.Change)
	for _, f := range files {
		if key, ok := p.host.byPath[f.Name]; ok && f.Mount == root && !f.External && !f.Removed {
			changes[f.ID] = openfile.Change{Key: key}
		}
	}
	return openfile.ChangeSaved(view, changes)
}

// close closes what openHostFiles opened, which CRIU has of its own by then.
func (h *hostFiles) close() {
	for _, f := range h.open {
		_ = f.Close() // only mapped and read
	}
	h.open = nil
}
