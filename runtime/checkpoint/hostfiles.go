package checkpoint

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/snapctl/snapctl/snapshot"
	"github.com/snapctl/snapctl/snapshot/hostfile"
	"github.com/snapctl/snapctl/snapshot/image/openfile"
	"github.com/snapctl/snapctl/snapshot/memory"
	"github.com/snapctl/snapctl/snapshot/paths"
)

// hostFiles are the files of the host that an app needs which is being saved.
type hostFiles struct {
	store  *hostfile.Store
	have   map[string]hostfile.File // those that it has from the store, by CRIU's names
	kept   []hostfile.File          // all that the images need
	pinned []hostfile.File
	bound  []hostfile.Bound // all of binds that they need
	// own are those that were copied for what is being saved.
	own map[memory.ID]bool
}

// take notes which of files are the saved app's own.
func (h *hostFiles) take(files ...hostfile.File) {
	for i := range files {
		if files[i].Own {
			h.own[files[i].ID] = true
		}
	}
}

// hostPlace is an app's root directory, to package hostfile.
func (t *Tools) hostPlace(s *Subject) hostfile.Place {
	own := []string{s.Box.Upper()}
	for _, l := range s.Layers {
		own = append(own, t.Layers.Path(l.ID))
	}
	return hostfile.Place{
		Binds: bindsOf(s.Box.Spec),
		Root:  s.Box.Root(), Lower: s.Box.Spec.Root.Path, Own: own,
	}
}

// bindsOf are the host's directories and files by where the app has them.
func bindsOf(spec *specs.Spec) map[string]string {
	binds := make(map[string]string, len(spec.Mounts))
	for _, m := range spec.Mounts {
		binds[m.Destination] = m.Source
	}
	return binds
}

// warmHostFiles keeps the files of the host that a running app uses, before it is frozen.
// What was copied for the app before is its own again if it is hibernated.
func (t *Tools) warmHostFiles(ctx context.Context, s *Subject, after snapshot.After) (_ *hostFiles, err error) {
	pids, err := s.cgroup().PIDs()
	if err != nil {
		return nil, err
	}
	h := &hostFiles{store: t.HostFiles, own: make(map[memory.ID]bool)}
	if after == snapshot.End {
		h.take(s.HostFiles...)
	}
	if h.have, err = t.HostFiles.Names(pids, s.HostFiles); err != nil {
		return nil, err
	}
	warm := t.HostFiles.Warm(ctx, pids, t.hostPlace(s))
	h.pinned = warm.Kept
	h.take(slices.Concat(warm.Kept, slices.Collect(maps.Values(warm.Replaced)))...)
	maps.Copy(h.have, warm.Replaced)
	return h, ctx.Err()
}

// keepFiles looks whether the images name files that are where they say, and keeps those
// of the host that they need, while the app is frozen. seen are the paths that were looked
// at before.
func (o *taking) keepFiles(ctx context.Context, t *Tools, s *Subject, images string, seen *paths.Seen) error {
	files, err := openfile.ReadSaved(ctx, images)
	if err != nil {
		return err
	}
	if err := seen.Check(ctx, images, files); err != nil {
		return err
	}
	return o.host.keep(ctx, t, s, images, files)
}

// keep keeps those that the images need, while the app is frozen.
func (h *hostFiles) keep(ctx context.Context, t *Tools, s *Subject, images string, files []openfile.Saved) (err error) {
	place := t.hostPlace(s)
	h.kept, err = h.store.KeepSaved(ctx, images, files, place, h.have)
	if err != nil {
		return fmt.Errorf("keep files of the host: %w", err)
	}
	if h.bound, err = hostfile.BoundFiles(ctx, images, files, place.Binds); err != nil {
		return fmt.Errorf("look at files of binds: %w", err)
	}
	h.pinned = append(h.pinned, h.kept...)
	for i := range h.kept {
		if h.kept[i].Name == "" { // else the app has it from the store
			h.take(h.kept[i])
		}
		h.kept[i].Own = h.own[h.kept[i].ID]
		if f := &h.kept[i]; f.ID == "" {
			s.Note(fmt.Sprintf("no copy of %s is kept (%d MiB): if that file of the host changes, the app can't come back before it is put back", f.Path, f.SizeBytes>>20),
				"put the state directory on a file system that shares bytes between files (xfs, btrfs), or leave the file alone")
		}
	}
	return nil
}

// unpin lets go of what the manifest names by now, or nobody needs.
func (h *hostFiles) unpin() {
	h.store.Unpin(h.pinned)
	h.pinned = nil
}
