package cargo

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"os"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/runtime/fault"
	"github.com/snapctl/snapctl/snapshot"
	"github.com/snapctl/snapctl/snapshot/hostfile"
	"github.com/snapctl/snapctl/snapshot/layer"
	"github.com/snapctl/snapctl/snapshot/memory"
	"github.com/snapctl/snapctl/snapshot/tree"
)

// intake is one snapshot that is being received.
type intake struct {
	link     *link
	stores   Stores
	m        *snapshot.Manifest // as the source has it, and after adopt as this host has it
	contents []memory.ID        // of the layers
	features []string
	target   string
	plan     plan
	partial  *snapshot.Partial
	meter    meter

	here  here // what is in the stores, and pinned
	came  came // what has been received, and is in no store
	clean []func() error
}

// here is what this host has of what is offered, pinned, as it has it.
type here struct {
	memory map[memory.ID]memory.File
	files  map[memory.ID]hostfile.File
	layers map[memory.ID]layer.Ref // by content
}

// came is what has been received: where it is, by what it is said to be. A nil is still to come.
type came struct {
	memory map[memory.ID]*blob
	files  map[memory.ID]*blob
	layers map[memory.ID]*grove
	own    *grove
}

// blob is a file that was received.
type blob struct {
	path     string
	size     int64
	modified unix.Timespec
}

// grove is a tree that is received.
type grove struct {
	path    string
	filler  *tree.Filler
	content hash.Hash      // of its entries
	files   []tree.File    // what is to be there
	index   map[string]int // of files
	left    int64          // bytes that its files may have
}

func newGrove(path string, size int64) *grove {
	return &grove{left: size, path: path, filler: tree.NewFiller(path), content: sha256.New(), index: make(map[string]int)}
}

// note notes what a file is to be. It has been made.
func (g *grove) note(e *tree.Entry) {
	if string(e.Path) == "." {
		return
	}
	f := e.File()
	if e.Other != nil {
		f = g.files[g.index[string(e.Other)]]
		f.Path = string(e.Path)
	}
	g.index[f.Path] = len(g.files)
	g.files = append(g.files, f)
}

// survey looks what of the offer is here, pins it, and says what is missing.
func (in *intake) survey(ctx context.Context) (want, error) {
	in.here = here{make(map[memory.ID]memory.File), make(map[memory.ID]hostfile.File), make(map[memory.ID]layer.Ref)}
	in.came = came{memory: make(map[memory.ID]*blob), files: make(map[memory.ID]*blob), layers: make(map[memory.ID]*grove)}
	var w want
	for _, f := range in.m.MemoryFiles() {
		if _, known := in.here.memory[f.ID]; known {
			continue
		}
		if _, lacks := in.came.memory[f.ID]; lacks {
			continue
		}
		got, ok, err := in.stores.Memory.Have(ctx, f.ID, f.SizeBytes)
		if err != nil {
			return w, err
		}
		if ok {
			in.here.memory[f.ID] = got
			in.meter.save(f.SizeBytes)
			continue
		}
		in.came.memory[f.ID] = nil
		w.Memory = append(w.Memory, f.ID)
	}
	if err := in.surveyFiles(ctx, &w); err != nil {
		return w, err
	}
	found, err := in.stores.Layers.Find(in.contents)
	in.here.layers = found
	if err != nil {
		return w, err
	}
	for i, c := range in.contents {
		if _, lacks := in.came.layers[c]; lacks {
			continue
		}
		if ref, ok := found[c]; ok && in.stores.Layers.Check(ctx, ref, memory.ByStamp) == nil {
			in.meter.save(in.m.Layers[i].SizeBytes)
			continue
		} else if ok { // it is damaged
			in.stores.Layers.Unpin([]layer.Ref{ref})
			delete(found, c)
		}
		in.came.layers[c] = nil
		w.Contents = append(w.Contents, c)
	}
	return w, ctx.Err()
}

// surveyFiles is survey for kept files: this host may have such a file itself.
func (in *intake) surveyFiles(ctx context.Context, w *want) error {
	place := hostfile.Place{Lower: in.m.Spec.Root.Path}
	for _, f := range in.m.HostFiles {
		_, known := in.here.files[f.ID]
		_, lacks := in.came.files[f.ID]
		if f.ID == "" || known || lacks {
			continue
		}
		got, ok, err := in.stores.HostFiles.KeepAlike(ctx, f, place)
		if err == nil && !ok {
			got, ok, err = in.stores.HostFiles.Have(ctx, f)
		}
		if err != nil {
			return err
		}
		if ok {
			in.here.files[f.ID] = got
			in.meter.save(f.SizeBytes)
			continue
		}
		in.came.files[f.ID] = nil
		w.Files = append(w.Files, f.ID)
	}
	return nil
}

