package image

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"github.com/checkpoint-restore/go-criu/v8/crit/images/memfd"
	remap "github.com/checkpoint-restore/go-criu/v8/crit/images/remap-file-path"
	"github.com/checkpoint-restore/go-criu/v8/crit/images/stats"
)

// Inspect reads what a dump says about the processes in it. images is CRIU's
// images directory, or a [View].
//
// It reads all images but memory pages, the content of removed files and other
// raw ones, so that it takes some milliseconds for each process, however large
// that is. It checks no more than it has to: see [Verify].
//
// bases are the names that the dump has for memory files of earlier dumps, see
// [MemoryFiles].
//
// The error wraps [wire.ErrMalformed] or [fs.ErrNotExist] if images are bad or
// missing.
func Inspect(ctx context.Context, images string, bases ...string) (*Info, error) {
	info, err := inspect(ctx, os.DirFS(images), bases...)
	if err != nil {
		return nil, fmt.Errorf("inspect %s: %w", images, err)
	}
	return info, nil
}

func inspect(ctx context.Context, fsys fs.FS, bases ...string) (*Info, error) {
	d, err := openDump(ctx, fsys)
	if err != nil {
		return nil, err
	}
	in := inspection{dump: d, bases: bases, info: &Info{
		Version:     d.inventory.GetImgVersion(),
		TCPClosed:   d.inventory.GetTcpClose(),
		Incremental: d.parent,
	}}
	// The files before the processes, which refer to them, and then what waits
	// to be told where it is open.
	for _, step := range []func(context.Context) error{
		in.fileNames, in.processes, in.openFiles, in.namespaces, in.images, in.statistics,
	} {
		if err := step(ctx); err != nil {
			return nil, err
		}
	}
	in.totals()
	return in.info, nil
}

// An inspection gathers an Info.
type inspection struct {
	dump  *dump
	bases []string
	info  *Info

	names   map[uint32]fileName
	openAt  map[uint32][]DescriptorRef // by file id
	removed map[uint32]struct{}        // file ids
}

// fileNames names all files of the dump.
func (in *inspection) fileNames(context.Context) error {
	in.names = make(map[uint32]fileName, len(in.dump.files))
	for _, file := range in.dump.files {
		in.names[file.GetId()] = nameFile(file)
	}
	in.openAt = make(map[uint32][]DescriptorRef)
	in.removed = make(map[uint32]struct{})
	if err := in.memfdNames(); err != nil {
		return err
	}
	if !in.dump.has("remap-fpath.img") {
		return nil
	}
	remaps, err := readAll[remap.RemapFilePathEntry](in.dump, "remap-fpath.img", TypeRemapPath)
	for _, r := range remaps {
		if _, ghost := ghostID(r); ghost {
			in.removed[r.GetOrigId()] = struct{}{}
		}
	}
	return err
}

// memfdNames gives memfds the names that memfd_create(2) was called with. The
// kernel has one too for memory that is shared without a file.
func (in *inspection) memfdNames() error {
	if !in.dump.has("memfd.img") {
		return nil
	}
	inodes, err := readAll[memfd.MemfdInodeEntry](in.dump, "memfd.img", TypeMemfdInode)
	names := make(map[uint64]string, len(inodes))
	for _, m := range inodes {
		names[m.GetInodeId()] = m.GetName()
	}
	for _, file := range in.dump.files {
		if m := file.GetMemfd(); m != nil {
			in.names[file.GetId()] = fileName{FileMemfd, "memfd:" + names[uint64(m.GetInodeId())]}
		}
	}
	return err
}

