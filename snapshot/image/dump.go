package image

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strings"

	"github.com/snapctl/snapctl/snapshot/image/wire"

	core "github.com/checkpoint-restore/go-criu/v8/crit/images/criu-core"
	"github.com/checkpoint-restore/go-criu/v8/crit/images/fdinfo"

	pbfs "github.com/checkpoint-restore/go-criu/v8/crit/images/fs"
	"github.com/checkpoint-restore/go-criu/v8/crit/images/inventory"
	"github.com/checkpoint-restore/go-criu/v8/crit/images/mm"
	"github.com/checkpoint-restore/go-criu/v8/crit/images/pstree"

	remap "github.com/checkpoint-restore/go-criu/v8/crit/images/remap-file-path"
	"google.golang.org/protobuf/proto"
)

// message is a pointer to a generated message type.
type message[T any] interface {
	*T
	proto.Message
}

// A dump is an open directory of images. It holds what is needed to make sense
// of any of them; the images of single processes are read when asked for.
type dump struct {
	fsys  fs.FS
	sizes map[string]int64 // of each image
	order []string         // their names, sorted

	inventory *inventory.InventoryEntry
	tree      []*pstree.PstreeEntry
	files     []*fdinfo.FileEntry
	byID      map[uint32]*fdinfo.FileEntry
	parent    bool
}

func openDump(ctx context.Context, fsys fs.FS) (*dump, error) {
	d, err := openTree(ctx, fsys)
	if err != nil {
		return nil, err
	}
	if d.files, err = readAll[fdinfo.FileEntry](d, "files.img", TypeFiles); err != nil {
		return nil, fmt.Errorf("open dump: %w", err)
	}
	d.byID = make(map[uint32]*fdinfo.FileEntry, len(d.files))
	for _, file := range d.files {
		d.byID[file.GetId()] = file
	}
	return d, nil
}

// openTree opens a dump without its table of files, which may be long.
func openTree(ctx context.Context, fsys fs.FS) (*dump, error) {
	d := &dump{fsys: fsys, sizes: make(map[string]int64)}
	entries, err := fs.ReadDir(fsys, ".")
	if err != nil {
		return nil, fmt.Errorf("open dump: %w", err)
	}
	for _, entry := range entries {
		if entry.Name() == parentLink {
			d.parent = true
		}
		if !isImageName(entry.Name()) {
			continue
		}
		// Not entry.Info: in a view the images are links.
		st, err := fs.Stat(fsys, entry.Name())
		if err != nil {
			return nil, fmt.Errorf("open dump: %w", err)
		}
		d.sizes[entry.Name()] = st.Size()
	}
	d.order = slices.Sorted(maps.Keys(d.sizes))
	if d.inventory, err = readOne[inventory.InventoryEntry](d, "inventory.img", TypeInventory); err != nil {
		return nil, fmt.Errorf("open dump: %w", err)
	}
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("open dump: %w", err)
	}
	if d.tree, err = readAll[pstree.PstreeEntry](d, "pstree.img", TypePstree); err != nil {
		return nil, fmt.Errorf("open dump: %w", err)
	}
	return d, nil
}

// has tells whether the dump has an image with any bytes: CRIU takes an empty
// one for none.
func (d *dump) has(name string) bool { return d.sizes[name] > 0 }

// named returns the images whose name is prefix, a number or the like, ".img".
func (d *dump) named(prefix string) []string {
	var names []string
	for _, name := range d.order {
		if strings.HasPrefix(name, prefix) {
			names = append(names, name)
		}
	}
	return names
}

// each calls fn for each message of an image, which must be of the given type.
func (d *dump) each(name string, want Type, fn func(msg []byte) error) error {
	_, err := walkFile(d.fsys, name, func(t Type, msg []byte, _ uint64) error {
		if t != want {
			return fmt.Errorf("%w: it is of type %s", wire.ErrMalformed, t)
		}
		return fn(msg)
	})
	return err
}

// readAll reads all records of an image as messages of one type.
func readAll[T any, M message[T]](d *dump, name string, want Type) ([]M, error) {
	var all []M
	err := d.each(name, want, func(msg []byte) error {
		m, err := unmarshal[T, M](msg)
		all = append(all, m)
		return err
	})
	return all, err
}

// readOne reads an image that has exactly one record.
func readOne[T any, M message[T]](d *dump, name string, want Type) (M, error) {
	all, err := readAll[T, M](d, name, want)
	if err != nil {
		return nil, err
	}
	if len(all) != 1 {
		return nil, fmt.Errorf("read %s: %w: %d records instead of one", name, wire.ErrMalformed, len(all))
	}
	return all[0], nil
}

