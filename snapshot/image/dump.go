package image

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strings"

	core "github.com/checkpoint-restore/go-criu/v8/crit/images/criu-core"
	"github.com/checkpoint-restore/go-criu/v8/crit/images/fdinfo"
	pbfs "github.com/checkpoint-restore/go-criu/v8/crit/images/fs"
	"github.com/checkpoint-restore/go-criu/v8/crit/images/inventory"
	"github.com/checkpoint-restore/go-criu/v8/crit/images/mm"
	"github.com/checkpoint-restore/go-criu/v8/crit/images/pstree"
	remap "github.com/checkpoint-restore/go-criu/v8/crit/images/remap-file-path"
	"google.golang.org/protobuf/proto"

	"github.com/snapctl/snapctl/snapshot/image/wire"
)

// Message is a pointer to a generated message type.
type Message[T any] interface {
	*T
	proto.Message
}

// A Dump is an open directory of images. It holds what is needed to make sense
// of any of them; the images of single processes are read when asked for.
type Dump struct {
	FS    fs.FS
	Sizes map[string]int64 // of each image, in bytes
	Names []string         // of all images, sorted

	Inventory *inventory.InventoryEntry
	Tree      []*pstree.PstreeEntry // the processes, parents first
	Files     []*fdinfo.FileEntry   // all open files; empty after [OpenTree]
	ByID      map[uint32]*fdinfo.FileEntry
	Parent    bool // it builds on another dump
}

// OpenDump opens the dump in a file system, with its table of files.
//
// It returns an error wrapping [wire.ErrMalformed] or [fs.ErrNotExist] if the images
// that all others build on are bad or missing.
func OpenDump(ctx context.Context, fsys fs.FS) (*Dump, error) {
	d, err := OpenTree(ctx, fsys)
	if err != nil {
		return nil, err
	}
	if d.Files, err = ReadAll[fdinfo.FileEntry](d, "files.img", TypeFiles); err != nil {
		return nil, fmt.Errorf("open dump: %w", err)
	}
	d.ByID = make(map[uint32]*fdinfo.FileEntry, len(d.Files))
	for _, file := range d.Files {
		d.ByID[file.GetId()] = file
	}
	return d, nil
}

// OpenTree opens a dump without its table of files, which may be long.
func OpenTree(ctx context.Context, fsys fs.FS) (*Dump, error) {
	d := &Dump{FS: fsys, Sizes: make(map[string]int64)}
	entries, err := fs.ReadDir(fsys, ".")
	if err != nil {
		return nil, fmt.Errorf("open dump: %w", err)
	}
	for _, entry := range entries {
		if entry.Name() == parentLink {
			d.Parent = true
		}
		if !isImageName(entry.Name()) {
			continue
		}
		// Not entry.Info: in a view the images are links.
		st, err := fs.Stat(fsys, entry.Name())
		if err != nil {
			return nil, fmt.Errorf("open dump: %w", err)
		}
		d.Sizes[entry.Name()] = st.Size()
	}
	d.Names = slices.Sorted(maps.Keys(d.Sizes))
	if d.Inventory, err = ReadOne[inventory.InventoryEntry](d, "inventory.img", TypeInventory); err != nil {
		return nil, fmt.Errorf("open dump: %w", err)
	}
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("open dump: %w", err)
	}
	if d.Tree, err = ReadAll[pstree.PstreeEntry](d, "pstree.img", TypePstree); err != nil {
		return nil, fmt.Errorf("open dump: %w", err)
	}
	return d, nil
}

// Has tells whether the dump has an image with any bytes: CRIU takes an empty
// one for none.
func (d *Dump) Has(name string) bool { return d.Sizes[name] > 0 }

// Named returns the images whose name is prefix, a number or the like, ".img".
func (d *Dump) Named(prefix string) []string {
	var names []string
	for _, name := range d.Names {
		if strings.HasPrefix(name, prefix) {
			names = append(names, name)
		}
	}
	return names
}

// Each calls fn for each message of an image, which must be of the given type.
func (d *Dump) Each(name string, want Type, fn func(msg []byte) error) error {
	_, err := WalkFile(d.FS, name, func(t Type, msg []byte, _ uint64) error {
		if t != want {
			return fmt.Errorf("%w: it is of type %s", wire.ErrMalformed, t)
		}
		return fn(msg)
	})
	return err
}

// ReadAll reads all records of an image as messages of one type.
func ReadAll[T any, M Message[T]](d *Dump, name string, want Type) ([]M, error) {
	var all []M
	err := d.Each(name, want, func(msg []byte) error {
		m, err := Unmarshal[T, M](msg)
		all = append(all, m)
		return err
	})
	return all, err
}

// ReadOne reads an image that has exactly one record.
func ReadOne[T any, M Message[T]](d *Dump, name string, want Type) (M, error) {
	all, err := ReadAll[T, M](d, name, want)
	if err != nil {
		return nil, err
	}
	if len(all) != 1 {
		return nil, fmt.Errorf("read %s: %w: %d records instead of one", name, wire.ErrMalformed, len(all))
	}
	return all[0], nil
}