func (in *inspection) processes(ctx context.Context) error {
	in.info.Processes = make([]Process, 0, len(in.dump.tree))
	return in.dump.eachTask(ctx, func(t *task) error {
		p := Process{
			PID:  int(t.entry.GetPid()),
			PPID: int(t.entry.GetPpid()),
			PGID: int(t.entry.GetPgid()),
			SID:  int(t.entry.GetSid()),
			Comm: t.core.GetTc().GetComm(),

			State: processState(t.core.GetTc().GetTaskState()),
		}
		p.Threads = make([]Thread, 0, len(t.threads))
		p.Descriptors = make([]Descriptor, 0, len(t.fds))
		if !t.alive() {
			p.ExitCode = t.core.GetTc().GetExitCode()
			in.info.Processes = append(in.info.Processes, p)
			return nil
		}
		for i, c := range t.threads {
			creds := c.GetThreadCore().GetCreds()
			comm := c.GetThreadCore().GetComm()
			if comm == "" {
				comm = p.Comm
			}
			p.Threads = append(p.Threads, Thread{
				TID: int(t.entry.GetThreads()[i]), Comm: comm, UID: creds.GetUid(), GID: creds.GetGid(),
			})
		}
		p.Exe = in.names[t.mm.GetExeFileId()].name
		p.Cwd = in.names[t.fs.GetCwdId()].name
		p.Root = in.names[t.fs.GetRootId()].name
		p.Objects = objects(t)
		for _, fd := range t.fds {
			id := fd.GetId()
			name := in.names[id]
			p.Descriptors = append(p.Descriptors, Descriptor{
				FD: int(fd.GetFd()), File: id, Kind: name.kind, Name: name.name, CloseOnExec: fd.GetFlags()&1 != 0,
			})
			in.openAt[id] = append(in.openAt[id], DescriptorRef{PID: p.PID, FD: int(fd.GetFd())})
		}
		memory, err := in.memory(t)
		if err != nil {
			return fmt.Errorf("read process %d: %w", p.PID, err)
		}
		p.Memory = memory
		in.info.Processes = append(in.info.Processes, p)
		return nil
	})
}

func processState(s uint32) ProcessState {
	switch s {
	case taskAlive:
		return ProcessAlive
	case taskDead:
		return ProcessDead
	case taskStopped:
		return ProcessStopped
	}
	return ProcessOther
}

func objects(t *task) Objects {
	return Objects{
		Memory:   t.ids.GetVmId(),
		FDTable:  t.ids.GetFilesId(),
		FS:       t.ids.GetFsId(),
		Handlers: t.ids.GetSighandId(),
		PIDNS:    t.ids.GetPidNsId(),
		NetNS:    t.ids.GetNetNsId(),
		IPCNS:    t.ids.GetIpcNsId(),
		UTSNS:    t.ids.GetUtsNsId(),
		MountNS:  t.ids.GetMntNsId(),
		UserNS:   t.ids.GetUserNsId(),
		CgroupNS: t.ids.GetCgroupNsId(),
		TimeNS:   t.ids.GetTimeNsId(),
	}
}

// images lists the images, and counts their records where they have any.
func (in *inspection) images(ctx context.Context) error {
	in.info.Images = make([]ImageFile, 0, len(in.dump.order))
	for _, name := range in.dump.order {
		if err := ctx.Err(); err != nil {
			return err
		}
		file := ImageFile{Name: name, Type: "raw", SizeBytes: uint64(in.dump.sizes[name])}
		if want, ok := typeOf(name); ok {
			t, err := walkFile(in.dump.fsys, name, func(Type, []byte, uint64) error {
				file.Records++
				return nil
			})
			if err != nil {
				return err
			}
			if t == 0 { // an empty file
				t = want
			}
			file.Type = t.String()
		}
		in.info.Images = append(in.info.Images, file)
	}
	return nil
}

// statistics reads what CRIU measured, if it is still there.
func (in *inspection) statistics(context.Context) error {
	all, err := readAll[stats.StatsEntry](in.dump, "stats-dump", TypeStats)
	if err != nil || len(all) == 0 || all[0].GetDump() == nil {
		return optional(err)
	}
	s := all[0].GetDump()
	in.info.Dump = &DumpStatistics{
		FreezingUS: s.GetFreezingTime(), FrozenUS: s.GetFrozenTime(),
		MemdumpUS: s.GetMemdumpTime(), MemwriteUS: s.GetMemwriteTime(),
		PagesScanned: s.GetPagesScanned(), PagesWritten: s.GetPagesWritten(),
	}
	return nil
}

func (in *inspection) totals() {
	sum := &in.info.Totals
	sum.Processes = len(in.info.Processes)
	sum.Files = len(in.info.Files)
	sum.Sockets = len(in.info.Sockets)
	for _, p := range in.info.Processes {
		sum.Threads += len(p.Threads)
		if p.Memory != nil {
			sum.MappedBytes += p.Memory.MappedBytes
			sum.ParentBytes += p.Memory.ParentBytes
		}
	}
	for _, file := range in.info.Images {
		sum.ImageBytes += file.SizeBytes
		if strings.HasPrefix(file.Name, "pages-") {
			sum.StoredBytes += file.SizeBytes
		}
	}
}