func unmarshal[T any, M message[T]](msg []byte) (M, error) {
	m := M(new(T))
	return m, unmarshalInto(msg, m)
}

func unmarshalInto(msg []byte, m proto.Message) error {
	if err := proto.Unmarshal(msg, m); err != nil {
		return fmt.Errorf("parse message: %w: %w", wire.ErrMalformed, err)
	}
	return nil
}

// readPagemap reads a pagemap image.
func (d *dump) readPagemap(name string) (*Pagemap, error) {
	var b pagemapBuilder
	if err := d.each(name, TypePagemap, b.add); err != nil {
		return nil, err
	}
	p, err := b.finish()
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	return p, nil
}

// A task is what the images say of one process. All but the first two fields
// are nil for a dead one.
type task struct {
	entry *pstree.PstreeEntry
	core  *core.CoreEntry

	ids     *core.TaskKobjIdsEntry
	fs      *pbfs.FsEntry
	mm      *mm.MmEntry
	pages   *Pagemap
	fds     []*fdinfo.FdinfoEntry
	threads []*core.CoreEntry // in the order of entry.Threads
}

// The states of a task (compel/include/uapi/task-state.h).
const (
	taskAlive   = 1
	taskDead    = 2
	taskStopped = 3
)

// alive tells whether the process had memory and files.
func (t *task) alive() bool {
	s := t.core.GetTc().GetTaskState()
	return s == taskAlive || s == taskStopped
}

// task reads the images of one process.
func (d *dump) task(entry *pstree.PstreeEntry) (_ *task, err error) {
	pid := entry.GetPid()
	defer func() {
		if err != nil {
			err = fmt.Errorf("read process %d: %w", pid, err)
		}
	}()
	t, err := d.memoryTask(entry)
	if err != nil || !t.alive() {
		return t, err
	}
	if t.ids, err = readOne[core.TaskKobjIdsEntry](d, fmt.Sprintf("ids-%d.img", pid), TypeIDs); err != nil {
		return nil, err
	}
	if t.fs, err = readOne[pbfs.FsEntry](d, fmt.Sprintf("fs-%d.img", pid), TypeFS); err != nil {
		return nil, err
	}
	t.fds, err = readAll[fdinfo.FdinfoEntry](d, fmt.Sprintf("fdinfo-%d.img", t.ids.GetFilesId()), TypeFdinfo)
	return t, err
}

// memoryTask reads the core, mm and pagemap images of one process.
func (d *dump) memoryTask(entry *pstree.PstreeEntry) (*task, error) {
	pid := entry.GetPid()
	t := &task{entry: entry}
	var err error
	if t.core, err = d.core(pid); err != nil || !t.alive() {
		return t, err
	}
	for _, tid := range entry.GetThreads() {
		c := t.core
		if tid != pid {
			if c, err = d.core(tid); err != nil {
				return nil, err
			}
		}
		t.threads = append(t.threads, c)
	}
	if t.mm, err = readOne[mm.MmEntry](d, fmt.Sprintf("mm-%d.img", pid), TypeMM); err != nil {
		return nil, err
	}
	t.pages, err = d.readPagemap(fmt.Sprintf("pagemap-%d.img", pid))
	return t, err
}

func (d *dump) core(tid uint32) (*core.CoreEntry, error) {
	return readOne[core.CoreEntry](d, fmt.Sprintf("core-%d.img", tid), TypeCore)
}

// eachTask calls fn for each process, parents first.
func (d *dump) eachTask(ctx context.Context, fn func(*task) error) error {
	for _, entry := range d.tree {
		if err := ctx.Err(); err != nil {
			return err
		}
		t, err := d.task(entry)
		if err == nil {
			err = fn(t)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// optional makes a missing image no error.
func optional(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// ghostID tells whether a file had no name any more, so that its content is in
// the ghost file of that number. Old versions of CRIU set a bit of the number instead of a type.
func ghostID(r *remap.RemapFilePathEntry) (uint32, bool) {
	const ghostBit = 1 << 31 // REMAP_GHOST in criu/include/image.h
	if r.RemapType == nil && r.GetRemapId()&ghostBit != 0 {
		return r.GetRemapId() &^ ghostBit, true
	}
	return r.GetRemapId(), r.GetRemapType() == remap.RemapType_GHOST
}

// marshal is for messages without required fields that may be missing.
func marshal(m proto.Message) ([]byte, error) {
	b, err := proto.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("encode message: %w", err)
	}
	return b, nil
}
