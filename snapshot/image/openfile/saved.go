package openfile

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/checkpoint-restore/go-criu/v8/crit/images/mnt"
	"github.com/checkpoint-restore/go-criu/v8/crit/images/regfile"
	remap "github.com/checkpoint-restore/go-criu/v8/crit/images/remap-file-path"
	"google.golang.org/protobuf/proto"

	"github.com/snapctl/snapctl/snapshot/image"
)

// Saved is an open or mapped file, a program, a device or a directory of which a dump
// has only the name. A restore needs it to be there.
type Saved struct {
	ID   uint32 // CRIU's; a file may have several, one for each time it was opened
	Name string // a path, if not External
	// Mount is the mount that Name is on, as Mount.ID.
	Mount int
	Flags int    // open(2) flags
	Mode  uint32 // st_mode, 0 if it was not saved
	// SizeBytes is -1 if the size was not saved.
	SizeBytes int64
	External  bool // it is known by a name that CRIU was told when it saved it
	// Removed tells that the name is gone: the dump has the content, or Link is the name
	// that CRIU has given the file for as long as it is saved (files-reg.c,
	// create_link_remap), since it had another one.
	Removed bool
	Link    string
}

// Mount is a mount that CRIU makes again, or is given.
type Mount struct {
	ID         int
	Mountpoint string
	External   string // the name by which it is given
}

// Names are the paths of files that the processes have open, as they see them. A file that was
// removed has none, and neither has one that is External.
func Names(files []Saved) []string {
	var names []string
	for _, f := range files {
		if strings.HasPrefix(f.Name, "/") && !f.Removed && !f.External {
			names = append(names, f.Name)
		}
	}
	return names
}

// ReadSaved lists the files that the dump in a directory names.
func ReadSaved(ctx context.Context, images string) ([]Saved, error) {
	fail := func(err error) ([]Saved, error) { return nil, fmt.Errorf("list saved files: %w", err) }
	removed, links := make(map[uint32]bool), make(map[uint32]uint32)
	remaps, err := image.ReadRecords(filepath.Join(images, "remap-fpath.img"), image.TypeRemapPath)
	if err != nil {
		return fail(err)
	}
	for _, rec := range remaps {
		var m remap.RemapFilePathEntry
		if err := image.UnmarshalInto(rec.Message, &m); err != nil {
			return fail(err)
		}
		removed[m.GetOrigId()] = true
		if m.GetRemapType() == remap.RemapType_LINKED {
			links[m.GetOrigId()] = m.GetRemapId()
		}
	}
	records, err := image.ReadRecords(filepath.Join(images, "files.img"), image.TypeFiles)
	if err != nil {
		return fail(err)
	}
	var files []Saved
	names := make(map[uint32]string)
	for _, rec := range records {
		if err := ctx.Err(); err != nil {
			return fail(err)
		}
		file, err := image.ParseOpenFile(rec.Message)
		if err != nil {
			return fail(err)
		}
		if file.Kind != image.FileReg {
			continue
		}
		var reg regfile.RegFileEntry
		if err := image.UnmarshalInto(file.Body, &reg); err != nil {
			return fail(err)
		}
		saved := Saved{
			ID: file.ID, Name: reg.GetName(), Mount: int(reg.GetMntId()), Flags: int(reg.GetFlags()), Mode: reg.GetMode(),
			SizeBytes: -1, External: reg.GetExt(), Removed: removed[file.ID],
		}
		if reg.Size != nil {
			saved.SizeBytes = int64(reg.GetSize())
		}
		files = append(files, saved)
		names[saved.ID] = saved.Name
	}
	for i := range files {
		files[i].Link = names[links[files[i].ID]]
	}
	return files, nil
}

// ReadMounts lists the mounts of the dump in a directory.
func ReadMounts(images string) ([]Mount, error) {
	names, err := filepath.Glob(filepath.Join(images, "mountpoints-*.img"))
	if err != nil {
		return nil, fmt.Errorf("list saved mounts: %w", err)
	}
	var mounts []Mount
	for _, name := range names {
		records, err := image.ReadRecords(name, image.TypeMounts)
		if err != nil {
			return nil, fmt.Errorf("list saved mounts: %w", err)
		}
		for _, rec := range records {
			var m mnt.MntEntry
			if err := image.UnmarshalInto(rec.Message, &m); err != nil {
				return nil, fmt.Errorf("list saved mounts: %w", err)
			}
			mounts = append(mounts, Mount{ID: int(m.GetMntId()), Mountpoint: m.GetMountpoint(), External: m.GetExtKey()})
		}
	}
	return mounts, nil
}

// RootMount is the id of the mount of the root directory, or -1.
func RootMount(mounts []Mount) int {
	for _, m := range mounts {
		if m.Mountpoint == "/" {
			return m.ID
		}
	}
	return -1
}

// Change says how a view shows a saved file.
type Change struct {
	// Key, if there is one, names a descriptor that CRIU inherits. CRIU opens that by
	// "/" and the key, and not the file by its name, with the saved flags and at the
	// saved position (files-reg.c, open_path, for an external file that has not got its
	// own descriptor).
	Key string
	// Unchecked has CRIU take the file as it finds it, whatever its size, mode and
	// build id.
	Unchecked bool
}

// ChangeSaved edits what a view says of saved files, by their ids.
func ChangeSaved(v *image.View, changes map[uint32]Change) error {
	if len(changes) == 0 {
		return nil
	}
	img, err := v.Decode("files.img", image.TypeFiles)
	if err != nil {
		return fmt.Errorf("change files: %w", err)
	}
	img.Records = slices.Clone(img.Records)
	for i, rec := range img.Records {
		file, err := image.ParseOpenFile(rec.Message)
		if err != nil {
			return fmt.Errorf("change files: %w", err)
		}
		change, ok := changes[file.ID]
		if !ok || file.Kind != image.FileReg {
			continue
		}
		body, err := change.apply(file.Body)
		if err != nil {
			return fmt.Errorf("change file %#x: %w", file.ID, err)
		}
		if img.Records[i].Message, err = image.AppendAsReg(nil, rec.Message, body); err != nil {
			return fmt.Errorf("change file %#x: %w", file.ID, err)
		}
	}
	if err := v.Replace("files.img", img.Encode()); err != nil {
		return fmt.Errorf("change files: %w", err)
	}
	return nil
}

// apply returns a reg_file_entry with the change in it.
func (c Change) apply(body []byte) ([]byte, error) {
	var reg regfile.RegFileEntry
	if err := image.UnmarshalInto(body, &reg); err != nil {
		return nil, err
	}
	if c.Unchecked || c.Key != "" {
		reg.Size, reg.Mode, reg.BuildId = nil, nil, nil
	}
	if c.Key != "" {
		reg.Name, reg.Ext = new("/"+c.Key), new(true)
	}
	return proto.Marshal(&reg)
}