// files receives all files.
func (in *intake) files(ctx context.Context) error {
	var it item
	var out *sink
	var entry *tree.Entry
	var into *grove
	// finish ends the file that is being received, if one is.
	finish := func() error {
		if out == nil {
			return nil
		}
		in.meter.file(out.rest(), in.link.got)
		file := out.file
		out = nil
		var err error
		if entry != nil {
			err = into.filler.Complete(entry, file)
		} else {
			err = errors.Join(file.Truncate(in.came.size(it)), file.Close())
		}
		return errors.Join(err, fault.Point(ctx, Filling))
	}
	defer func() {
		if out != nil {
			_ = out.file.Close() // it is removed
		}
	}()
	for {
		k, b, err := in.link.get()
		if err != nil {
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		if k == kindData {
			at, data, err := in.link.takeData(b)
			if err != nil {
				return err
			}
			if out == nil {
				return malformed("a piece of no file")
			}
			n, err := out.write(at, data)
			if err != nil {
				return err
			}
			in.meter.bytes(n, in.link.got)
			continue
		}
		if err := finish(); err != nil {
			return err
		}
		switch k { //nolint:exhaustive // others are refused by decode
		case kindItem:
			it, entry = item{}, nil
			if err := decode(in.link, k, b, kindItem, &it); err != nil {
				return err
			}
			if out, into, err = in.begin(it); err != nil {
				return err
			}
		case kindEntry:
			if into == nil {
				return malformed("a file of no tree")
			}
			entry = new(tree.Entry)
			if err := decode(in.link, k, b, kindEntry, entry); err != nil {
				return err
			}
			if out, err = in.entry(into, entry); err != nil {
				return err
			}
		case kindEnd:
			return in.complete()
		default:
			return decode(in.link, k, b, kindEnd, &struct{}{})
		}
	}
}

// begin makes place for what is sent next.
func (in *intake) begin(it item) (*sink, *grove, error) {
	blobs, id, temporary := in.came.memory, it.Memory, in.stores.Memory.Temporary
	if it.File != "" {
		blobs, id, temporary = in.came.files, it.File, in.stores.HostFiles.Temporary
	}
	switch {
	case it.Memory != "" && (it.File != "" || it.Content != ""), it.File != "" && it.Content != "":
		return nil, nil, malformed("an item of two kinds")
	case id != "":
		if b, wanted := blobs[id]; !wanted || b != nil {
			return nil, nil, malformed("a file that was not asked for")
		}
		path, done := temporary()
		in.clean = append(in.clean, done)
		file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
		if err != nil {
			return nil, nil, fmt.Errorf("receive: %w", err)
		}
		b := &blob{path: path, size: in.sizeOf(it), modified: unix.Timespec{Sec: it.Seconds, Nsec: it.Nanoseconds}}
		blobs[id] = b
		return &sink{file: file, size: b.size, volatile: in.m.Passing && it.Memory != ""}, nil, nil
	case it.Content != "":
		if g, wanted := in.came.layers[it.Content]; !wanted || g != nil {
			return nil, nil, malformed("a layer that was not asked for")
		}
		path, done := in.stores.Layers.Temporary()
		in.clean = append(in.clean, done)
		g := newGrove(path, in.m.Layers[slices.Index(in.contents, it.Content)].SizeBytes)
		in.came.layers[it.Content] = g
		return nil, g, nil
	}
	if in.came.own != nil {
		return nil, nil, malformed("the snapshot's own files twice")
	}
	size := int64(0)
	for i := range in.m.Files {
		size += in.m.Files[i].SizeBytes
	}
	in.came.own = newGrove(string(in.partial.Dir()), size)
	return nil, in.came.own, nil
}

// sizeOf is how large a file is that is received.
func (in *intake) sizeOf(it item) int64 {
	for i := range in.m.Memory {
		if in.m.Memory[i].ID == it.Memory {
			return in.m.Memory[i].SizeBytes
		}
	}
	for i := range in.m.HostFiles {
		if in.m.HostFiles[i].ID == it.File {
			return in.m.HostFiles[i].SizeBytes
		}
	}
	return 0
}

// size is how large the file of an item is.
func (c *came) size(it item) int64 {
	if b := c.memory[it.Memory]; b != nil {
		return b.size
	}
	if b := c.files[it.File]; b != nil {
		return b.size
	}
	return 0
}

// entry makes a file of a tree.
func (in *intake) entry(g *grove, e *tree.Entry) (*sink, error) {
	if len(g.files) > in.plan.Files {
		return nil, malformed("more files than were announced")
	}
	if e.HasData() {
		g.left -= e.SizeBytes
	}
	if g.left < 0 {
		return nil, malformed("files that are larger than the manifest says")
	}
	if err := e.Write(g.content); err != nil {
		return nil, err
	}
	file, err := g.filler.Make(e)
	if err != nil {
		return nil, err
	}
	g.note(e)
	if file != nil {
		return &sink{file: file, size: e.SizeBytes}, nil
	}
	in.meter.file(0, in.link.got)
	return nil, g.filler.Complete(e, nil)
}

// complete makes sure that everything has come.
func (in *intake) complete() error {
	missing := in.came.own == nil
	for _, b := range in.came.memory {
		missing = missing || b == nil
	}
	for _, b := range in.came.files {
		missing = missing || b == nil
	}
	for _, g := range in.came.layers {
		missing = missing || g == nil
	}
	if missing {
		return malformed("less than it was asked for")
	}
	for c, g := range in.came.layers {
		if hex.EncodeToString(g.content.Sum(nil)) != string(c) {
			return fmt.Errorf("%w: a layer has other files than were offered", tree.ErrDamaged)
		}
		if err := g.filler.Close(); err != nil {
			return err
		}
	}
	return in.came.own.filler.Close()
}

// unpin lets go of what is in the stores.
func (in *intake) unpin() {
	for _, f := range in.here.memory {
		in.stores.Memory.Unpin([]memory.File{f})
	}
	for _, f := range in.here.files {
		in.stores.HostFiles.Unpin([]hostfile.File{f})
	}
	for _, l := range in.here.layers {
		in.stores.Layers.Unpin([]layer.Ref{l})
	}
}

// tidy removes what was received and is in no store.
func (in *intake) tidy() error {
	var errs []error
	for _, done := range in.clean {
		errs = append(errs, done())
	}
	if in.partial != nil {
		errs = append(errs, in.partial.Discard())
	}
	return errors.Join(errs...)
}