// Unmarshal parses a message. It returns an error wrapping [wire.ErrMalformed] if it can't
// be parsed, or lacks a field that CRIU requires.
func Unmarshal[T any, M Message[T]](msg []byte) (M, error) {
	m := M(new(T))
	return m, UnmarshalInto(msg, m)
}

// UnmarshalInto is [Unmarshal] for a message that is there already.
func UnmarshalInto(msg []byte, m proto.Message) error {
	if err := proto.Unmarshal(msg, m); err != nil {
		return fmt.Errorf("parse message: %w: %w", wire.ErrMalformed, err)
	}
	return nil
}

// ReadPagemap reads a pagemap image.
func (d *Dump) ReadPagemap(name string) (*Pagemap, error) {
	var b pagemapBuilder
	if err := d.Each(name, TypePagemap, b.add); err != nil {
		return nil, err
	}
	p, err := b.finish()
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	return p, nil
}

// A Task is what the images say of one process. All but the first two fields
// are nil for a dead one.
type Task struct {
	Entry *pstree.PstreeEntry
	Core  *core.CoreEntry

	IDs     *core.TaskKobjIdsEntry
	FS      *pbfs.FsEntry
	MM      *mm.MmEntry
	Pages   *Pagemap
	FDs     []*fdinfo.FdinfoEntry
	Threads []*core.CoreEntry // in the order of entry.Threads
}

// The states of a task (compel/include/uapi/task-state.h).
const (
	TaskAlive   = 1
	TaskDead    = 2
	TaskStopped = 3
)

// Alive tells whether the process had memory and files.
func (t *Task) Alive() bool {
	s := t.Core.GetTc().GetTaskState()
	return s == TaskAlive || s == TaskStopped
}

// Task reads the images of one process.
func (d *Dump) Task(entry *pstree.PstreeEntry) (_ *Task, err error) {
	pid := entry.GetPid()
	defer func() {
		if err != nil {
			err = fmt.Errorf("read process %d: %w", pid, err)
		}
	}()
	t, err := d.MemoryTask(entry)
	if err != nil || !t.Alive() {
		return t, err
	}
	if t.IDs, err = ReadOne[core.TaskKobjIdsEntry](d, fmt.Sprintf("ids-%d.img", pid), TypeIDs); err != nil {
		return nil, err
	}
	if t.FS, err = ReadOne[pbfs.FsEntry](d, fmt.Sprintf("fs-%d.img", pid), TypeFS); err != nil {
		return nil, err
	}
	t.FDs, err = ReadAll[fdinfo.FdinfoEntry](d, fmt.Sprintf("fdinfo-%d.img", t.IDs.GetFilesId()), TypeFdinfo)
	return t, err
}

// MemoryTask reads the core, mm and pagemap images of one process.
func (d *Dump) MemoryTask(entry *pstree.PstreeEntry) (*Task, error) {
	pid := entry.GetPid()
	t := &Task{Entry: entry}
	var err error
	if t.Core, err = d.core(pid); err != nil || !t.Alive() {
		return t, err
	}
	for _, tid := range entry.GetThreads() {
		c := t.Core
		if tid != pid {
			if c, err = d.core(tid); err != nil {
				return nil, err
			}
		}
		t.Threads = append(t.Threads, c)
	}
	if t.MM, err = ReadOne[mm.MmEntry](d, fmt.Sprintf("mm-%d.img", pid), TypeMM); err != nil {
		return nil, err
	}
	t.Pages, err = d.ReadPagemap(fmt.Sprintf("pagemap-%d.img", pid))
	return t, err
}

func (d *Dump) core(tid uint32) (*core.CoreEntry, error) {
	return ReadOne[core.CoreEntry](d, fmt.Sprintf("core-%d.img", tid), TypeCore)
}

// EachTask calls fn for each process, parents first.
func (d *Dump) EachTask(ctx context.Context, fn func(*Task) error) error {
	for _, entry := range d.Tree {
		if err := ctx.Err(); err != nil {
			return err
		}
		t, err := d.Task(entry)
		if err == nil {
			err = fn(t)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// Optional makes a missing image no error.
func Optional(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// GhostID tells whether a file had no name any more, so that its content is in
// the ghost file of that number. Old versions of CRIU set a bit of the number instead of a type.
func GhostID(r *remap.RemapFilePathEntry) (uint32, bool) {
	const ghostBit = 1 << 31 // REMAP_GHOST in criu/include/image.h
	if r.RemapType == nil && r.GetRemapId()&ghostBit != 0 {
		return r.GetRemapId() &^ ghostBit, true
	}
	return r.GetRemapId(), r.GetRemapType() == remap.RemapType_GHOST
}

// Marshal is for messages without required fields that may be missing.
func Marshal(m proto.Message) ([]byte, error) {
	b, err := proto.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("encode message: %w", err)
	}
	return b, nil
}
