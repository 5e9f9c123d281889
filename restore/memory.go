package restore

import (
	"context"
	"os"

	"github.com/snapctl/snapctl/snapshot/image"
	"github.com/snapctl/snapctl/snapshot/image/memmap"
	"github.com/snapctl/snapctl/snapshot/memory"
)

// memoryKey names a memory file for CRIU to inherit; what differs comes first, as
// with sockets. CRIU would inherit it as well for a file of the app that has this
// path, and the app can read in its own maps what the digest is: so it is none that
// the kernel would ever give a file (fs/d_path.c).
func memoryKey(id memory.ID) string { return string(id[:16]) + "//memory" }

// openMemory opens the memory files that CRIU is to map; none if it is to copy.
func (p *Plan) openMemory(o Options) error {
	if len(p.memory) == 0 || o.Pages == Copy {
		return nil
	}
	mappable, err := o.Memory.Mappable()
	if err != nil || !mappable {
		return err
	}
	p.mapped = make(map[string]*os.File, len(p.memory))
	for _, m := range p.memory {
		key := memoryKey(m.ID)
		if p.mapped[key] != nil {
			continue
		}
		f, err := o.Memory.OpenFile(m.ID)
		if err != nil {
			p.closeMemory()
			return err
		}
		p.mapped[key] = f
	}
	return nil
}

// editMemory has memory mapped or copied.
func (p *Plan) editMemory(ctx context.Context, view *image.View, o Options) error {
	switch {
	case len(p.memory) == 0 || p.rehearsal: // that a memory file is there is checked without, and to copy takes long
		return nil
	case p.mapped == nil:
		return p.copyMemory(ctx, view, o.Memory)
	default:
		return p.mapMemory(ctx, view)
	}
}

// mapMemory edits a view so that CRIU maps memory files, and notes which.
func (p *Plan) mapMemory(ctx context.Context, view *image.View) (err error) {
	files := memmap.Files{Pages: make(map[string]string), Bases: make(map[string]memmap.File)}
	for _, m := range p.memory {
		key := memoryKey(m.ID)
		if m.Image != "" {
			files.Pages[m.Image] = key
		}
		for _, name := range m.Names {
			files.Bases[name] = memmap.File{Key: key, SizeBytes: m.SizeBytes}
		}
	}
	p.used, err = memmap.Map(ctx, view, files)
	return err
}

// copyMemory edits a view so that it needs no memory file but its own.
func (p *Plan) copyMemory(ctx context.Context, view *image.View, store *memory.Store) (err error) {
	bases := make(map[string]*os.File)
	defer func() {
		for _, f := range bases {
			_ = f.Close() // only read from
		}
	}()
	for _, m := range p.memory {
		for _, name := range m.Names {
			if bases[name], err = store.OpenFile(m.ID); err != nil {
				delete(bases, name)
				return err
			}
		}
	}
	if len(bases) == 0 {
		return nil
	}
	return memmap.Copy(ctx, view, bases)
}

// closeMemory closes what openMemory opened, which CRIU has of its own by then.
func (p *Plan) closeMemory() {
	for _, f := range p.mapped {
		_ = f.Close() // only mapped
	}
	p.mapped = nil
}
